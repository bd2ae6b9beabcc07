//! The columns of materialized views: what their queries give, as a Delta table holds it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::dataflow::Dataflow;
use crate::catalog::{Catalog, ColumnDef, ColumnOrigin, TableDef};
use crate::operator::WEIGHT;
use crate::sql::types::{map_of, timestamp};

/// The catalog in which every materialized view that `dataflow` fills has its columns, so that its table can be made.
pub fn with_view_columns<'a>(catalog: &'a Catalog, dataflow: &Dataflow) -> Cow<'a, Catalog> {
    let mut catalog = Cow::Borrowed(catalog);
    for branch in &dataflow.branches {
        let target = &branch.target;
        let is_open = |table: &TableDef| table.columns.is_empty();
        if !catalog.materialized.contains_key(target) || !catalog.tables.get(target).is_some_and(is_open) {
            continue;
        }
        if let Some(table) = catalog.to_mut().tables.get_mut(target) {
            let given = branch.schema.fields().iter().filter(|field| field.name() != WEIGHT);
            table.columns = given.map(|field| column(field, table)).collect();
        }
    }
    catalog
}

/// The columns of a view over these of its query.
pub fn stored_columns(given: &SchemaRef) -> SchemaRef {
    let fields = given.fields().iter().map(|field| Field::new(field.name(), stored(field.data_type()), true));
    SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A column that takes every value of `field`. It may be null: whether a query can give null changes with its wording.
fn column(field: &Field, table: &TableDef) -> ColumnDef {
    ColumnDef {
        name: field.name().clone(),
        data_type: stored(field.data_type()),
        nullable: true,
        origin: ColumnOrigin::Field(vec![field.name().clone()]),
        span: table.span,
    }
}

/// The nearest type that Delta has.
fn stored(kind: &DataType) -> DataType {
    match kind {
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        // An instant is the same in every zone.
        DataType::Timestamp(_, Some(_)) => timestamp(),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Dictionary(_, value) => stored(value),
        DataType::List(item) | DataType::LargeList(item) => {
            DataType::List(Arc::new(Field::new(item.name(), stored(item.data_type()), true)))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                map_of(stored(fields[0].data_type()), stored(fields[1].data_type()))
            }
            _ => kind.clone(),
        },
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnv;

    use super::*;
    use crate::plan::{FunctionSet, Targets, compile, session_state};
    use crate::sql::SourceFile;

    #[tokio::test]
    async fn a_materialized_view_has_the_columns_of_its_query() {
        let sql = "CREATE SOURCE t (k STRING NOT NULL, v BIGINT) WITH (connector = 'file', path = 'in');
                   CREATE PIPELINE p WITH (state_ttl = 'none') AS BEGIN
                     CREATE MATERIALIZED VIEW m (who, n, s) AS SELECT k, count(*), sum(v) FROM t GROUP BY k;
                   END;";
        let files = [Arc::new(SourceFile::new("m.sql", sql))];
        let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let session = session_state(&catalog, &FunctionSet::default(), Arc::new(RuntimeEnv::default())).unwrap();
        let dataflow = compile(&catalog, &catalog.pipelines[0], &Targets::new(), session).await.unwrap();
        let completed = with_view_columns(&catalog, &dataflow);
        let table = &completed.tables["m"];
        let columns: Vec<_> = table.columns.iter().map(|column| (column.name.as_str(), &column.data_type)).collect();
        assert_eq!(columns, [("who", &DataType::Utf8), ("n", &DataType::Int64), ("s", &DataType::Int64)]);
        assert_eq!(table.primary_key, ["who"]);
    }
}
