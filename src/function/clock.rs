//! `now()` for plans that are made once and run often.
//!
//! DataFusion folds `now()` into a constant when it plans, which would freeze the clock of a stream at its first
//! micro-batch. [`EpochClock`] replaces `now`, `current_timestamp`, `current_date` and `current_time` by functions that answer with the
//! time at which the running epoch began, so that all rows of an epoch see one time and a manifest can record it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const DAY_MICROS: i64 = 86_400_000_000;

/// The time that `now()` answers; cheap to clone, shared by all its functions.
#[derive(Debug, Clone, Default)]
pub struct EpochClock {
    micros: Arc<AtomicI64>,
}

impl EpochClock {
    /// Sets the time, milliseconds since 1970 UTC.
    pub fn set_ms(&self, unix_ms: i64) {
        self.micros.store(unix_ms.saturating_mul(1000), Ordering::Relaxed);
    }

    /// The functions to register; they replace DataFusion's of the same names.
    pub fn functions(&self) -> Vec<ScalarUDF> {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let now = Now::new("now", timestamp, vec!["current_timestamp".to_owned()], self.clone());
        let today = Now::new("current_date", DataType::Date32, vec!["today".to_owned()], self.clone());
        let time = Now::new("current_time", DataType::Time64(TimeUnit::Nanosecond), Vec::new(), self.clone());
        vec![ScalarUDF::from(now), ScalarUDF::from(today), ScalarUDF::from(time)]
    }
}

/// `now()` of queries, which are planned anew each time: when the query began, in microseconds as all of weir's timestamps.
/// DataFusion's nanoseconds cannot be compared with times outside of 1677 to 2262.
pub fn query_now() -> ScalarUDF {
    ScalarUDF::from(QueryNow {
        aliases: vec!["current_timestamp".to_owned()],
        signature: Signature::nullary(Volatility::Stable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct QueryNow {
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for QueryNow {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, false)))
    }

    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(began) = context.query_execution_start_time() else {
            return Ok(ExprSimplifyResult::Original(arguments));
        };
        let micros = ScalarValue::TimestampMicrosecond(Some(began.timestamp_micros()), Some("UTC".into()));
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(micros, None)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("`now()` was not replaced by the time when the query began")
    }
}

#[derive(Debug)]
struct Now {
    name: &'static str,
    returns: DataType,
    aliases: Vec<String>,
    clock: EpochClock,
    signature: Signature,
}

impl Now {
    fn new(name: &'static str, returns: DataType, aliases: Vec<String>, clock: EpochClock) -> Self {
        Self { name, returns, aliases, clock, signature: Signature::nullary(Volatility::Volatile) }
    }
}

impl PartialEq for Now {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.clock.micros, &other.clock.micros)
    }
}

impl Eq for Now {}

impl std::hash::Hash for Now {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let micros = self.clock.micros.load(Ordering::Relaxed);
        Ok(ColumnarValue::Scalar(match self.returns {
            DataType::Date32 => ScalarValue::Date32(Some(micros.div_euclid(DAY_MICROS) as i32)),
            DataType::Time64(_) => ScalarValue::Time64Nanosecond(Some(micros.rem_euclid(DAY_MICROS) * 1000)),
            _ => ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())),
        }))
    }
}
