//! Operators as nodes of a dataflow: what each is, what it reads, where its state is.

use std::collections::BTreeSet;
use std::fmt::Write;

use arrow::datatypes::SchemaRef;

use super::cut::Stream;
use crate::error::{Error, Result};
use crate::operator::spec::{
    AggregateSpec, AsofSpec, DeduplicateSpec, JoinSpec, LookupSpec, RollingSpec, SessionSpec, TopNSpec,
};
use crate::operator::{self, Operator, StreamId};

/// What an operator does.
#[derive(Debug, Clone)]
pub enum OperatorSpec {
    Aggregate(AggregateSpec),
    Session(SessionSpec),
    Deduplicate(DeduplicateSpec),
    TopN(TopNSpec),
    Rolling(RollingSpec),
    Join(JoinSpec),
    Asof(AsofSpec),
    Lookup(LookupSpec),
}

/// An operator of a dataflow.
#[derive(Debug, Clone)]
pub struct OperatorNode {
    /// The address of its state; the same for the same work on the same input.
    pub id: String,
    pub spec: OperatorSpec,
    /// One per port.
    pub inputs: Vec<StreamId>,
    pub input_retracts: Vec<bool>,
    pub output: StreamId,
    /// Its inputs are there after the fragments of this stage; its output is in the next.
    pub stage: usize,
    /// Whose watermarks it follows.
    pub sources: BTreeSet<usize>,
    /// True when its output has weights.
    pub retract: bool,
}

impl OperatorSpec {
    /// The word in explanations and addresses.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Aggregate(spec) if spec.closing.is_some() => "window_aggregate",
            Self::Aggregate(_) => "aggregate",
            Self::Session(_) => "session",
            Self::Deduplicate(_) => "deduplicate",
            Self::TopN(_) => "top_n",
            Self::Rolling(_) => "rolling",
            Self::Join(spec) if spec.bounds.is_some() => "interval_join",
            Self::Join(_) => "join",
            Self::Asof(_) => "asof_join",
            Self::Lookup(_) => "lookup_join",
        }
    }

    /// With the weight, if it has one.
    pub fn output(&self) -> SchemaRef {
        match self {
            Self::Aggregate(spec) => spec.output.clone(),
            Self::Session(spec) => spec.output.clone(),
            Self::Deduplicate(spec) => spec.input.clone(),
            Self::TopN(spec) => spec.output.clone(),
            Self::Rolling(spec) => spec.output.clone(),
            Self::Join(spec) => spec.output.clone(),
            Self::Asof(spec) => spec.output.clone(),
            Self::Lookup(spec) => spec.output.clone(),
        }
    }

    /// Per port the columns by which rows are given to shards.
    pub fn routing(&self) -> Vec<Vec<usize>> {
        match self {
            Self::Aggregate(spec) => vec![spec.keys[..spec.routing].to_vec()],
            Self::Session(spec) => vec![spec.keys.clone()],
            Self::Deduplicate(spec) => vec![spec.keys.clone()],
            Self::TopN(spec) => vec![spec.keys[..spec.routing].to_vec()],
            Self::Rolling(spec) => vec![spec.keys.clone()],
            Self::Join(spec) => vec![spec.left_keys.clone(), spec.right_keys.clone()],
            Self::Asof(spec) => vec![spec.left_keys.clone(), spec.right_keys.clone()],
            Self::Lookup(_) => vec![Vec::new()],
        }
    }

    /// An empty shard. Errors: a lookup, which has none.
    pub fn build(&self) -> Result<Box<dyn Operator>> {
        match self.clone() {
            Self::Aggregate(spec) => operator::aggregate(spec),
            Self::Session(spec) => operator::session(spec),
            Self::Deduplicate(spec) => operator::deduplicate(spec),
            Self::TopN(spec) => operator::top_n(spec),
            Self::Rolling(spec) => operator::rolling(spec),
            Self::Join(spec) => operator::join(spec),
            Self::Asof(spec) => operator::asof(spec),
            Self::Lookup(spec) => Err(Error::internal(format!("table `{}` is looked up, not remembered", spec.table))),
        }
    }

    /// All that decides what the operator remembers, in words: its own work and what its inputs are.
    pub fn identity(&self, inputs: &[Stream]) -> String {
        let mut text = String::new();
        let _ = write!(text, "{}: {}", self.kind(), self.essence());
        for input in inputs {
            let _ = write!(text, "\n<- {:?} {:?} {{{}}}", fields(&input.schema), input.rows.times, input.identity);
        }
        text
    }

    /// What it does, in a line that is the same for the same work.
    fn essence(&self) -> String {
        match self {
            Self::Aggregate(spec) => format!(
                "by {:?} closing {:?} {:?} filters {:?}",
                spec.keys,
                spec.closing,
                spec.aggregates.iter().map(|aggregate| aggregate.name()).collect::<Vec<_>>(),
                spec.filters.iter().map(|filter| filter.as_ref().map(ToString::to_string)).collect::<Vec<_>>()
            ),
            Self::Session(spec) => format!("by {:?} time {:?} gap {}", spec.keys, spec.time, spec.gap),
            Self::Deduplicate(spec) => format!("by {:?} time {:?} {:?}", spec.keys, spec.time, spec.emit),
            Self::TopN(spec) => format!(
                "{:?} by {:?} order {:?} limit {} closing {:?}",
                spec.function, spec.keys, spec.order, spec.limit, spec.closing
            ),
            Self::Rolling(spec) => format!(
                "by {:?} time {:?} emit {:?} {:?}",
                spec.keys,
                spec.time,
                spec.emit,
                spec.functions
                    .iter()
                    .map(|function| format!("{:?} {:?}", rolling_name(&function.function), function.frame))
                    .collect::<Vec<_>>()
            ),
            Self::Join(spec) => format!(
                "{:?} on {:?}={:?} bounds {:?} filter {:?}",
                spec.join_type,
                spec.left_keys,
                spec.right_keys,
                spec.bounds,
                spec.filter.as_ref().map(ToString::to_string)
            ),
            Self::Lookup(spec) => format!("{} by {:?}={:?}", spec.table, spec.left_keys, spec.right_keys),
            Self::Asof(spec) => format!(
                "on {:?}={:?} {:?} {:?} or_equal {} outer {}",
                spec.left_keys, spec.right_keys, spec.left_time, spec.right_time, spec.or_equal, spec.outer
            ),
        }
    }
}

fn rolling_name(kind: &operator::spec::RollingKind) -> String {
    use operator::spec::RollingKind as Kind;
    match kind {
        Kind::Aggregate(aggregate, filter) => {
            format!("{} {:?}", aggregate.name(), filter.as_ref().map(ToString::to_string))
        }
        other => format!("{other:?}"),
    }
}

fn fields(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}
