//! Making a closed epoch durable and visible: files, manifest, Kafka transaction, tables, in that order.
//!
//! Each step may be the last before a crash; [`super::recovery`] knows what each leaves behind. Before the manifest:
//! files nobody names. After it: nothing is visible, the epoch will be read again. After the first commit: the manifest
//! that it names is the epoch, and what is missing is committed from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::standings::Standings;
use crate::delta::{CommitOutcome, CommitRequest, OffsetId, StagedFiles, UpsertTable};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::run::memory::OperatorChanges;
use crate::run::open::{Outputs, Ranges};
use crate::run::remember::Remembered;
use crate::run::sinks::{Sinks, TableSink};
use crate::sink::dead_letters::{self, Letter};
use crate::sink::kafka::{RefusedMessage, Sent, TopicMessages, TransactionalProducer};
use crate::sink::{Arrived, Refused, Sink, Staged, in_order};
use crate::source::chunk::{Offsets, TopicIdentity, Witness};
use crate::state::{
    CommitPermit, Epoch, Manifest, ManifestId, ManifestStore, OperatorSnapshot, SourceTime, TableCommit,
};
use crate::time::Watermark;

/// Times that an epoch is staged anew because other writers changed its table.
const MAX_RESTAGED: u32 = 20;

/// Times that an epoch is made again because brokers refuse a message for its size; mostly their limits are known before.
const MAX_REFUSALS: u32 = 100;

/// Facts that stay the same from epoch to epoch.
pub struct Committer {
    pub pipeline: String,
    pub run: String,
    pub fingerprint: String,
    /// Model name to hash.
    pub models: BTreeMap<String, String>,
    /// In the order of the dataflow's sources.
    pub sources: Vec<String>,
    /// Source name to location, of sources that read Delta tables.
    pub reads: BTreeMap<String, String>,
    /// Witnesses that vouch for the offsets read, per source.
    pub witnesses: Vec<Option<Arc<dyn Witness>>>,
    pub sinks: Arc<Sinks>,
    pub manifests: ManifestStore,
    pub remembered: Remembered,
    /// Epoch that each sink holds; behind a lock only because commits run as tasks, one at a time.
    pub standings: Mutex<Standings>,
    pub env: Env,
}

/// An epoch that takes no more rows.
pub struct Closed {
    pub epoch: Epoch,
    pub outputs: Arc<Outputs>,
    pub ranges: Ranges,
    /// Next offsets per source index, after this epoch.
    pub positions: Vec<Offsets>,
    pub records: u64,
    /// Changes of operators' state that are to be written down.
    pub changes: Vec<OperatorChanges>,
    /// Event time per source, and the watermark per operator.
    pub times: BTreeMap<String, SourceTime>,
    pub watermarks: BTreeMap<String, Watermark>,
    /// The version of each table that rows were joined to.
    pub lookups: BTreeMap<String, u64>,
    /// The topic that the positions of a Kafka source are of.
    pub topics: BTreeMap<String, TopicIdentity>,
}

/// Results of a commit, for progress.
#[derive(Debug, Default)]
pub struct Committed {
    pub files: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    /// Per branch the rows that its target took and those that it refused.
    pub rows: Vec<(u64, u64)>,
    /// Per branch target: table version, when it is a table that committed.
    pub versions: BTreeMap<String, i64>,
    pub close_ms: u64,
    pub state_ms: u64,
    pub manifest_ms: u64,
    pub commit_ms: u64,
    /// Why the run has to end now.
    pub last: Option<Error>,
}

