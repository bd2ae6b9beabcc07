//! `now()` for plans that are made once and run often.
//!
//! DataFusion folds `now()` into a constant when it plans, which would freeze the clock of a stream at its first
//! micro-batch. [`EpochClock`] replaces `now`, `current_timestamp` and `current_date` by functions that answer with the
//! time at which the running epoch began, so that all rows of an epoch see one time and a manifest can record it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

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
        vec![ScalarUDF::from(now), ScalarUDF::from(today)]
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
            _ => ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())),
        }))
    }
}
