//! Physical operators of weir's own. Stateless SQL runs on DataFusion's operators; what is here feeds them.

mod held;

pub use held::{Held, HeldExec, HeldTable, StreamId};
