//! Physical operators of weir's own. Stateless SQL runs on DataFusion's operators; what is here feeds them ([`HeldExec`]) and
//! remembers for them ([`Operator`]).

mod contract;
mod cells;
mod restore;
mod held;
pub mod spec;

pub use cells::{Cells, CellsSpec};
pub use contract::{END_OF_TIME, Operator, StateUsage, Stepped, Tick, WEIGHT};
pub use held::{Held, HeldExec, HeldTable, StreamId};
pub use restore::restore;
