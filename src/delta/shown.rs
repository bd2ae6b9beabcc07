//! Columns of types that queries have no name for, as Spark shows them: VARIANT as JSON, CHAR(n) with its blanks, `void` not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;

use super::lengths::{TextLength, padded};
use super::variant::{as_json, variant_to_json};

/// The table as queries see it; `schema` is that of the log.
pub fn shown(table: Arc<dyn TableProvider>, schema: &Value) -> Result<Arc<dyn TableProvider>> {
    let declared = schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    if declared.iter().all(|field| matches!(Shown::of(field), Shown::Plain)) {
        return Ok(table);
    }
    let mut columns = Vec::new();
    for field in table.schema().fields() {
        let column = Expr::Column(Column::new_unqualified(field.name()));
        let declared = declared.iter().find(|declared| declared["name"] == field.name().as_str());
        columns.push(match declared.map_or(Shown::Plain, Shown::of) {
            Shown::Plain => column,
            Shown::Not => continue,
            Shown::Padded(width) => Padding::function(width).call(vec![column]).alias(field.name()),
            Shown::Json => variant_to_json().call(vec![column]).alias(field.name()),
            Shown::Within(variants) => VariantsShown::function(variants).call(vec![column]).alias(field.name()),
        });
    }
    let plan = LogicalPlanBuilder::scan("table", provider_as_source(table), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// The columns of a table's files, beyond their Parquet types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileColumns {
    /// Partition columns, whose values are in the log.
    partitions: Vec<String>,
    /// Columns that are shown in another form than files have them.
    shown: BTreeMap<String, Shown>,
}

impl FileColumns {
    /// Those of a table whose schema in the log is `schema`.
    pub(super) fn new(partitions: Vec<String>, schema: &Value) -> Self {
        let declared = schema["fields"].as_array().into_iter().flatten();
        let shown = declared.filter_map(|field| Some((field["name"].as_str()?.to_owned(), Shown::of(field))));
        Self { partitions, shown: shown.filter(|(_, shown)| *shown != Shown::Plain).collect() }
    }

    /// Columns that are read as files have them.
    pub(super) fn as_stored(partitions: Vec<String>) -> Self {
        Self { partitions, shown: BTreeMap::new() }
    }

    pub(super) fn is_partition(&self, name: &str) -> bool {
        self.partitions.iter().any(|partition| partition == name)
    }

    /// The columns that are shown, of `stored` ones.
    pub(super) fn shown_schema(&self, stored: &SchemaRef) -> SchemaRef {
        let fields = stored.fields().iter().filter_map(|field| {
            let with = |kind: DataType| Some(Arc::new(field.as_ref().clone().with_data_type(kind)));
            match self.shown.get(field.name()) {
                None | Some(Shown::Plain | Shown::Padded(_)) => Some(Arc::clone(field)),
                Some(Shown::Not) => None,
                Some(Shown::Json) => with(DataType::Utf8),
                Some(Shown::Within(variants)) => with(variants.shown_type(field.data_type())),
            }
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The values of a column as they are shown.
    pub(super) fn show(&self, name: &str, found: &ArrayRef) -> Result<ArrayRef> {
        match self.shown.get(name) {
            None | Some(Shown::Plain | Shown::Not) => Ok(Arc::clone(found)),
            Some(Shown::Padded(width)) => all_padded(found, *width),
            Some(Shown::Json) => as_json(found),
            Some(Shown::Within(variants)) => variants.show(found),
        }
    }
}

fn all_padded(found: &ArrayRef, width: usize) -> Result<ArrayRef> {
    let texts = cast(found, &DataType::Utf8)?;
    let padded = texts.as_string::<i32>().iter().map(|text| text.map(|text| padded(text, width)));
    Ok(Arc::new(padded.collect::<StringArray>()))
}

/// The form in which a column is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Plain,
    Not,
    Padded(usize),
    Json,
    Within(Variants),
}

impl Shown {
    fn of(field: &Value) -> Self {
        match field["type"].as_str() {
            Some("void") => Self::Not,
            Some("variant") => Self::Json,
            Some("string") => match TextLength::of(field) {
                Some(TextLength::Char(width)) => Self::Padded(width),
                Some(TextLength::Varchar(_)) | None => Self::Plain,
            },
            Some(_) => Self::Plain,
            None => Variants::of(&field["type"]).map_or(Self::Plain, Self::Within),
        }
    }
}

/// Places of the VARIANTs in a nested type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Variants {
    Here,
    Fields(Vec<(String, Variants)>),
    Items(Box<Variants>),
    /// In the keys and in the values of a map.
    Entries(Option<Box<Variants>>, Option<Box<Variants>>),
}

impl Variants {
    /// Those of a type as the log spells it.
    fn of(declared: &Value) -> Option<Self> {
        if let Some(name) = declared.as_str() {
            return (name == "variant").then_some(Self::Here);
        }
        match declared["type"].as_str()? {
            "struct" => {
                let fields = declared["fields"].as_array()?.iter();
                let fields =
                    fields.filter_map(|field| Some((field["name"].as_str()?.to_owned(), Self::of(&field["type"])?)));
                let fields: Vec<_> = fields.collect();
                (!fields.is_empty()).then_some(Self::Fields(fields))
            }
            "array" => Some(Self::Items(Box::new(Self::of(&declared["elementType"])?))),
            "map" => {
                let part = |name: &str| Self::of(&declared[name]).map(Box::new);
                let (keys, values) = (part("keyType"), part("valueType"));
                (keys.is_some() || values.is_some()).then_some(Self::Entries(keys, values))
            }
            _ => None,
        }
    }

    fn of_field<'a>(fields: &'a [(String, Variants)], field: &Field) -> Option<&'a Self> {
        fields.iter().find(|(name, _)| name == field.name()).map(|(_, variants)| variants)
    }

    /// The type with texts in their places.
    fn shown_type(&self, found: &DataType) -> DataType {
        let with = |field: &FieldRef, variants: &Self| -> FieldRef {
            Arc::new(field.as_ref().clone().with_data_type(variants.shown_type(field.data_type())))
        };
        match (self, found) {
            (Self::Here, _) => DataType::Utf8,
            (Self::Fields(variants), DataType::Struct(fields)) => {
                let shown = fields.iter().map(|field| match Self::of_field(variants, field) {
                    Some(variants) => with(field, variants),
                    None => Arc::clone(field),
                });
                DataType::Struct(shown.collect())
            }
            (Self::Items(variants), DataType::List(field)) => DataType::List(with(field, variants)),
            (Self::Entries(keys, values), DataType::Map(entries, sorted)) => {
                let DataType::Struct(pair) = entries.data_type() else { return found.clone() };
                let shown = pair.iter().zip([keys, values]).map(|(field, variants)| match variants {
                    Some(variants) => with(field, variants),
                    None => Arc::clone(field),
                });
                let pair = DataType::Struct(shown.collect());
                DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(pair)), *sorted)
            }
            _ => found.clone(),
        }
    }

    /// The values with texts in their places.
    fn show(&self, found: &ArrayRef) -> Result<ArrayRef> {
        let part = |variants: Option<&Self>, values: &ArrayRef| match variants {
            Some(variants) => variants.show(values),
            None => Ok(Arc::clone(values)),
        };
        Ok(match (self, self.shown_type(found.data_type())) {
            (Self::Here, _) => as_json(found)?,
            (Self::Fields(variants), DataType::Struct(fields)) => {
                let found = found.as_struct();
                let columns = found.fields().iter().zip(found.columns());
                let columns = columns.map(|(field, column)| part(Self::of_field(variants, field), column));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new_with_length(fields, columns, found.nulls().cloned(), found.len())?)
            }
            (Self::Items(variants), DataType::List(field)) => {
                let list: &ListArray = found.as_list();
                let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
                Arc::new(ListArray::try_new(field, offsets, variants.show(list.values())?, nulls)?)
            }
            (Self::Entries(keys, values), DataType::Map(entries, sorted)) => {
                let map = found.as_map();
                let columns = vec![part(keys.as_deref(), map.keys())?, part(values.as_deref(), map.values())?];
                let pairs = StructArray::try_new(pair_of(&entries)?, columns, None)?;
                Arc::new(MapArray::try_new(entries, map.offsets().clone(), pairs, map.nulls().cloned(), sorted)?)
            }
            _ => Arc::clone(found),
        })
    }
}

