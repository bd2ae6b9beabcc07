//! The decisions of the commit protocol: observed facts in, a decision out. No I/O, no clock.
//!
//! Facts are what each sink itself says it has: an epoch and the manifest under which it was committed. Sinks commit in
//! a fixed order, so at most one epoch is ever half done: the newest that any sink has.

use crate::state::{Epoch, ManifestId};

/// What one sink says it has committed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFact {
    /// The sink, as errors name it.
    pub sink: String,
    pub committed: Option<(Epoch, ManifestId)>,
}

/// What the facts mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No sink has anything: begin with epoch 1.
    Begin,
    /// The newest epoch is this one, under this manifest: finish it where it is missing, then go on after it.
    RollForward { epoch: Epoch, manifest: ManifestId },
    /// Two sinks have the same epoch under different manifests: two runs have both won, or a table was restored.
    Conflict { epoch: Epoch, sinks: [String; 2] },
}

/// Decides from what the sinks say.
pub fn decide(facts: &[SinkFact]) -> Decision {
    let Some((epoch, manifest, first)) = facts
        .iter()
        .filter_map(|fact| fact.committed.map(|(epoch, manifest)| (epoch, manifest, &fact.sink)))
        .max_by_key(|(epoch, ..)| *epoch)
    else {
        return Decision::Begin;
    };
    let other = facts.iter().find(|fact| fact.committed.is_some_and(|(e, m)| e == epoch && m != manifest));
    match other {
        Some(other) => Decision::Conflict { epoch, sinks: [first.clone(), other.sink.clone()] },
        None => Decision::RollForward { epoch, manifest },
    }
}

/// True when a sink that takes part in `epoch` still has to commit it.
pub fn lacks(committed: Option<(Epoch, ManifestId)>, epoch: Epoch) -> bool {
    committed.is_none_or(|(has, _)| has < epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(sink: &str, committed: Option<(u64, i64)>) -> SinkFact {
        SinkFact { sink: sink.into(), committed: committed.map(|(e, m)| (Epoch(e), ManifestId(m))) }
    }

    #[test]
    fn empty_sinks_begin_at_the_first_epoch() {
        assert_eq!(decide(&[fact("a", None), fact("b", None)]), Decision::Begin);
        assert_eq!(decide(&[]), Decision::Begin);
    }

    #[test]
    fn the_newest_epoch_of_any_sink_is_rolled_forward() {
        let facts = [fact("a", Some((7, 70))), fact("b", Some((6, 60))), fact("new", None)];
        assert_eq!(decide(&facts), Decision::RollForward { epoch: Epoch(7), manifest: ManifestId(70) });
        assert!(!lacks(facts[0].committed, Epoch(7)));
        assert!(lacks(facts[1].committed, Epoch(7)));
        assert!(lacks(facts[2].committed, Epoch(7)));
    }

    #[test]
    fn one_epoch_under_two_manifests_is_a_conflict() {
        let facts = [fact("a", Some((7, 70))), fact("b", Some((7, 71)))];
        assert!(matches!(decide(&facts), Decision::Conflict { epoch: Epoch(7), .. }));
    }

    #[test]
    fn an_older_epoch_under_another_manifest_is_history() {
        let facts = [fact("a", Some((7, 70))), fact("b", Some((5, 1)))];
        assert_eq!(decide(&facts), Decision::RollForward { epoch: Epoch(7), manifest: ManifestId(70) });
    }
}
