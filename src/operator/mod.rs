//! Physical operators of weir's own. Stateless SQL runs on DataFusion's operators; this module feeds them ([`HeldExec`]) and
//! adds the stateful operators ([`Operator`]).

mod aggregate;
mod contract;
mod refused;
mod cells;
mod restore;
mod held;
mod meter;
mod rolling;
mod join;
mod lookup;
pub mod spec;
mod keyed;
mod deduplicate;
mod top_n;
mod session;

pub(crate) use aggregate::aggregate;
pub(crate) use cells::{Cells, CellsSpec};
pub(crate) use contract::{END_OF_TIME, PART_BYTES, StateUsage, Stepped};
pub use contract::{Operator, Tick, WEIGHT};
pub use deduplicate::deduplicate;
pub(crate) use held::{Held, HeldExec, HeldTable, NUMBER, StreamId, number_field, numbered};
pub(crate) use join::{asof, join};
pub(crate) use lookup::Lookup;
pub(crate) use meter::MeterExec;
pub(crate) use refused::{Describe, Guarded, Pending, RefusedRow, as_json, holding, is_fallible, others, without};
pub(crate) use restore::restore;
pub(crate) use rolling::collecting;
pub use rolling::rolling;
pub(crate) use session::session;
pub use top_n::top_n;
pub(crate) use top_n::{Keeping, newest};
