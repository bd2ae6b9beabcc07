//! Physical operators of weir's own. Stateless SQL runs on DataFusion's operators; this module feeds them ([`HeldExec`]) and
//! adds the stateful operators ([`Operator`]).

mod aggregate;
mod contract;
mod refused;
mod cells;
mod restore;
mod held;
mod meter;
mod planning;
mod words;
mod rolling;
mod join;
mod lookup;
mod keyed;
mod deduplicate;
mod top_n;
mod session;

/// The specifications of all operators.
pub mod spec {
    pub use super::aggregate::spec::AggregateSpec;
    pub use super::deduplicate::spec::{DeduplicateEmit, DeduplicateSpec};
    pub use super::join::spec::{AsofSpec, JoinSpec, TimeBounds};
    pub use super::lookup::spec::LookupSpec;
    pub use super::planning::{Facts, OutputOrder, Spec, TimeColumn};
    pub use super::rolling::spec::{RollingEmit, RollingFunction, RollingKind, RollingSpec};
    pub use super::session::spec::SessionSpec;
    pub use super::top_n::spec::{NewestSpec, RankFunction, TopNSpec};
}

pub(crate) use cells::{Cells, CellsSpec};
pub use contract::{Operator, Tick, WEIGHT};
pub(crate) use contract::{PART_BYTES, StateUsage, Stepped};
pub use deduplicate::deduplicate;
pub(crate) use held::{Held, HeldExec, HeldTable, NUMBER, StreamId, numbered};
pub(crate) use lookup::Lookup;
pub(crate) use meter::MeterExec;
pub(crate) use refused::{
    Check, Describe, Guarded, Pending, RefusedRow, as_json, holding, is_fallible, others, without,
};
pub(crate) use restore::restore;
pub(crate) use rolling::collecting;
pub use rolling::rolling;
pub use top_n::top_n;
