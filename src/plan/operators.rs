//! Operators as nodes of a dataflow: what each is, what it reads, where its state is.

use std::collections::BTreeSet;
use std::ops::Deref;

use crate::catalog::OnRowError;
use crate::operator::spec::{
    AggregateSpec, AsofSpec, DeduplicateSpec, JoinSpec, LookupSpec, NewestSpec, OutputOrder, RollingSpec, SessionSpec,
    Spec, TopNSpec,
};
use crate::operator::{Check, Pending, StreamId};

/// The work of an operator. Everything that all operators answer is in [`Spec`].
#[derive(Debug, Clone)]
pub enum OperatorSpec {
    Aggregate(AggregateSpec),
    Session(SessionSpec),
    Deduplicate(DeduplicateSpec),
    TopN(TopNSpec),
    Newest(NewestSpec),
    Rolling(RollingSpec),
    Join(JoinSpec),
    Asof(AsofSpec),
    Lookup(LookupSpec),
}

impl Deref for OperatorSpec {
    type Target = dyn Spec;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Aggregate(spec) => spec,
            Self::Session(spec) => spec,
            Self::Deduplicate(spec) => spec,
            Self::TopN(spec) => spec,
            Self::Newest(spec) => spec,
            Self::Rolling(spec) => spec,
            Self::Join(spec) => spec,
            Self::Asof(spec) => spec,
            Self::Lookup(spec) => spec,
        }
    }
}

impl OperatorSpec {
    /// Per port, the expressions over its input that may fail. None where failing ones are null.
    pub fn checks(&self, mode: OnRowError) -> Vec<Vec<Check>> {
        vec![if mode == OnRowError::Null { Vec::new() } else { self.fallible() }]
    }

    /// The same over rows that carry their number behind the input's columns, for operators that emit the rows that they read.
    pub fn numbered(&self) -> Self {
        match self.clone() {
            Self::Rolling(spec) => Self::Rolling(spec.numbered()),
            Self::Deduplicate(spec) => Self::Deduplicate(spec.numbered()),
            other => other,
        }
    }
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
    /// Sources whose watermarks it follows.
    pub sources: BTreeSet<usize>,
    /// True when its output has weights.
    pub retract: bool,
    /// Per port: what it computes of each row that may fail.
    pub checks: Vec<Vec<Check>>,
    /// Pairs for which its own condition could not be computed.
    pub pending: Option<Pending>,
    /// The order that its rows are wanted in; `None`: in any.
    pub order: Option<OutputOrder>,
}
