//! The protocol played out: epochs, a crash anywhere, damage, a start. Whatever is not refused ends with every sink holding
//! each epoch once in which it took part.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const TABLES: usize = 3;

/// Contents of a manifest, and of every commit of its epoch.
#[derive(Debug, Clone)]
struct Record {
    standing: Standing,
    /// The epoch that each table had before, and `true` if it takes part.
    tables: Vec<(Option<Standing>, bool)>,
    kafka: Option<Option<Standing>>,
    /// The length of each table's log.
    versions: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Logged {
    Commit(Record),
    /// To what the log said when it was this long.
    Restore(usize),
}

#[derive(Debug, Clone, Default)]
struct TableWorld {
    log: Vec<Logged>,
    /// Epochs whose files exist.
    files: BTreeSet<Standing>,
}

impl TableWorld {
    /// The epochs in the table when its log is this long.
    fn contents(&self, length: usize) -> Vec<Standing> {
        match length.checked_sub(1).map(|last| &self.log[last]) {
            None => Vec::new(),
            Some(Logged::Restore(to)) => self.contents(*to),
            Some(Logged::Commit(record)) => {
                let mut contents = self.contents(length - 1);
                if contents.last() != Some(&record.standing) {
                    contents.push(record.standing);
                }
                contents
            }
        }
    }

    fn now(&self) -> Vec<Standing> {
        self.contents(self.log.len())
    }

    /// The commit that its contents end with.
    fn commit(&self) -> Option<&Record> {
        let newest = *self.now().last()?;
        self.log.iter().rev().find_map(|entry| match entry {
            Logged::Commit(record) if record.standing == newest => Some(record),
            _ => None,
        })
    }

    fn recorded(&self) -> Option<Standing> {
        self.log.iter().rev().find_map(|entry| match entry {
            Logged::Commit(record) => Some(record.standing),
            Logged::Restore(_) => None,
        })
    }
}

#[derive(Debug, Clone, Default)]
struct KafkaWorld {
    contents: Vec<Standing>,
    record: Option<Option<Standing>>,
}

#[derive(Debug, Clone)]
struct World {
    kafka: Option<KafkaWorld>,
    tables: Vec<TableWorld>,
    manifests: BTreeMap<Standing, Record>,
    /// Every manifest that was ever written.
    written: BTreeMap<Standing, Record>,
    runs: i64,
}

impl World {
    fn new(with_kafka: bool) -> Self {
        let kafka = with_kafka.then(|| KafkaWorld { record: Some(None), ..KafkaWorld::default() });
        Self {
            kafka,
            tables: vec![TableWorld::default(); TABLES],
            manifests: BTreeMap::new(),
            written: BTreeMap::new(),
            runs: 0,
        }
    }

    /// Epoch `epoch`, up to a crash after `steps` steps: manifest, Kafka, tables. True when it is whole.
    fn epoch(&mut self, epoch: u64, takes_part: [bool; TABLES], mut steps: usize) -> bool {
        self.runs += 1;
        let standing = Standing { epoch: Epoch(epoch), manifest: ManifestId(self.runs) };
        let record = Record {
            standing,
            tables: (0..TABLES).map(|t| (self.tables[t].now().last().copied(), t == 0 || takes_part[t])).collect(),
            kafka: self.kafka.as_ref().map(|kafka| kafka.contents.last().copied()),
            versions: self.tables.iter().map(|table| table.log.len()).collect(),
        };
        for (table, _) in self.tables.iter_mut().zip(&record.tables).filter(|(_, (_, part))| *part) {
            table.files.insert(standing);
        }
        let mut step = || steps.checked_sub(1).map(|left| steps = left).is_some();
        if !step() {
            return false;
        }
        self.manifests.insert(standing, record.clone());
        self.written.insert(standing, record.clone());
        if let Some(kafka) = &mut self.kafka {
            if !step() {
                return false;
            }
            kafka.contents.push(standing);
            kafka.record = Some(Some(standing));
        }
        for (table, _) in self.tables.iter_mut().zip(&record.tables).filter(|(_, (_, part))| *part) {
            if !step() {
                return false;
            }
            table.log.push(Logged::Commit(record.clone()));
        }
        true
    }

