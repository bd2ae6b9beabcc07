//! GROUP BY: [`closing`] for groups that become complete (windows), [`updating`] for groups that keep changing.
//!
//! Owns grouping, accumulating, merging and the state of groups. Any DataFusion aggregate works, user-defined ones too:
//! accumulators are DataFusion's; each step's rows are accumulated and merged into the kept states ([`call`], [`groups`]).
//! Windows are not known here: a window's bounds are ordinary grouping columns, and the spec names the one that closes.

pub mod spec;
mod distinct;
mod call;
mod tolerant;
mod groups;
mod times;
mod layout;
mod pane;
mod panes;
mod closing;
mod weighted;
mod extremes;
mod multiset;
mod expiry;
mod updating;

use crate::error::{Error, Result};

use super::contract::Operator;
use super::spec::AggregateSpec;
use closing::Closing;
use panes::WORTHWHILE;
use times::ClosingKey;
use updating::Updating;

/// Makes one shard of a GROUP BY.
pub fn aggregate(spec: AggregateSpec) -> Result<Box<dyn Operator>> {
    sharing(spec, WORTHWHILE)
}

/// Like [`aggregate`]; a window of at least `worthwhile` rows gets its own hash aggregation.
fn sharing(spec: AggregateSpec, worthwhile: usize) -> Result<Box<dyn Operator>> {
    let closing = match spec.closing {
        None => None,
        Some(time) => {
            let key = spec.keys.iter().position(|key| *key == time.column);
            let key = key.ok_or_else(|| Error::internal("the closing column of a GROUP BY is none of its keys"))?;
            Some(ClosingKey { time, key })
        }
    };
    match closing {
        Some(closing) if !spec.retract => Ok(Box::new(Closing::new(spec, closing, worthwhile)?)),
        closing => Ok(Box::new(Updating::new(spec, closing)?)),
    }
}

#[cfg(test)]
mod tests;
