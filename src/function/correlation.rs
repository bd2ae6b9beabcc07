//! `corr` that is stable in GROUP BY too.
//!
//! DataFusion's grouped form sums squares, which loses all digits where values are large and near each other (and answers null); its
//! form for one group updates means and deviations (Welford). This is the latter for every group.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;
use datafusion::functions_aggregate::correlation::Correlation;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Signature};
use datafusion::scalar::ScalarValue;

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
        Ok(Box::new(Bounded(self.inner.accumulator(args)?)))
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

/// A correlation lies between -1 and 1, whatever rounding does.
#[derive(Debug)]
struct Bounded(Box<dyn Accumulator>);

impl Accumulator for Bounded {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(match self.0.evaluate()? {
            ScalarValue::Float64(Some(value)) => ScalarValue::Float64(Some(value.clamp(-1.0, 1.0))),
            other => other,
        })
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Float64Array;

    use super::*;

    #[derive(Debug)]
    struct TooMuch;

    impl Accumulator for TooMuch {
        fn update_batch(&mut self, _values: &[ArrayRef]) -> Result<()> {
            Ok(())
        }

        fn evaluate(&mut self) -> Result<ScalarValue> {
            Ok(ScalarValue::Float64(Some(1.000_000_000_000_000_2)))
        }

        fn size(&self) -> usize {
            0
        }

        fn state(&mut self) -> Result<Vec<ScalarValue>> {
            Ok(Vec::new())
        }

        fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn rounding_makes_no_correlation_of_more_than_one() {
        let mut bounded = Bounded(Box::new(TooMuch));
        bounded.update_batch(&[Arc::new(Float64Array::from(vec![1.0]))]).unwrap();
        assert_eq!(bounded.evaluate().unwrap(), ScalarValue::Float64(Some(1.0)));
    }
}
