//! The protocol played out with edits of the SQL: between any two starts the pipeline may write to other tables, and a crash
//! may come anywhere. No epoch is lost or computed again, and only a table that would lack rows is refused.

use super::*;

const TABLES: usize = 4;

/// The tables that the SQL names.
type Declared = [bool; TABLES];

#[derive(Debug, Clone)]
struct Written {
    standing: Standing,
    /// Table, what it had before, and whether it takes part.
    sinks: Vec<(usize, Option<Standing>, bool)>,
}

impl Written {
    fn takes_part(&self, table: usize) -> bool {
        self.sinks.iter().any(|(named, _, part)| *named == table && *part)
    }
}

#[derive(Debug, Clone, Default)]
struct World {
    /// The epochs of each table.
    tables: [Vec<Standing>; TABLES],
    manifests: Vec<Written>,
}

impl World {
    /// Epoch `epoch`, up to a crash after `steps` steps: its manifest, then its tables.
    fn epoch(&mut self, epoch: u64, declared: Declared, parts: Declared, mut steps: usize) {
        let first = declared.iter().position(|named| *named);
        let named = (0..TABLES).filter(|table| declared[*table]);
        let sinks = named.map(|t| (t, self.tables[t].last().copied(), Some(t) == first || parts[t])).collect();
        let standing = Standing { epoch: Epoch(epoch), manifest: ManifestId(self.manifests.len() as i64) };
        let written = Written { standing, sinks };
        let mut step = || steps.checked_sub(1).map(|left| steps = left).is_some();
        if !step() {
            return;
        }
        self.manifests.push(written.clone());
        for table in (0..TABLES).filter(|table| written.takes_part(*table)) {
            if !step() {
                return;
            }
            self.tables[table].push(standing);
        }
    }

    fn manifest(&self, standing: Standing) -> &Written {
        self.manifests.iter().find(|written| written.standing == standing).unwrap()
    }

    /// Facts that a survey would find.
    fn facts(&self, declared: Declared) -> Facts {
        let mut listed: Vec<Standing> = self.manifests.iter().map(|written| written.standing).collect();
        listed.sort();
        let fact = |table: &usize| {
            let held = self.tables[*table].last().copied();
            let fact = sink(&table.to_string(), SinkKind::Table, 0, Role::Joins { moved: false });
            SinkFact { held: held.map_or(Held::Nothing, Held::UpTo), recorded: held, ..fact }
        };
        let named = |standing: Standing| self.manifest(standing).sinks.iter().map(|(table, ..)| *table);
        let mut looked: Vec<usize> = (0..TABLES).filter(|table| declared[*table]).collect();
        for table in recent(&listed).into_iter().flat_map(named) {
            if !looked.contains(&table) {
                looked.push(table);
            }
        }
        let mut sinks: Vec<SinkFact> = looked.iter().map(fact).collect();
        let after = newest(&sinks);
        for (fact, table) in sinks.iter_mut().zip(looked) {
            let Some(after) = after else { break };
            let record = self.manifest(after).sinks.iter().find(|(named, ..)| *named == table);
            fact.role = match record {
                Some((_, before, true)) => Role::TakesPart(Before::Known(*before)),
                Some((_, before, false)) if declared[table] => Role::Aside(Before::Known(*before)),
                None if declared[table] => Role::Joins { moved: false },
                _ => Role::Left,
            };
        }
        let newest_manifest = listed.last().map(|standing| standing.epoch);
        Facts { newest_manifest, manifest_exists: after.is_some(), ..super::facts(sinks) }
    }

    /// A start. The epoch after which it continues.
    fn start(&mut self, declared: Declared) -> Result<u64, Refusal> {
        match decide(&self.facts(declared)) {
            Outcome::Begin => Ok(0),
            Outcome::Resume { after } => Ok(after.epoch.0),
            Outcome::RollForward { after, owed } => {
                owed.iter().for_each(|table| self.tables[table.parse::<usize>().unwrap()].push(after));
                Ok(after.epoch.0)
            }
            Outcome::Refuse(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Each epoch up to `after` is, under one manifest, in just the tables that take part in it.
    fn is_whole(&self, after: u64) -> Result<(), TestCaseError> {
        for epoch in 1..=after {
            let held = self.tables.iter().flatten().find(|held| held.epoch.0 == epoch);
            prop_assert!(held.is_some(), "epoch {} is lost: {:?}", epoch, self);
            let written = held.map(|held| self.manifest(*held)).unwrap();
            for (table, epochs) in self.tables.iter().enumerate() {
                let holds: Vec<&Standing> = epochs.iter().filter(|held| held.epoch.0 == epoch).collect();
                let expected = if written.takes_part(table) { vec![&written.standing] } else { Vec::new() };
                prop_assert_eq!(holds, expected, "epoch {} in table {}: {:?}", epoch, table, self);
            }
        }
        prop_assert!(self.tables.iter().flatten().all(|held| held.epoch.0 <= after), "{self:?}");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_between_any_two_starts_loses_and_repeats_no_epoch(
        rounds in prop::collection::vec((any::<Declared>(), any::<Declared>(), 0_usize..7), 1..8),
    ) {
        let (mut world, mut declared, mut reached) = (World::default(), [true, false, false, false], 0);
        for (edited, parts, steps) in rounds.into_iter().filter(|(edited, ..)| edited.contains(&true)) {
            let after = match world.start(edited) {
                Ok(after) => {
                    declared = edited;
                    after
                }
                Err(Refusal::Lacking { .. }) => match world.start(declared) {
                    Ok(after) => after,
                    Err(refusal) => return Err(TestCaseError::fail(format!("{refusal:?} though the edit is undone: {world:?}"))),
                },
                Err(refusal) => return Err(TestCaseError::fail(format!("{refusal:?} of {edited:?}: {world:?}"))),
            };
            prop_assert_eq!(after, reached, "{:?}", world);
            world.is_whole(after)?;
            world.epoch(after + 1, declared, parts, steps);
            reached = after + u64::from(steps > 1);
        }
    }
}