    /// Facts that a survey would find.
    fn facts(&self) -> Facts {
        let mut sinks = Vec::new();
        if let Some(kafka) = &self.kafka {
            let held = match kafka.record {
                None => Held::Unknown,
                Some(standing) => standing.map_or(Held::Nothing, Held::UpTo),
            };
            sinks.push(SinkFact {
                held,
                recorded: None,
                ..sink("kafka", SinkKind::Kafka, 0, Role::Joins { moved: false })
            });
        }
        for (index, world) in self.tables.iter().enumerate() {
            let held = world.now().last().copied().map_or(Held::Nothing, Held::UpTo);
            let fact = sink(&index.to_string(), SinkKind::Table, 0, Role::Joins { moved: false });
            sinks.push(SinkFact { held, recorded: world.recorded(), ..fact });
        }
        let after = newest(&sinks);
        let manifest = after.and_then(|after| self.manifests.get(&after));
        let by_commit = after.and_then(|after| {
            self.tables.iter().filter_map(TableWorld::commit).find(|record| record.standing == after)
        });
        let record = manifest.or(by_commit);
        for sink in &mut sinks {
            let role = |(before, part): (Option<Standing>, bool)| match part {
                true => Role::TakesPart(Before::Known(before)),
                false => Role::Aside(Before::Known(before)),
            };
            let table = sink.sink.parse::<usize>().ok();
            sink.role = match (record, table) {
                (None, _) if after.is_some() => Role::NotRecorded,
                (None, _) => Role::Joins { moved: false },
                (Some(record), Some(table)) => role(record.tables[table]),
                (Some(record), None) => {
                    record.kafka.map_or(Role::Joins { moved: false }, |before| role((before, true)))
                }
            };
            if let (Some(table), Some(record)) = (table, record) {
                sink.files_exist = self.tables[table].files.contains(&record.standing);
                sink.log_is_behind = self.tables[table].log.len() < record.versions[table];
            }
        }
        let next = after.map_or(1, |after| after.epoch.0 + 1);
        let next_is_in_kafka = self.manifests.values().any(|m| m.standing.epoch.0 == next && m.kafka.is_some());
        Facts {
            sinks,
            manifest_exists: manifest.is_some(),
            state_exists: true,
            newest_manifest: self.manifests.keys().last().map(|standing| standing.epoch),
            next_is_in_kafka,
            restoring: None,
            vanished: Vec::new(),
            may_lack: false,
        }
    }

    /// A start. The epoch after which it continues, unless it is refused.
    fn start(&mut self) -> Option<u64> {
        match decide(&self.facts()) {
            Outcome::Refuse(_) => None,
            Outcome::Begin => Some(0),
            Outcome::Resume { after } | Outcome::ResumeWithoutState { after } => Some(after.epoch.0),
            Outcome::RollForward { after, owed } => {
                let record = self.manifests[&after].clone();
                for table in owed {
                    self.tables[table.parse::<usize>().unwrap()].log.push(Logged::Commit(record.clone()));
                }
                Some(after.epoch.0)
            }
            Outcome::TakeBack { after } => {
                for table in &mut self.tables {
                    let record = table.commit().cloned();
                    let restored = table.recorded() != table.now().last().copied();
                    table.log.extend(record.filter(|_| restored).map(Logged::Commit));
                }
                self.manifests.retain(|standing, _| standing.epoch <= after.epoch);
                Some(after.epoch.0)
            }
        }
    }

    fn damage(&mut self, damage: &Damage) {
        let copy_back = |table: &mut TableWorld, length: usize| {
            table.log.truncate(length);
            table.files = table.now().into_iter().collect();
        };
        match damage {
            Damage::Manifest(back) => {
                let which = self.manifests.keys().rev().nth(*back).copied();
                which.map(|standing| self.manifests.remove(&standing));
            }
            Damage::Restore(table, length) => {
                let table = &mut self.tables[*table];
                if *length < table.log.len() {
                    table.log.push(Logged::Restore(*length));
                }
            }
            Damage::CopyBack(table, length) => copy_back(&mut self.tables[*table], *length),
            Damage::Remove(table) => self.tables[*table] = TableWorld::default(),
            Damage::Forget => self.kafka.iter_mut().for_each(|kafka| kafka.record = None),
            Damage::AllBack { epoch, by_restore } => {
                for table in &mut self.tables {
                    let until = |length: &usize| table.contents(*length).iter().all(|s| s.epoch.0 <= *epoch);
                    let length = (0..=table.log.len()).rev().find(until).unwrap_or(0);
                    match by_restore {
                        true if length < table.log.len() => table.log.push(Logged::Restore(length)),
                        true => {}
                        false => copy_back(table, length),
                    }
                }
            }
        }
    }

