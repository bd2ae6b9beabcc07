//! The decisions of a start: observed facts in, one documented outcome out. No I/O, no clock.
//!
//! The facts are what each sink holds, what the newest epoch's manifest (or, without it, a table's commit) says that each
//! sink should hold, and which files exist. Sinks commit in a fixed order, so a crash leaves at most one epoch half done:
//! the newest that any sink holds.
//!
//! Promises, whatever the facts (checked over all of them in `tests`): an epoch that some sink holds is never computed
//! again, none is lost, and no table gets an epoch while it lacks the one before in which it took part.

use crate::state::{Epoch, SinkRecord, Standing};

/// Manifests of one epoch that are read: each run that dies before its first commit leaves another.
const MANIFESTS_OF_AN_EPOCH: usize = 16;

/// The kind of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    /// Commits first. What it holds cannot be repeated from a manifest, and its record can expire.
    Kafka,
    Table,
}

/// The contents of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No epoch of the pipeline.
    Nothing,
    /// Everything up to this epoch.
    UpTo(Standing),
    /// A table was restored to a version that its log no longer describes, or Kafka has no record: it never had one, the
    /// record has expired, or it is another group's. (A pipeline that begins records epoch 0, which is `Nothing`.)
    Unknown,
}

/// The contents of a sink before the newest epoch, as the manifest records them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Known(Option<Standing>),
    /// The manifest was written by a version of weir that did not record it.
    NotRecorded,
}

/// The part of a sink in the newest epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pipeline did not write to it then: it is new, or it has been moved, copied or left out since. With epochs of the
    /// pipeline that are older than the newest, it lacks rows, unless `moved`: it holds just what a table should that the
    /// SQL no longer names.
    Joins { moved: bool },
    /// The epoch has something for it.
    TakesPart(Before),
    /// The epoch has nothing for it.
    Aside(Before),
    /// The SQL no longer names the table, and the newest epoch has nothing for it. It counts only for finding the newest epoch.
    Left,
    /// Neither a manifest nor a commit says.
    NotRecorded,
}

/// The facts of one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFact {
    /// The sink, as errors name it.
    pub sink: String,
    pub kind: SinkKind,
    /// Its contents.
    pub held: Held,
    /// The epoch that its own record names. Differs from `held` after a Delta RESTORE, which leaves `txn` actions as they are.
    pub recorded: Option<Standing>,
    pub role: Role,
    /// The files that the newest manifest names for it exist; of interest where it lacks the epoch.
    pub files_exist: bool,
    /// Its log ends before a version that the manifest knows.
    pub log_is_behind: bool,
}

/// Everything that a start looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// In commit order; then the tables that the manifests of [`recent`] name and the SQL does not.
    pub sinks: Vec<SinkFact>,
    /// The manifest of [`newest`] exists.
    pub manifest_exists: bool,
    /// All state files that it names exist.
    pub state_exists: bool,
    /// The newest epoch that has a manifest, committed or not.
    pub newest_manifest: Option<Epoch>,
    /// The epoch after [`newest`] has a manifest with a Kafka transaction, so Kafka may hold it.
    pub next_is_in_kafka: bool,
    /// A `weir restore` to this epoch did not finish.
    pub restoring: Option<Epoch>,
    /// Tables that take part in the newest epoch, that the SQL no longer names, and that do not exist: whether they have it
    /// is not known.
    pub vanished: Vec<String>,
    /// The user takes it that tables lack rows (`--allow-rebuild`).
    pub may_lack: bool,
}

/// The decision about a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No sink holds anything: begin with epoch 1.
    Begin,
    /// Every sink holds what it should: continue after this epoch.
    Resume { after: Standing },
    /// A crash came between two sinks: commit this epoch to the tables that lack it, then continue after it.
    RollForward { after: Standing, owed: Vec<String> },
    /// All sinks were taken back to this epoch together, and its manifest and state exist: record it in the tables, forget
    /// the manifests of later epochs, continue after it.
    TakeBack { after: Standing },
    /// The manifest is gone, but every sink that took part in its epoch has it: continue after it with the offsets in the
    /// tables. What operators kept in state is not known.
    ResumeWithoutState { after: Standing },
    /// Anything else would lose or repeat rows: stop.
    Refuse(Refusal),
}

