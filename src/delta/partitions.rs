//! Partition values as a Delta table can hold them.
//!
//! The log has partition values as text, and the protocol reads an empty one as null: an empty string in a partition column
//! cannot be stored. [`as_stored`] makes it the null that readers will see, before constraints are checked, keys are compared
//! and the change feed is written, so that all of them agree. [`ShortPaths`] keeps folder names within what file systems and
//! stores allow.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::compute::kernels::nullif::nullif;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use sha2::{Digest, Sha256};

use super::lengths::TextLengths;
use crate::error::{Context, Result};

/// Longest folder name that local file systems allow.
const LONGEST_NAME: usize = 255;
/// Of a longer path, names above [`LONG_NAME`] are replaced: stores allow about 1,000 bytes, the table's own path included.
const LONGEST_PATH: usize = 700;
const LONG_NAME: usize = 150;
/// The name that stands for a null value in Hive's folder layout.
const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// `rows` as the table holds them: an empty value in a partition column of text or bytes becomes null, and that column nullable;
/// a CHAR(n) has its blanks.
pub(super) fn as_stored(
    rows: &RecordBatch,
    partition_columns: &[String],
    lengths: &TextLengths,
) -> Result<RecordBatch> {
    if lengths.is_empty() {
        return without_empty_values(rows, partition_columns);
    }
    without_empty_values(&lengths.as_stored(rows)?, partition_columns)
}

fn without_empty_values(rows: &RecordBatch, partition_columns: &[String]) -> Result<RecordBatch> {
    let fail = || "partition values cannot be looked at".to_owned();
    let mut changed: Option<(Vec<Arc<Field>>, Vec<ArrayRef>)> = None;
    for name in partition_columns {
        let Ok(index) = rows.schema().index_of(name) else { continue };
        let Some((column, empty)) = empty_values(rows.column(index)).internal(fail)? else { continue };
        let (fields, columns) =
            changed.get_or_insert_with(|| (rows.schema().fields().to_vec(), rows.columns().to_vec()));
        columns[index] = nullif(&column, &empty).internal(fail)?;
        let field = fields[index].as_ref().clone().with_nullable(true);
        fields[index] = Arc::new(field.with_data_type(column.data_type().clone()));
    }
    match changed {
        None => Ok(rows.clone()),
        Some((fields, columns)) => RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal(fail),
    }
}

/// The column, not encoded as a dictionary, and which of its values are empty; `None` when none is.
fn empty_values(column: &ArrayRef) -> Result<Option<(ArrayRef, BooleanArray)>, arrow::error::ArrowError> {
    let plain = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Arc::clone(column),
        DataType::Utf8View => cast(column, &DataType::Utf8)?,
        DataType::BinaryView => cast(column, &DataType::Binary)?,
        DataType::Dictionary(_, value) if **value == DataType::Utf8 => cast(column, &DataType::Utf8)?,
        _ => return Ok(None),
    };
    let lengths = length(&plain)?;
    let empty: BooleanArray = match lengths.as_primitive_opt::<Int32Type>() {
        Some(lengths) => lengths.iter().map(|length| Some(length == Some(0))).collect(),
        None => lengths.as_primitive::<Int64Type>().iter().map(|length| Some(length == Some(0))).collect(),
    };
    Ok((empty.true_count() > 0).then_some((plain, empty)))
}

/// `path` with every folder name that is too long replaced, and without `~`: delta-rs's DELETE spells that in one way to find a file
/// and in another to remove it, so that the file stays in the table.
///
/// Values are in the log. A reader that takes them from folders all the same finds null there, not a part of the value.
pub(super) fn short_path(path: &str) -> String {
    let path = path.replace('~', "%7E");
    let longest = if path.len() > LONGEST_PATH { LONG_NAME } else { LONGEST_NAME };
    let short = |name: &str| {
        if name.len() <= longest {
            return name.to_owned();
        }
        match name.split_once('=') {
            Some((column, _)) if column.len() + 1 + NO_VALUE.len() <= longest => format!("{column}={NO_VALUE}"),
            _ => hex::encode(Sha256::digest(name)),
        }
    };
    path.split('/').map(short).collect::<Vec<_>>().join("/")
}

/// A store that keeps what is written to it at [`short_path`]s.
#[derive(Debug)]
pub(super) struct ShortPaths(pub Arc<dyn ObjectStore>);

fn shortened(path: &Path) -> Path {
    Path::parse(short_path(path.as_ref())).unwrap_or_else(|_| path.clone())
}

impl fmt::Display for ShortPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortPaths({})", self.0)
    }
}

#[async_trait]
impl ObjectStore for ShortPaths {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.0.put_opts(&shortened(location), payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(&shortened(location), options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(&shortened(location), options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.0.get_ranges(&shortened(location), ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(locations.map(|path| path.map(|path| shortened(&path))).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(&shortened(from), &shortened(to), options).await
    }
}

/// `true` if an empty value of this column becomes null.
pub(super) fn may_be_null(schema: &SchemaRef, partition_columns: &[String], index: usize) -> bool {
    let field = schema.field(index);
    partition_columns.contains(field.name()) && matches!(field.data_type(), DataType::Utf8 | DataType::Binary)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    fn texts(values: &[Option<&str>]) -> RecordBatch {
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        RecordBatch::try_from_iter([("p", Arc::clone(&column)), ("v", column)]).unwrap()
    }

    #[test]
    fn an_empty_partition_value_is_null_and_any_other_empty_text_stays() {
        let rows = texts(&[Some(""), Some(" "), None, Some("a")]);
        let stored = as_stored(&rows, &["p".to_owned()], &TextLengths::default()).unwrap();
        assert_eq!(stored.column(0).as_string::<i32>(), &StringArray::from(vec![None, Some(" "), None, Some("a")]));
        assert_eq!(stored.column(1), rows.column(1));
        let views = cast(rows.column(0), &DataType::Utf8View).unwrap();
        let views = RecordBatch::try_from_iter([("p", views)]).unwrap();
        assert_eq!(as_stored(&views, &["p".to_owned()], &TextLengths::default()).unwrap().column(0).null_count(), 2);
        assert_eq!(as_stored(&rows, &[], &TextLengths::default()).unwrap(), rows);
    }

    #[test]
    fn folder_names_that_are_too_long_say_null_and_others_stay() {
        let path = |letters: usize| format!("p={}/part-0.parquet", "%C3%BC".repeat(letters));
        assert_eq!(short_path(&path(42)), path(42), "254 bytes");
        let short = short_path(&path(43));
        assert_eq!(short, "p=__HIVE_DEFAULT_PARTITION__/part-0.parquet");
        assert_eq!(short_path(&short), short);
        assert_eq!(short_path("p=x/y"), "p=x/y");
        assert_eq!(short_path("p=~x/y"), "p=%7Ex/y");
        let column = short_path(&format!("{}=1/y", "x".repeat(300)));
        assert_eq!(column.len(), 66, "{column}");
        // Many partition columns.
        let wide = ["a", "b", "c", "d"].map(|name| format!("{name}={}", "x".repeat(200))).join("/") + "/e=1/y";
        let null = |name: &str| format!("{name}=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(short_path(&wide), format!("{}/{}/{}/{}/e=1/y", null("a"), null("b"), null("c"), null("d")));
    }
}
