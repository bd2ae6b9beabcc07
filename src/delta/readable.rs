//! Snapshots for queries of tables with features that delta-rs refuses although a reader has nothing to do for them.
//!
//! `vacuumProtocolCheck` concerns VACUUM only; with `typeWidening` older files have narrower types, and DataFusion widens the values of every
//! file to the table's types. delta-rs looks at the list of features before it looks at anything else, so the log is read through an engine
//! that leaves these names out of the protocol. The log itself is not touched, and what is written goes another way.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, RecordBatch, StringBuilder, StructArray};
use arrow::datatypes::DataType;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::SchemaRef;
use delta_kernel::{
    DeltaResult, DeltaResultIterator, DeltaResultIteratorStatic, Engine, EngineData, EvaluationHandler,
    FileDataReadResultIterator, FileMeta, FileSize, FilteredEngineData, JsonHandler, ParquetFooter, ParquetHandler,
    PredicateRef, StorageHandler,
};
use deltalake::DeltaTableError;
use deltalake::kernel::Snapshot;
use deltalake::logstore::LogStoreRef;
use url::Url;

/// Features of the protocol that concern no reader here.
const WITHOUT_EFFECT: [&str; 3] = ["vacuumProtocolCheck", "typeWidening", "typeWidening-preview"];

/// The snapshot, or where its protocol names such a feature the same one without.
pub async fn readable(snapshot: Snapshot, url: &Url, log_store: &LogStoreRef) -> Result<Snapshot, DeltaTableError> {
    let protocol = serde_json::to_value(snapshot.protocol())?;
    let features = protocol["readerFeatures"].as_array().into_iter().flatten();
    if !features.filter_map(|name| name.as_str()).any(|name| WITHOUT_EFFECT.contains(&name)) {
        return Ok(snapshot);
    }
    let engine = Arc::new(Forgiving(log_store.engine(None)));
    let mut root = url.clone();
    if !root.path().ends_with('/') {
        root.set_path(&format!("{}/", root.path()));
    }
    Snapshot::try_new_with_engine(engine, root, Some(snapshot.version())).await
}

/// An engine in whose protocols the features are missing.
struct Forgiving(Arc<dyn Engine>);

impl Engine for Forgiving {
    fn evaluation_handler(&self) -> Arc<dyn EvaluationHandler> {
        self.0.evaluation_handler()
    }

    fn storage_handler(&self) -> Arc<dyn StorageHandler> {
        self.0.storage_handler()
    }

    fn json_handler(&self) -> Arc<dyn JsonHandler> {
        Arc::new(ForgivingJson(self.0.json_handler()))
    }

    fn parquet_handler(&self) -> Arc<dyn ParquetHandler> {
        Arc::new(ForgivingParquet(self.0.parquet_handler()))
    }
}

struct ForgivingJson(Arc<dyn JsonHandler>);

impl JsonHandler for ForgivingJson {
    fn parse_json(&self, texts: Box<dyn EngineData>, schema: SchemaRef) -> DeltaResult<Box<dyn EngineData>> {
        self.0.parse_json(texts, schema)
    }

    fn read_json_files(
        &self,
        files: &[FileMeta],
        schema: SchemaRef,
        predicate: Option<PredicateRef>,
    ) -> DeltaResult<FileDataReadResultIterator> {
        Ok(forgiving(self.0.read_json_files(files, schema, predicate)?))
    }

    fn write_json_file(
        &self,
        path: &Url,
        data: DeltaResultIterator<'_, FilteredEngineData>,
        overwrite: bool,
    ) -> DeltaResult<FileSize> {
        self.0.write_json_file(path, data, overwrite)
    }
}

struct ForgivingParquet(Arc<dyn ParquetHandler>);

impl ParquetHandler for ForgivingParquet {
    fn read_parquet_files(
        &self,
        files: &[FileMeta],
        schema: SchemaRef,
        predicate: Option<PredicateRef>,
    ) -> DeltaResult<FileDataReadResultIterator> {
        Ok(forgiving(self.0.read_parquet_files(files, schema, predicate)?))
    }

    fn write_parquet_file(
        &self,
        location: Url,
        data: DeltaResultIteratorStatic<Box<dyn EngineData>>,
    ) -> DeltaResult<()> {
        self.0.write_parquet_file(location, data)
    }

    fn read_parquet_footer(&self, file: &FileMeta) -> DeltaResult<ParquetFooter> {
        self.0.read_parquet_footer(file)
    }
}

fn forgiving(found: FileDataReadResultIterator) -> FileDataReadResultIterator {
    Box::new(found.map(|data| {
        let data = ArrowEngineData::try_from_engine_data(data?)?;
        let batch = without_features(data.record_batch()).map_err(delta_kernel::Error::generic_err)?;
        Ok(Box::new(ArrowEngineData::new(batch)) as Box<dyn EngineData>)
    }))
}

/// A batch of actions whose protocols do not name the features.
fn without_features(batch: &RecordBatch) -> arrow::error::Result<RecordBatch> {
    let Some((at, _)) = batch.schema().column_with_name("protocol") else { return Ok(batch.clone()) };
    let Some(protocol) = batch.column(at).as_struct_opt() else { return Ok(batch.clone()) };
    let fields = protocol.fields();
    let kept = fields.iter().zip(protocol.columns()).map(|(field, column)| match field.data_type() {
        DataType::List(item) if field.name().ends_with("Features") => {
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::clone(item));
            for row in column.as_list::<i32>().iter() {
                let names = row.map(|names| {
                    names.as_string::<i32>().iter().map(|name| name.map(str::to_owned)).collect::<Vec<_>>()
                });
                lists.append_option(names.map(|names| {
                    names.into_iter().filter(|name| !WITHOUT_EFFECT.contains(&name.as_deref().unwrap_or_default()))
                }));
            }
            Arc::new(lists.finish()) as ArrayRef
        }
        _ => Arc::clone(column),
    });
    let kept = StructArray::try_new(fields.clone(), kept.collect(), protocol.nulls().cloned())?;
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(kept);
    RecordBatch::try_new(batch.schema(), columns)
}
