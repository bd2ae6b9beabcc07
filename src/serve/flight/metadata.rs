//! Metadata for Flight SQL clients: the server's abilities, types, catalogs, schemas, tables and keys.
//!
//! Shapes are those of the Flight SQL specification (`FlightSql.proto`). Delta tables do not enforce keys, so the key
//! commands return no rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    GetCatalogsBuilder, SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, Nullable, Searchable, SqlInfo,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType,
};
use tonic::Status;

use crate::error::{Context, Result};
use crate::serve::failure::status;
use crate::serve::warehouse::{CATALOG, PUBLIC, SYSTEM, Warehouse};

const TABLE: &str = "TABLE";
const SYSTEM_TABLE: &str = "SYSTEM TABLE";

/// The metadata that does not depend on the tables.
pub struct ServerFacts {
    pub sql_info: SqlInfoData,
    pub types: XdbcTypeInfoData,
}

impl ServerFacts {
    /// The metadata of this build.
    pub fn new() -> Result<Self> {
        let failed = || "server metadata cannot be built".to_owned();
        Ok(Self { sql_info: sql_info().internal(failed)?, types: types().internal(failed)? })
    }
}

/// GetCatalogs.
pub fn catalogs() -> Result<RecordBatch, FlightError> {
    let mut catalogs = GetCatalogsBuilder::new();
    catalogs.append(CATALOG);
    catalogs.build()
}

/// GetDbSchemas, with the request's filters.
pub fn schemas(query: CommandGetDbSchemas) -> Result<RecordBatch, FlightError> {
    let mut schemas = query.into_builder();
    for schema in ["information_schema", PUBLIC, SYSTEM] {
        schemas.append(CATALOG, schema);
    }
    schemas.build()
}

/// GetTableTypes.
pub fn table_types() -> Result<RecordBatch, FlightError> {
    let mut types = CommandGetTableTypes {}.into_builder();
    types.append(SYSTEM_TABLE);
    types.append(TABLE);
    types.build()
}

/// GetTables, with the request's filters. Tables are opened only if their columns are requested; one that cannot be opened
/// is listed without columns.
pub async fn tables(warehouse: &Warehouse, query: CommandGetTables) -> Result<RecordBatch, Status> {
    let include_schema = query.include_schema;
    let mut tables = query.into_builder();
    let nothing = Schema::empty();
    for entry in warehouse.list_tables().await.map_err(|error| status(&error))? {
        if !include_schema {
            tables.append(CATALOG, PUBLIC, &entry.name, TABLE, &nothing)?;
            continue;
        }
        match warehouse.schema_of(&entry).await {
            Ok(Some(schema)) => tables.append(CATALOG, PUBLIC, &entry.name, TABLE, &schema)?,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(table = entry.name, %error, "table without columns in metadata");
                tables.append(CATALOG, PUBLIC, &entry.name, TABLE, &nothing)?;
            }
        }
    }
    for (name, schema) in warehouse.system_tables().await.map_err(|error| status(&error))? {
        tables.append(CATALOG, SYSTEM, name, SYSTEM_TABLE, &schema)?;
    }
    Ok(tables.build()?)
}

/// The schema of the answer to GetPrimaryKeys.
pub fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("key_name", DataType::Utf8, true),
    ]))
}

/// The schema of the answers to GetExportedKeys, GetImportedKeys and GetCrossReference.
pub fn foreign_keys_schema() -> SchemaRef {
    let mut fields = Vec::new();
    for side in ["pk", "fk"] {
        fields.push(Field::new(format!("{side}_catalog_name"), DataType::Utf8, true));
        fields.push(Field::new(format!("{side}_db_schema_name"), DataType::Utf8, true));
        fields.push(Field::new(format!("{side}_table_name"), DataType::Utf8, false));
        fields.push(Field::new(format!("{side}_column_name"), DataType::Utf8, false));
    }
    fields.push(Field::new("key_sequence", DataType::Int32, false));
    fields.push(Field::new("fk_key_name", DataType::Utf8, true));
    fields.push(Field::new("pk_key_name", DataType::Utf8, true));
    fields.push(Field::new("update_rule", DataType::UInt8, false));
    fields.push(Field::new("delete_rule", DataType::UInt8, false));
    Arc::new(Schema::new(fields))
}

fn sql_info() -> Result<SqlInfoData, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "weir");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    // The version of the Arrow columnar format (Schema.fbs), not of a library.
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.5");
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32);
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlStoredProceduresSupported, false);
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlBatchUpdatesSupported, false);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.build()
}

/// The SQL types, with their sizes in digits, characters or bits as XDBC counts them.
fn types() -> Result<XdbcTypeInfoData, FlightError> {
    let quoted = Some("'");
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, size, literal) in [
        ("BOOLEAN", XdbcDataType::XdbcBit, Some(1), None),
        ("TINYINT", XdbcDataType::XdbcTinyint, Some(8), None),
        ("SMALLINT", XdbcDataType::XdbcSmallint, Some(16), None),
        ("INT", XdbcDataType::XdbcInteger, Some(32), None),
        ("BIGINT", XdbcDataType::XdbcBigint, Some(64), None),
        ("FLOAT", XdbcDataType::XdbcReal, Some(24), None),
        ("DOUBLE", XdbcDataType::XdbcDouble, Some(53), None),
        ("DECIMAL", XdbcDataType::XdbcDecimal, Some(38), None),
        ("STRING", XdbcDataType::XdbcVarchar, None, quoted),
        ("BINARY", XdbcDataType::XdbcVarbinary, None, quoted),
        ("DATE", XdbcDataType::XdbcDate, Some(10), quoted),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(32), quoted),
    ] {
        let is_text = data_type == XdbcDataType::XdbcVarchar;
        types.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size: size,
            literal_prefix: literal.map(str::to_owned),
            literal_suffix: literal.map(str::to_owned),
            create_params: (name == "DECIMAL").then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: is_text,
            searchable: if is_text { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: literal.is_none().then_some(false),
            fixed_prec_scale: false,
            auto_increment: Some(false),
            local_type_name: Some(name.to_owned()),
            sql_data_type: data_type,
            ..XdbcTypeInfo::default()
        });
    }
    types.build()
}
