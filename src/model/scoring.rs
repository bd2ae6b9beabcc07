//! A model as a SQL function: one numeric argument per feature, a score per row.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result as DataFusionResult, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::evaluator::{Batch, Column};
use super::{ModelSlot, listed};
use crate::error::{Error, Result};

/// `fraud_score(f1, f2, …)`: numbers and booleans in the order of the model's features, or by name with `=>`; null means
/// missing. Returns DOUBLE, never null: a probability for binary models, the value for regression; a model with several
/// outputs returns a list of them.
///
/// The function is immutable within an epoch; a literal call is folded at planning.
#[derive(Debug)]
pub struct ScoringUdf {
    name: String,
    slot: Arc<ModelSlot>,
    signature: Signature,
}

impl ScoringUdf {
    /// The function `name` over the model in `slot`.
    pub fn new(name: impl Into<String>, slot: Arc<ModelSlot>) -> Result<Self> {
        let signature = Signature::new(TypeSignature::UserDefined, Volatility::Immutable)
            .with_parameter_names(slot.current().features().to_vec())
            .map_err(Error::from)?;
        Ok(Self { name: name.into(), slot, signature })
    }

    /// The slot with the model in use.
    pub fn slot(&self) -> &Arc<ModelSlot> {
        &self.slot
    }

    /// Checks the arguments' types. Errors name the model, its features in order, and the given types.
    pub fn check_arguments(&self, types: &[DataType]) -> Result<()> {
        let model = self.slot.current();
        let features = model.features();
        let wanted =
            || format!("`{}` takes {} numbers in this order: {}.", self.name, features.len(), listed(features));
        if types.len() != features.len() {
            let given = types.len();
            return Err(Error::sql(format!(
                "model `{}` takes {} arguments, {given} are given",
                self.name,
                features.len()
            ))
            .with_detail(wanted()));
        }
        for (index, data_type) in types.iter().enumerate() {
            if !is_accepted(data_type) {
                return Err(Error::sql(format!(
                    "argument {} (`{}`) of model `{}` is {data_type}, not a number",
                    index + 1,
                    features[index],
                    self.name
                ))
                .with_detail(wanted()));
            }
        }
        Ok(())
    }

    fn return_data_type(&self) -> DataType {
        match self.slot.current().outputs() {
            1 => DataType::Float64,
            _ => DataType::List(output_field()),
        }
    }

    /// Scores the rows of `columns`, one array per feature.
    fn score(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let model = self.slot.current();
        let columns: Vec<Column<'_>> =
            columns.iter().map(|column| Column::from(column.as_primitive::<Float64Type>())).collect();
        let mut scores = vec![0.0; rows * model.outputs()];
        model.score(&Batch::new(columns, rows)?, &mut scores)?;
        let scores = Arc::new(Float64Array::new(ScalarBuffer::from(scores), None));
        if model.outputs() == 1 {
            return Ok(scores);
        }
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(model.outputs(), rows));
        Ok(Arc::new(ListArray::new(output_field(), offsets, scores, None)))
    }
}

impl ScalarUDFImpl for ScoringUdf {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.return_data_type())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        Ok(Arc::new(Field::new(&self.name, self.return_data_type(), false)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        match self.check_arguments(arg_types) {
            Ok(()) => Ok(vec![DataType::Float64; arg_types.len()]),
            Err(error) => plan_err!("{}. {}", error.message(), error.detail().unwrap_or_default()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let rows = args.number_rows;
        let mut columns = Vec::with_capacity(args.args.len());
        for value in args.args {
            let array = value.into_array(rows)?;
            columns.push(if array.data_type() == &DataType::Float64 {
                array
            } else {
                cast(&array, &DataType::Float64)?
            });
        }
        Ok(ColumnarValue::Array(self.score(&columns, rows)?))
    }
}

impl PartialEq for ScoringUdf {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.slot, &other.slot)
    }
}

impl Eq for ScoringUdf {}

impl Hash for ScoringUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        Arc::as_ptr(&self.slot).hash(state);
    }
}

fn is_accepted(data_type: &DataType) -> bool {
    data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Null)
}

fn output_field() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float64, true))
}