impl Committer {
    /// Commits `closed`. When it returns, every sink has the epoch.
    ///
    /// Errors: `Fenced` when another run has the epoch; `Environment` when a store or broker did not answer in time: the
    /// process should end, the next run finishes the epoch.
    pub async fn commit(&self, mut closed: Closed) -> Result<Committed> {
        let mut done = Committed::default();
        let clock = Instant::now();
        let ((mut tables, mut messages), last) = tokio::try_join!(self.close(&closed, &mut done), self.vouch(&closed))?;
        done.last = last;
        done.close_ms = clock.elapsed().as_millis() as u64;

        let clock = Instant::now();
        let changes = std::mem::take(&mut closed.changes);
        let state = self.remembered.write(closed.epoch, changes).await?;
        done.state_ms = clock.elapsed().as_millis() as u64;

        self.env.failpoint("epoch.before_manifest").await?;
        let clock = Instant::now();
        let mut manifest = self.manifest(&closed, &tables, done.dead_letters, state).await;
        let mut permit = self.manifests.write(&manifest).await?;
        done.manifest_ms = clock.elapsed().as_millis() as u64;
        self.env.failpoint("epoch.after_manifest").await?;

        let clock = Instant::now();
        if let Some(producer) = &self.sinks.transaction {
            let mut rounds = 0;
            while let Sent::TooLarge(refused) = producer.commit(permit, messages.clone()).await? {
                rounds += 1;
                if rounds > MAX_REFUSALS {
                    return Err(Error::environment(format!(
                        "epoch {} has more messages than {MAX_REFUSALS} that the brokers refuse one by one",
                        permit.epoch()
                    ))
                    .with_hint("Let the user DESCRIBE_CONFIGS of the topics, so that their limits are known."));
                }
                // Nothing is visible yet, so the epoch is made again: the same rows, without these messages.
                closed.outputs.refuse(refuse(producer, &mut messages, &refused)).await?;
                let (letters, count) = closed.outputs.close_letters().await?;
                done.dead_letters = count;
                tables[self.sinks.dead_letters].merge(letters);
                manifest = self.manifest(&closed, &tables, done.dead_letters, manifest.state).await;
                permit = self.manifests.write(&manifest).await?;
            }
            self.env.failpoint("epoch.after_kafka").await?;
        }
        for (index, table) in manifest.tables.iter().enumerate() {
            if index > 0 {
                self.env.failpoint("epoch.between_sinks").await?;
            }
            let Some(sink) = self.sinks.tables.iter().find(|sink| sink.name == table.name) else { continue };
            let version = commit_table(sink, &manifest, table, permit).await?;
            done.versions.insert(table.name.clone(), version);
        }
        done.commit_ms = clock.elapsed().as_millis() as u64;
        let took_part = |index| self.takes_part(index, &tables);
        self.standings.lock().await.advance(manifest.standing(), &self.sinks, took_part);
        done.rows = closed.outputs.rows().into_iter().zip(closed.outputs.refused_rows()).collect();
        self.env.failpoint("epoch.after_commit").await?;
        self.remembered.tidy(closed.epoch).await;
        Ok(done)
    }

    /// Asks whether what was read is what its offsets say; gives why nothing more is to be read.
    async fn vouch(&self, closed: &Closed) -> Result<Option<Error>> {
        let mut last = None;
        for (source, ranges) in &closed.ranges {
            if let Some(witness) = self.witnesses.get(*source).and_then(Option::as_ref) {
                let ends = ranges.iter().map(|(partition, range)| (Arc::clone(partition), range.end)).collect();
                last = witness.check(ends).await?.or(last);
            }
        }
        Ok(last)
    }