fn pair_of(entries: &Field) -> Result<Fields, ArrowError> {
    match entries.data_type() {
        DataType::Struct(pair) => Ok(pair.clone()),
        _ => Err(ArrowError::SchemaError("the entries of a map are no struct".to_owned())),
    }
}

/// Shows the VARIANTs of a nested column.
#[derive(Debug, PartialEq, Eq, Hash)]
struct VariantsShown {
    variants: Variants,
    signature: Signature,
}

impl VariantsShown {
    fn function(variants: Variants) -> ScalarUDF {
        ScalarUDF::from(Self { variants, signature: Signature::any(1, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for VariantsShown {
    fn name(&self) -> &'static str {
        "weir_variants_to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(self.variants.shown_type(&arguments[0]))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Array(self.variants.show(&args.args[0].to_array(args.number_rows)?)?))
    }
}

/// Adds the blanks of a CHAR(n); longer values, which some writers leave, stay whole.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Padding {
    width: usize,
    signature: Signature,
}

impl Padding {
    fn function(width: usize) -> ScalarUDF {
        ScalarUDF::from(Self { width, signature: Signature::any(1, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Padding {
    fn name(&self) -> &'static str {
        "weir_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Array(all_padded(&args.args[0].to_array(args.number_rows)?, self.width)?))
    }
}