/// Why a start stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Two sinks hold the same epoch under different manifests: two runs have both won, or a folder was copied.
    Conflict { epoch: Epoch, sinks: [String; 2] },
    /// The manifest of the newest epoch is gone, and these sinks lack the epoch or cannot be shown to need nothing of it.
    HalfDone { newest: Standing, sinks: Vec<String> },
    /// These sinks hold less than they did when the newest epoch began.
    PutBack { newest: Standing, sinks: Vec<String> },
    /// These tables lack the newest epoch, and files that its manifest names for them do not exist.
    FilesGone { newest: Standing, sinks: Vec<String> },
    /// The Kafka sinks have no record of what they committed, and may hold an epoch that no table has.
    KafkaForgot { newest: Option<Standing> },
    /// All sinks agree on an epoch that later ones had followed; its state files are gone.
    StateGone { newest: Standing },
    /// No sink holds anything, though the pipeline had committed epochs before this one.
    Vanished { manifest: Epoch },
    /// These tables join with an older epoch of this very pipeline, or are owed the newest and are gone.
    Lacking { newest: Standing, joining: Vec<String>, vanished: Vec<String> },
    /// A `weir restore` did not finish: the sinks are on their way to this epoch.
    Restoring { epoch: Epoch },
}

/// The newest epoch that any sink holds; its manifest is the one to read. `None` when there is none.
pub fn newest<'a>(sinks: impl IntoIterator<Item = &'a SinkFact>) -> Option<Standing> {
    let held = sinks.into_iter().filter_map(|sink| match sink.held {
        Held::UpTo(standing) => Some(standing),
        Held::Nothing | Held::Unknown => None,
    });
    held.reduce(|best, standing| if standing.epoch > best.epoch { standing } else { best })
}

/// The manifests whose tables may hold the newest epoch, the newest first: those of the last two epochs that have one. A manifest is
/// written once the epoch before it is committed everywhere. `listed` is sorted, the oldest first.
pub fn recent(listed: &[Standing]) -> Vec<Standing> {
    let epochs = listed.chunk_by(|a, b| a.epoch == b.epoch).rev().take(2);
    epochs.flat_map(|same| same.iter().rev().take(MANIFESTS_OF_AN_EPOCH).copied()).collect()
}

/// The epoch that a table has had, by the newest manifest's record of it: if it does not exist now, it was removed and must
/// not be made again. `None`: it may be new.
pub fn must_exist(record: Option<&SinkRecord>) -> Option<Standing> {
    record.and_then(|record| record.before)
}

/// The obstacle that one sink puts in the way of continuing after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// It holds what it should.
    Complete,
    /// It holds what it should have held before the epoch, and the manifest has something for it.
    Owed,
    /// It holds less.
    PutBack,
    /// It joins without epochs that the pipeline has committed since it was written.
    Lacks,
    /// Nothing says what it should hold.
    Unproven,
    /// Kafka has no record of its own, and a manifest says that a later epoch may be in it.
    Forgot,
}

/// Decides. The same facts always give the same outcome.
pub fn decide(facts: &Facts) -> Outcome {
    if let Some(epoch) = facts.restoring {
        return Outcome::Refuse(Refusal::Restoring { epoch });
    }
    let Some(newest) = newest(&facts.sinks) else { return without_epochs(facts) };
    if let Some(refusal) = conflict(newest, &facts.sinks) {
        return Outcome::Refuse(refusal);
    }
    let findings: Vec<(&SinkFact, Finding)> =
        facts.sinks.iter().map(|sink| (sink, finding(sink, newest, facts))).collect();
    let which = |wanted: &[Finding]| -> Vec<String> {
        findings.iter().filter(|(_, found)| wanted.contains(found)).map(|(sink, _)| sink.sink.clone()).collect()
    };
    let joining = which(&[Finding::Lacks]);
    if !(facts.may_lack || joining.is_empty() && facts.vanished.is_empty()) {
        return Outcome::Refuse(Refusal::Lacking { newest, joining, vanished: facts.vanished.clone() });
    }
    if !facts.manifest_exists {
        let mut wrong = which(&[Finding::Owed, Finding::PutBack, Finding::Unproven, Finding::Forgot]);
        wrong.extend(facts.sinks.iter().filter(|sink| was_restored(sink)).map(|sink| sink.sink.clone()));
        wrong.dedup();
        return match wrong.is_empty() {
            true => Outcome::ResumeWithoutState { after: newest },
            false => Outcome::Refuse(Refusal::HalfDone { newest, sinks: wrong }),
        };
    }
    let put_back = which(&[Finding::PutBack, Finding::Unproven]);
    if !put_back.is_empty() {
        return Outcome::Refuse(Refusal::PutBack { newest, sinks: put_back });
    }
    if !which(&[Finding::Forgot]).is_empty() {
        return Outcome::Refuse(Refusal::KafkaForgot { newest: Some(newest) });
    }
    // The manifest of the epoch after the next is written when the next is committed everywhere.
    let later = facts.newest_manifest.is_some_and(|manifest| manifest > newest.epoch.next());
    let taken_back = later || facts.sinks.iter().any(was_restored);
    let owed: Vec<&SinkFact> =
        findings.iter().filter(|(_, found)| *found == Finding::Owed).map(|(sink, _)| *sink).collect();
    if !owed.is_empty() {
        return roll_forward(newest, &owed, taken_back);
    }
    match (taken_back, facts.state_exists) {
        (false, _) => Outcome::Resume { after: newest },
        (true, true) => Outcome::TakeBack { after: newest },
        (true, false) => Outcome::Refuse(Refusal::StateGone { newest }),
    }
}