    /// Closes every writer; returns staged files per table and messages per topic.
    async fn close(&self, closed: &Closed, done: &mut Committed) -> Result<(Vec<StagedFiles>, Vec<TopicMessages>)> {
        let mut gathered = Gathered::new(self.sinks.tables.len());
        let is_upserted = |sink: &dyn Sink| sink.consolidates() && sink.table().is_some();
        gathered.add(closed.outputs.close_writers(is_upserted).await?);
        // Upserts are staged while the other writers close.
        let mut closing = JoinSet::new();
        for (table, rows) in std::mem::take(&mut gathered.upserts) {
            if let (Some(upsert), false) = (self.sinks.tables[table].upsert.clone(), rows.is_empty()) {
                closing.spawn(async move { upsert.stage(in_order(rows)).await.map(|files| (table, files)) });
            }
        }
        gathered.add(closed.outputs.close_writers(|sink| !is_upserted(sink)).await?);
        let Gathered { tables: mut staged, mut messages, refused, .. } = gathered;
        for (branch, refused) in refused {
            closed.outputs.refuse_messages(branch, refused).await?;
        }
        self.refuse_messages(closed, &mut messages).await?;
        let (letters, count) = closed.outputs.close_letters().await?;
        done.dead_letters = count;
        staged[self.sinks.dead_letters].merge(letters);
        while let Some(closed) = closing.join_next().await {
            let (table, files) = closed.internal(|| "a writer ended abnormally".to_owned())??;
            staged[table].merge(files);
        }
        (done.files, done.bytes) = gathered.finished;
        for files in &staged {
            done.files += files.adds.len() as u64;
            done.bytes += files.bytes;
        }
        Ok((staged, messages))
    }

    /// Makes dead letters of the transaction's messages that are too large.
    async fn refuse_messages(&self, closed: &Closed, messages: &mut [TopicMessages]) -> Result<()> {
        if let Some(producer) = &self.sinks.transaction {
            let mut so_far: BTreeMap<String, u64> = BTreeMap::new();
            for of_topic in messages {
                let before = so_far.entry(of_topic.sink.clone()).or_default();
                *before = of_topic.after(*before);
                let refused = producer.refuse_large(of_topic);
                let branches = &closed.outputs.dataflow.branches;
                if let Some(branch) = branches.iter().position(|branch| branch.target == of_topic.sink) {
                    closed.outputs.count_taken_back(branch, refused.len() as u64);
                }
                closed.outputs.refuse(letters_of(of_topic, refused)).await?;
            }
        }
        Ok(())
    }

    /// The first table always takes part, so that every epoch leaves its mark; others only when they get files.
    fn takes_part(&self, table: usize, staged: &[StagedFiles]) -> bool {
        table == 0 || staged.get(table).is_some_and(|files| !files.is_empty())
    }

    async fn manifest(
        &self,
        closed: &Closed,
        staged: &[StagedFiles],
        dead_letters: u64,
        state: Vec<OperatorSnapshot>,
    ) -> Manifest {
        let tables = self.sinks.tables.iter().zip(staged).enumerate();
        let tables = tables
            .filter(|(index, _)| self.takes_part(*index, staged))
            .map(|(_, (sink, files))| TableCommit::new(&sink.name, &sink.location, files.clone()))
            .collect();
        let takes_part = |index| self.takes_part(index, staged);
        let sinks = self.standings.lock().await.records(&self.sinks, takes_part).await;
        let by_name = |index: usize| self.sources[index].clone();
        Manifest {
            format: 1,
            pipeline: self.pipeline.clone(),
            epoch: closed.epoch,
            id: ManifestId(self.env.random_id()),
            run: self.run.clone(),
            created_ms: self.env.unix_ms(),
            fingerprint: self.fingerprint.clone(),
            ranges: closed.ranges.iter().map(|(source, ranges)| (by_name(*source), ranges.clone())).collect(),
            positions: closed.positions.iter().enumerate().map(|(source, at)| (by_name(source), at.clone())).collect(),
            models: self.models.clone(),
            tables,
            sinks: Some(sinks),
            rows_in: closed.records,
            dead_letters,
            state,
            times: closed.times.clone(),
            watermarks: closed.watermarks.clone(),
            lookups: closed.lookups.clone(),
            reads: self.reads.clone(),
            topics: closed.topics.clone(),
        }
    }
}

/// The output of closed writers.
struct Gathered {
    /// Staged files, in commit order of the tables.
    tables: Vec<StagedFiles>,
    /// Rows to be upserted, by table.
    upserts: BTreeMap<usize, Vec<Arrived>>,
    /// Messages for the transaction.
    messages: Vec<TopicMessages>,
    /// Messages that were too large to be sent, with their branch.
    refused: Vec<(usize, Option<Refused>)>,
    /// Number and bytes of files that take no part in the commit.
    finished: (u64, u64),
}

