//! Statements to a [`Dataflow`]: planned once, inert, explainable, fingerprinted.
//!
//! DataFusion parses, analyses and optimises; what is here decides where the graph is cut so that shared views are
//! computed once ([`share`]), refuses what cannot be run incrementally ([`refusal`]), fits each INSERT's columns to its
//! target ([`fit`]) and puts the pieces together ([`compile`]). Nothing here reads input, opens a connection or knows of epochs.

mod batch;
mod calls;
mod careful;
mod check;
mod clock;
mod clocked;
mod compile;
mod constants;
mod cut;
mod dataflow;
mod drawn;
mod equal;
mod explain;
mod fit;
mod generated;
mod landing;
mod maps;
mod growing;
mod guards;
mod impossible;
mod lane;
mod lookup;
mod materialized;
mod mixed_up;
mod meaning;
mod nodes;
mod null_keys;
mod operators;
mod order;
mod precomputed;
mod refusal;
mod rehearsal;
mod relation;
mod running;
mod session;
mod share;
mod size;
mod sound;
mod sums;
mod system_time;
mod texts;
mod three_valued;
mod time;
mod untimed;
mod volatile;
mod watermark;
mod zone;

pub use batch::{Batch, BatchInsert, batch, views};
pub use calls::calls_any;
pub use careful::collect_computable;
pub use check::{columns_of, hangs_on_broken, problems};
pub use compile::{Targets, compile};
pub use dataflow::{Branch, Dataflow, Fragment, Makers, SourceInput, Unshared};
pub use explain::explain;
pub use fit::keeps_data;
pub use growing::Growing;
pub use lane::Lane;
pub use materialized::with_view_columns;
pub use meaning::{CheckedPlanner, as_meant};
pub use mixed_up::mixed_up_features;
pub use nodes::{DeduplicateNode, SessionNode, WINDOW_END, WINDOW_START, length};
pub use operators::{OperatorNode, OperatorSpec};
pub use relation::{RelationMode, Relations, register_relations};
pub use session::{
    FunctionSet, physical_rules, query_rules, register_own, session_and_problems, session_state, session_state_for,
};
pub use share::{lookup_tables, reads_stream};
pub use size::{SizedLiterals, bound_relations, bound_types, check_plan};
pub use texts::TextsBesideIntervals;
pub use time::{interval_micros, scalar_micros, time_lag};
pub use volatile::{has_hops, volatile_functions};
pub use watermark::WatermarkExpr;