fn roll_forward(newest: Standing, owed: &[&SinkFact], taken_back: bool) -> Outcome {
    let names = |sinks: &mut dyn Iterator<Item = &&SinkFact>| sinks.map(|sink| sink.sink.clone()).collect::<Vec<_>>();
    let behind = names(&mut owed.iter().filter(|sink| taken_back || sink.log_is_behind));
    if !behind.is_empty() {
        return Outcome::Refuse(Refusal::PutBack { newest, sinks: behind });
    }
    let without_files = names(&mut owed.iter().filter(|sink| !sink.files_exist));
    if !without_files.is_empty() {
        return Outcome::Refuse(Refusal::FilesGone { newest, sinks: without_files });
    }
    Outcome::RollForward { after: newest, owed: names(&mut owed.iter()) }
}

fn without_epochs(facts: &Facts) -> Outcome {
    // Epoch 1 may have a manifest that no sink names: the process died before its first commit.
    if let Some(manifest) = facts.newest_manifest.filter(|epoch| epoch.0 > 1) {
        return Outcome::Refuse(Refusal::Vanished { manifest });
    }
    let tables = || facts.sinks.iter().filter(|sink| sink.kind == SinkKind::Table);
    if tables().any(contradicts_its_record) {
        let recorded = tables().filter_map(|sink| sink.recorded).map(|standing| standing.epoch).max();
        return Outcome::Refuse(Refusal::Vanished { manifest: recorded.unwrap_or(Epoch(1)) });
    }
    let forgot = facts.sinks.iter().any(|sink| sink.held == Held::Unknown) && facts.next_is_in_kafka;
    if forgot { Outcome::Refuse(Refusal::KafkaForgot { newest: None }) } else { Outcome::Begin }
}

fn conflict(newest: Standing, sinks: &[SinkFact]) -> Option<Refusal> {
    let has = |sink: &&SinkFact| sink.held == Held::UpTo(newest);
    let contradicts = |sink: &&SinkFact| match sink.held {
        Held::UpTo(_) if sink.role == Role::Left => false,
        Held::UpTo(held) => held.epoch == newest.epoch && held.manifest != newest.manifest,
        Held::Nothing | Held::Unknown => false,
    };
    let (first, other) = (sinks.iter().find(has)?, sinks.iter().find(contradicts)?);
    Some(Refusal::Conflict { epoch: newest.epoch, sinks: [first.sink.clone(), other.sink.clone()] })
}

/// True if a table that counts was restored.
fn was_restored(sink: &SinkFact) -> bool {
    sink.role != Role::Left && contradicts_its_record(sink)
}

/// True if the contents of a table are not what its `txn` actions say.
fn contradicts_its_record(sink: &SinkFact) -> bool {
    match sink.held {
        _ if sink.kind == SinkKind::Kafka => false,
        Held::Nothing => sink.recorded.is_some(),
        Held::UpTo(standing) => sink.recorded != Some(standing),
        Held::Unknown => true,
    }
}

fn finding(sink: &SinkFact, newest: Standing, facts: &Facts) -> Finding {
    if sink.role == Role::Left {
        return Finding::Complete;
    }
    let held = match (sink.held, sink.kind) {
        // A table holds the newest epoch, so Kafka had it, too. Did it have the next one?
        (Held::Unknown, SinkKind::Kafka) if facts.next_is_in_kafka || !facts.manifest_exists => return Finding::Forgot,
        (Held::Unknown, SinkKind::Kafka) => return Finding::Complete,
        (Held::Unknown, SinkKind::Table) => return Finding::PutBack,
        (Held::UpTo(standing), _) if standing == newest => return Finding::Complete,
        (Held::UpTo(standing), _) => Some(standing),
        (Held::Nothing, _) => None,
    };
    match sink.role {
        Role::Joins { moved: false } if held.is_some() && sink.kind == SinkKind::Table => Finding::Lacks,
        Role::Joins { .. } | Role::Left | Role::Aside(Before::NotRecorded) => Finding::Complete,
        Role::NotRecorded => Finding::Unproven,
        Role::Aside(Before::Known(before)) if held == before => Finding::Complete,
        // Kafka commits first: it had what a table has.
        Role::TakesPart(_) if sink.kind == SinkKind::Kafka => Finding::PutBack,
        Role::TakesPart(Before::Known(before)) if held == before => Finding::Owed,
        Role::TakesPart(Before::NotRecorded) => Finding::Owed,
        Role::Aside(Before::Known(_)) | Role::TakesPart(Before::Known(_)) => Finding::PutBack,
    }
}

#[cfg(test)]
mod tests;