impl Gathered {
    fn new(tables: usize) -> Self {
        Self {
            tables: (0..tables).map(|_| StagedFiles::default()).collect(),
            upserts: BTreeMap::new(),
            messages: Vec::new(),
            refused: Vec::new(),
            finished: (0, 0),
        }
    }

    fn add(&mut self, outputs: Vec<(usize, Staged)>) {
        for (branch, output) in outputs {
            match output {
                Staged::Nothing => {}
                Staged::Files { table, files } => self.tables[table].merge(files),
                Staged::Rows { table, rows } => self.upserts.entry(table).or_default().extend(rows),
                Staged::Messages(of_branch) => self.messages.extend(of_branch),
                Staged::Sent(refused) => self.refused.push((branch, refused)),
                Staged::Finished { files, bytes } => {
                    self.finished.0 += files;
                    self.finished.1 += bytes;
                }
            }
        }
    }
}

/// Commits what `manifest` says of one table. The permit is proof that the manifest is durable.
///
/// Returns the table's version that holds the epoch, whether this call or an earlier one put it there.
pub async fn commit_table(
    sink: &TableSink,
    manifest: &Manifest,
    table: &TableCommit,
    permit: CommitPermit,
) -> Result<i64> {
    let mut offsets = Vec::new();
    for (source, ranges) in &manifest.ranges {
        for (partition, range) in ranges {
            offsets.push((OffsetId::new(&manifest.pipeline, source, partition).app_id(), range.end));
        }
    }
    let mut info = serde_json::Map::new();
    info.insert(
        "weir".to_owned(),
        serde_json::json!({
            "pipeline": manifest.pipeline,
            "epoch": permit.epoch().0,
            "manifest": permit.manifest().to_string(),
            "run": manifest.run,
            "rows": table.rows,
            "offsets": manifest.ranges,
            "models": manifest.models,
            "sinks": manifest.sinks,
            "topics": manifest.topics,
        }),
    );
    let mut request = CommitRequest::new(permit, &manifest.pipeline, offsets, table.staged(), info);
    let Some(commit) = &table.upsert else { return Ok(sink.table.commit(request).await?.version()) };
    let upsert = match &sink.upsert {
        Some(upsert) => upsert.clone(),
        None => UpsertTable::new(sink.table.clone(), &commit.key, &sink.options, None)?,
    };
    for _ in 0..MAX_RESTAGED {
        let outcome = sink.table.commit(request.clone()).await?;
        upsert.committed(outcome).await;
        let CommitOutcome::Overtaken { version } = outcome else { return Ok(outcome.version()) };
        tracing::info!(table = sink.name, version, "another writer has changed the table, upserting anew");
        // The same epoch, the same rows and the same manifest: only what they mean for the files is another thing now.
        let staged = upsert.restage(commit, &table.adds).await?;
        request = request.restaged(staged);
    }
    Err(Error::environment(format!("table `{}` is changed by others faster than it can be upserted", sink.name)))
}

/// Takes messages that brokers refused out of an epoch; the dead letters that they become.
fn refuse(
    producer: &TransactionalProducer,
    messages: &mut [TopicMessages],
    refused: &BTreeMap<usize, BTreeSet<usize>>,
) -> Vec<Letter> {
    let mut letters = Vec::new();
    for (index, positions) in refused {
        let Some(of_topic) = messages.get_mut(*index) else { continue };
        let refused = producer.refuse(of_topic, positions);
        letters.extend(letters_of(of_topic, refused));
    }
    letters
}

fn letters_of(of_topic: &TopicMessages, refused: Vec<RefusedMessage>) -> Vec<Letter> {
    let letter = |message| dead_letters::of_message(&of_topic.sink, &of_topic.topic, message);
    refused.into_iter().map(letter).collect()
}
