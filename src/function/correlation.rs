//! `corr` that is stable in GROUP BY too.
//!
//! DataFusion's grouped form sums squares, which loses all digits where values are large and near each other (and answers null); its
//! form for one group updates means and deviations (Welford). This is the latter for every group.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;
use datafusion::functions_aggregate::correlation::Correlation;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Signature};

/// The function.
pub fn stable_correlation() -> AggregateUDF {
    AggregateUDF::from(StableCorrelation { inner: Correlation::new() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StableCorrelation {
    inner: Correlation,
}

impl AggregateUDFImpl for StableCorrelation {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        false
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
