//! The schema of sent rows: the description before a query runs must equal the schema of its rows.
//!
//! The nullability of a column is known only after optimisation, and may differ the next time (a constant that is folded, a
//! count that statistics answer, another row of parameters). So every column and field is sent as nullable, and dictionaries
//! are sent as their values.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::error::{Context, Result};

/// The schema under which rows of `schema` are sent.
pub fn sent_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(sent_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `batch` with the columns of `schema`, a result of [`sent_schema`].
pub fn sent(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options))
        .internal(|| "rows cannot be sent".to_owned())
}

fn sent_field(field: &FieldRef) -> FieldRef {
    let wanted = sent_type(field.data_type());
    let kind = if can_cast_types(field.data_type(), &wanted) { wanted } else { field.data_type().clone() };
    nullable(field, kind)
}

fn nullable(field: &FieldRef, kind: DataType) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(kind).with_nullable(true))
}

fn sent_type(kind: &DataType) -> DataType {
    let inner = |field: &FieldRef| nullable(field, sent_type(field.data_type()));
    match kind {
        // arrow-flight 59 describes a large list as a list.
        DataType::List(field) | DataType::LargeList(field) => DataType::List(inner(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(inner(field), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => DataType::Map(sent_entries(entries), *sorted),
        DataType::Dictionary(_, values) => sent_type(values),
        other => other.clone(),
    }
}

/// Entries and keys of a map are never null.
fn sent_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return Arc::clone(entries) };
    let sent = fields.iter().enumerate().map(|(index, field)| {
        let is_key = index == 0;
        let sent = field.as_ref().clone().with_data_type(sent_type(field.data_type()));
        Field::with_nullable(sent, !is_key)
    });
    let kind = DataType::Struct(sent.collect());
    Arc::new(entries.as_ref().clone().with_data_type(kind))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array, ListArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn every_field_may_be_null_and_dictionaries_are_their_values() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let item = Arc::new(Field::new("item", DataType::Int64, false));
        let list = ListArray::new(Arc::clone(&item), OffsetBuffer::from_lengths([1, 1]), Arc::clone(&numbers), None);
        let part = StructArray::from(vec![(item, Arc::clone(&numbers))]);
        let words: DictionaryArray<Int32Type> = vec!["a", "b"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("n", numbers, false),
            ("l", Arc::new(list), false),
            ("s", Arc::new(part), false),
            ("d", Arc::new(words), true),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let schema = sent_schema(batch.schema_ref());
        let rows = sent(&batch, &schema).unwrap();
        assert_eq!(rows.num_rows(), 2);
        for field in schema.fields() {
            assert!(field.is_nullable());
            match field.data_type() {
                DataType::List(inner) => assert!(inner.is_nullable()),
                DataType::Struct(inner) => assert!(inner[0].is_nullable()),
                other => assert!(matches!(other, DataType::Int64 | DataType::Utf8), "{other}"),
            }
        }
        assert_eq!(sent_schema(&schema), schema);
    }
}
