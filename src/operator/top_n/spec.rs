//! The specifications of Top-N and of the newest row of each key.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;

use super::Keeping;
use crate::error::Result;
use crate::operator::Operator;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn};
use crate::operator::words::{clock, forgets, names};
use crate::time::Lag;

/// `row_number() OVER (PARTITION BY keys ORDER BY order) <= limit`, rank() and dense_rank() likewise. Output: the input's
/// columns (without its weight), the rank as BIGINT UNSIGNED if `with_rank`, then the weight unless `closing`.
#[derive(Debug, Clone)]
pub struct TopNSpec {
    pub input: SchemaRef,
    pub retract: bool,
    pub function: RankFunction,
    /// PARTITION BY columns; the first `routing` route.
    pub keys: Vec<usize>,
    pub routing: usize,
    pub order: Vec<(usize, SortOptions)>,
    pub limit: usize,
    pub with_rank: bool,
    /// `Some`: a partition is emitted once, when this key's value is complete (append). `None`: changes are emitted at every
    /// step.
    pub closing: Option<TimeColumn>,
    pub ttl: Option<Lag>,
    pub time: Option<TimeColumn>,
    pub output: SchemaRef,
}

/// Ranking of rows with equal order values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankFunction {
    RowNumber,
    Rank,
    DenseRank,
}

/// The rows that a target with a PRIMARY KEY holds of a retracting stream, where several rows may have one key: the last row
/// of each key. Output = input.
#[derive(Debug, Clone)]
pub struct NewestSpec {
    /// The table or sink, by name.
    pub target: String,
    /// The input's last column is the weight.
    pub input: SchemaRef,
    /// The PRIMARY KEY; all route.
    pub keys: Vec<usize>,
    /// Rows expire this long after they arrived, microseconds.
    pub ttl: Option<Lag>,
    pub time: Option<TimeColumn>,
}

impl Spec for TopNSpec {
    fn kind(&self) -> &'static str {
        "top_n"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys[..self.routing].to_vec()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::top_n(self.clone())
    }

    fn build_for(&self, tables: &[&str]) -> Result<Box<dyn Operator>> {
        super::top_n_for(self.clone(), tables)
    }

    fn essence(&self) -> String {
        format!(
            "{:?} by {:?} order {:?} limit {} closing {:?} kept {:?}",
            self.function,
            self.keys,
            self.order,
            self.limit,
            self.closing,
            Keeping::first(self)
        )
    }

    fn explain(&self) -> Facts {
        let order = self.order.iter().map(|(column, options)| {
            format!("{}{}", self.input.field(*column).name(), if options.descending { " desc" } else { "" })
        });
        let order: Vec<_> = order.collect();
        let kept =
            if self.retract { "every row of each key".to_owned() } else { format!("{} rows of each key", self.limit) };
        let (emits, evicts) = match self.closing {
            Some(closing) => (
                format!(
                    "the first {} of a key once, when {} is complete",
                    self.limit,
                    self.input.field(closing.column).name()
                ),
                "a key once it has been emitted".to_owned(),
            ),
            None => (
                format!("changes of the first {} of each key with every micro-batch", self.limit),
                forgets(self.ttl, "keys without rows for", clock(&self.input, self.time)),
            ),
        };
        vec![
            ("keys", names(&self.input, &self.keys)),
            ("order", order.join(", ")),
            ("state", kept),
            ("emits", emits),
            ("evicts", evicts),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        match self.closing {
            Some(_) => "windows that are open now will lack the rows read before",
            None => "only rows that come from now on are ranked",
        }
    }

    fn follows_time(&self) -> bool {
        self.closing.is_some() || self.ttl.and(self.time).is_some()
    }

    fn closing(&self) -> Option<TimeColumn> {
        self.closing
    }

    fn order(&self) -> Option<OutputOrder> {
        Some(OutputOrder::Time(vec![self.closing?.column]))
    }
}

impl Spec for NewestSpec {
    fn kind(&self) -> &'static str {
        "newest"
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.input)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys.clone()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::newest(self)
    }

    fn essence(&self) -> String {
        format!("into {} by {:?}", self.target, self.keys)
    }

    fn explain(&self) -> Facts {
        let keys = format!(
            "{} (PRIMARY KEY of {}, of which the query may give several rows)",
            names(&self.input, &self.keys),
            self.target
        );
        vec![
            ("keys", keys),
            ("state", "every row of each key".to_owned()),
            ("emits", "of each key the row that came last; when it is taken back, the one before".to_owned()),
            ("evicts", forgets(self.ttl, "rows after", clock(&self.input, self.time))),
        ]
    }

    fn begins_empty(&self) -> &'static str {
        "a row that comes from now on, and is taken back, takes its key away, though rows read before may still have it"
    }

    fn follows_time(&self) -> bool {
        self.ttl.and(self.time).is_some()
    }

    fn depends_on_order(&self) -> bool {
        true
    }
}
