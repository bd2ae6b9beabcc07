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

pub use aggregate::aggregate;
pub use cells::{Cells, CellsSpec};
pub use contract::{END_OF_TIME, Operator, PART_BYTES, StateUsage, Stepped, Tick, WEIGHT};
pub use deduplicate::deduplicate;
pub use held::{Held, HeldExec, HeldTable, NUMBER, StreamId, number_field, numbered};
pub use join::{asof, join};
pub use lookup::Lookup;
pub use meter::MeterExec;
pub use refused::{Describe, Guarded, Pending, RefusedRow, as_json, holding, is_fallible, others, without};
pub use restore::restore;
pub use rolling::{collecting, rolling};
pub use session::session;
pub use top_n::{Keeping, newest, top_n};
