//! The meaning of `FOR SYSTEM_TIME AS OF`, for streams and queries alike.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ExprSchema;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::delta::BeforeFirst;
use crate::error::Error;
use crate::sql::temporal::{SYSTEM_TIME, SYSTEM_TIME_OR_FIRST};

/// The version of a table that a row is joined to.
#[derive(Debug, Clone)]
pub enum TableTime {
    /// `AS OF now()`: the newest when the row comes, as without the clause.
    Newest,
    /// The newest at a time of the row.
    At { time: Expr, before_first: BeforeFirst },
}

impl TableTime {
    /// Version asked for by a part of a join's condition, if it is the clause's mark (see [`crate::sql::temporal`]).
    pub fn of(condition: &Expr) -> Option<Self> {
        let Expr::ScalarFunction(mark) = condition else { return None };
        let before_first = match mark.name() {
            SYSTEM_TIME => BeforeFirst::Nothing,
            SYSTEM_TIME_OR_FIRST => BeforeFirst::First,
            _ => return None,
        };
        let time = mark.args.first()?.clone();
        Some(if is_now(&time) { Self::Newest } else { Self::At { time, before_first } })
    }
}

fn is_now(time: &Expr) -> bool {
    match time {
        Expr::ScalarFunction(call) => call.name() == "now",
        Expr::Alias(alias) => is_now(&alias.expr),
        _ => false,
    }
}

/// The time as TIMESTAMP(µs), in its zone. Errors: it is no TIMESTAMP.
pub fn in_micros(time: Expr, schema: &dyn ExprSchema) -> Result<Expr> {
    match time.get_type(schema)? {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(time),
        DataType::Timestamp(_, zone) => time.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone), schema),
        other => Err(Error::sql(format!(
            "the time of `FOR SYSTEM_TIME AS OF` is {}, not TIMESTAMP",
            crate::sql::types::sql_name(&other)
        ))
        .with_hint("Give the time of the row: `FOR SYSTEM_TIME AS OF t.ts`.")
        .into()),
    }
}