    /// Every sink holds each epoch up to `after` once in which it took part, and no other.
    fn is_whole(&self, after: u64) -> Result<(), TestCaseError> {
        let first = self.tables[0].now();
        let epochs: Vec<u64> = first.iter().map(|standing| standing.epoch.0).collect();
        prop_assert_eq!(&epochs, &(1..=after).collect::<Vec<_>>(), "the first table takes part in every epoch");
        for (index, table) in self.tables.iter().enumerate() {
            let part = |standing: &&Standing| self.written[*standing].tables[index].1;
            let expected: Vec<Standing> = first.iter().filter(part).copied().collect();
            prop_assert_eq!(table.now(), expected, "table {}", index);
        }
        if let Some(kafka) = &self.kafka {
            prop_assert_eq!(&kafka.contents, &first, "kafka");
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Damage {
    /// The newest, the one before, …
    Manifest(usize),
    /// A Delta RESTORE of one table.
    Restore(usize, usize),
    CopyBack(usize, usize),
    Remove(usize),
    Forget,
    AllBack {
        epoch: u64,
        by_restore: bool,
    },
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        2 => (0_usize..2).prop_map(Damage::Manifest),
        3 => (0..TABLES, 0_usize..5).prop_map(|(table, length)| Damage::Restore(table, length)),
        3 => (0..TABLES, 0_usize..5).prop_map(|(table, length)| Damage::CopyBack(table, length)),
        1 => (0..TABLES).prop_map(Damage::Remove),
        2 => Just(Damage::Forget),
        3 => (0_u64..5, any::<bool>()).prop_map(|(epoch, by_restore)| Damage::AllBack { epoch, by_restore }),
    ]
}

/// Kafka without its record beside a lost manifest leaves no trace of an epoch that only Kafka has.
fn leaves_a_trace(damages: &[Damage]) -> bool {
    let forgot = damages.iter().any(|damage| matches!(damage, Damage::Forget));
    let lost = damages.iter().any(|damage| matches!(damage, Damage::Manifest(_)));
    !(forgot && lost)
}

fn run_all(
    kafka: bool,
    rounds: &[(usize, [bool; TABLES])],
    damages: &[Damage],
) -> Result<(bool, World), TestCaseError> {
    let (mut world, mut next) = (World::new(kafka), 1);
    for (steps, takes_part) in rounds {
        next = match world.epoch(next, *takes_part, *steps) {
            true => next + 1,
            false => {
                // Without damage a crash is never refused.
                let before = world.clone();
                match world.start() {
                    Some(after) => after + 1,
                    None => return Err(TestCaseError::fail(format!("refused without damage: {before:?}"))),
                }
            }
        };
        world.is_whole(next - 1)?;
    }
    // The last round ends with a crash, so that there is something to damage half done.
    world.epoch(next, [true; TABLES], rounds.first().map_or(0, |(steps, _)| *steps));
    damages.iter().for_each(|damage| world.damage(damage));
    let Some(after) = world.start() else { return Ok((false, world)) };
    world.is_whole(after)?;
    prop_assert!(world.epoch(after + 1, [true; TABLES], usize::MAX));
    world.is_whole(after + 1)?;
    Ok((true, world))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_a_start_that_is_not_refused_leaves_every_epoch_once_in_every_sink(
        kafka in any::<bool>(),
        rounds in prop::collection::vec((0_usize..8, any::<[bool; TABLES]>()), 0..5),
        damages in prop::collection::vec(any_damage(), 0..3).prop_filter("no trace", |damages| leaves_a_trace(damages)),
    ) {
        let (continued, _) = run_all(kafka, &rounds, &damages)?;
        prop_assert!(continued || !damages.is_empty(), "refused without damage");
    }
}

#[test]
fn tables_that_all_went_back_to_one_epoch_continue_there() {
    for by_restore in [false, true] {
        let rounds = [(8, [true; TABLES]); 4];
        let (continued, world) = run_all(false, &rounds, &[Damage::AllBack { epoch: 2, by_restore }]).unwrap();
        assert!(continued, "{world:?}");
        assert_eq!(world.tables[0].now().len(), 3);
        let (continued, _) = run_all(true, &rounds, &[Damage::AllBack { epoch: 2, by_restore }]).unwrap();
        assert!(!continued, "Kafka still has the later epochs");
    }
}
