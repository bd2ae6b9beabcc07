//! The specification of an aggregation.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::error::Result;
use crate::operator::Operator;
use crate::operator::planning::{Facts, OutputOrder, Spec, TimeColumn, collects_in_order};
use crate::operator::refused::Check;
use crate::operator::words::{clock, forgets, interval, names, shown, time};
use crate::time::Lag;

/// GROUP BY. Output: the keys in order, then one column per aggregate.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    pub input: SchemaRef,
    /// `true` if the input's last column is the weight.
    pub retract: bool,
    /// Grouping columns; the first `routing` of them route (a group by window alone has none and lives in one shard).
    pub keys: Vec<usize>,
    pub routing: usize,
    /// `Some`: groups are emitted once, when the value of this key is complete (append). `None`: changed groups are emitted
    /// at every step, the old row retracted; the first row of a group has nothing to retract.
    pub closing: Option<TimeColumn>,
    /// Over the input's columns; FILTER clauses are in `filters`.
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Groups untouched for this long expire, microseconds. Only without `closing`.
    pub ttl: Option<Lag>,
    /// The event time of the input, for TTLs.
    pub time: Option<TimeColumn>,
    pub output: SchemaRef,
}

impl Spec for AggregateSpec {
    fn kind(&self) -> &'static str {
        if self.closing.is_some() { "window_aggregate" } else { "aggregate" }
    }

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn routing(&self) -> Vec<Vec<usize>> {
        vec![self.keys[..self.routing].to_vec()]
    }

    fn build(&self) -> Result<Box<dyn Operator>> {
        super::aggregate(self.clone())
    }

    fn essence(&self) -> String {
        format!(
            "by {:?} closing {:?} {:?} filters {:?}",
            self.keys,
            self.closing,
            self.aggregates.iter().map(|aggregate| name_of(aggregate)).collect::<Vec<_>>(),
            self.filters.iter().map(|filter| filter.as_ref().map(shown)).collect::<Vec<_>>()
        )
    }

    fn explain(&self) -> Facts {
        let computed: Vec<_> = self.aggregates.iter().map(|aggregate| aggregate.name().to_owned()).collect();
        let mut facts = vec![("keys", names(&self.input, &self.keys)), ("computes", computed.join(", "))];
        match self.closing {
            Some(closing) => {
                let key = self.input.field(closing.column).name();
                facts.push(("time", time(&self.input, Some(closing))));
                facts.push(("state", "groups of open windows".to_owned()));
                facts.push((
                    "emits",
                    format!("a group once, when the watermark has passed {key} by {}", interval(closing.lag)),
                ));
                facts.push(("evicts", "a group once it has been emitted".to_owned()));
            }
            None => {
                facts.push(("state", "every group".to_owned()));
                facts.push(("emits", "changed groups with every micro-batch, the old row taken back".to_owned()));
                facts.push(("evicts", forgets(self.ttl, "groups without rows for", clock(&self.input, self.time))));
            }
        }
        facts
    }

    fn begins_empty(&self) -> &'static str {
        match self.closing {
            Some(_) => "windows that are open now will lack the rows read before",
            None => "groups count only the rows that come from now on",
        }
    }

    fn follows_time(&self) -> bool {
        self.closing.is_some() || self.ttl.and(self.time).is_some()
    }

    fn closing(&self) -> Option<TimeColumn> {
        self.closing
    }

    fn over_input(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let arguments = self.aggregates.iter().flat_map(|aggregate| aggregate.expressions());
        arguments.chain(self.filters.iter().flatten().cloned()).collect()
    }

    fn fallible(&self) -> Vec<Check> {
        let calls = self.aggregates.iter().zip(&self.filters);
        calls.flat_map(|(call, filter)| Check::of_call(call, filter.as_ref(), &self.input)).collect()
    }

    fn depends_on_order(&self) -> bool {
        self.aggregates.iter().any(|call| collects_in_order(call))
    }

    fn order(&self) -> Option<OutputOrder> {
        let closing = self.closing?.column;
        Some(OutputOrder::Time(vec![self.keys.iter().position(|key| *key == closing)?]))
    }
}

/// The name of an aggregate, with the layout of its state where that has changed.
fn name_of(aggregate: &AggregateFunctionExpr) -> String {
    match aggregate.fun().name() {
        // Means and deviations since sums of squares were given up.
        "corr" => format!("{} of deviations", aggregate.name()),
        _ => aggregate.name().to_owned(),
    }
}
