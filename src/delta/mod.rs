//! The one place that touches delta-rs: stores, tables, commits, writers, scans, maintenance.
//!
//! In reading order: [`store`] (where files lie), [`Table`] (one Delta table), its metadata and what it demands of
//! writers, [`TableWriter`] (rows to staged files), [`Validator`] (constraints), the commit protocol (`judge` decides,
//! `commit` carries out), [`UpsertTable`] (one row per key), the log as a record of progress, scans for queries, maintenance.
//!
//! Promises: a staged file is durable before it is handed out; a commit is made once or found to have been made; the
//! cost of a commit does not depend on how many came before. Which epoch to commit, and when, is `epoch`'s business.

mod actions;
mod app_id;
mod batch_rows;
mod between;
mod bounds;
mod cast;
mod changes;
mod commit;
mod damage;
mod file_maps;
mod files;
mod expired;
mod history;
mod judge;
mod listing;
mod lives;
mod log;
mod maintain;
mod metadata;
mod offset_id;
mod open_files;
mod partitions;
mod parts;
mod past;
mod probe;
mod readable;
mod rewind;
mod scan;
mod shown;
pub mod store;
mod stored_values;
mod table;
mod times;
mod upsert;
mod variant;
#[cfg(test)]
pub mod testing;
mod spark;
mod validate;
mod versions;
mod writer;

pub use self::actions::{Add, AddCDCFile, LogPath, Remove};
pub use self::app_id::AppId;
pub use self::batch_rows::batch_rows;
pub use self::between::{TimeRange, rows_between, rows_in_order};
pub use self::changes::{Commit, Newness};
pub use self::commit::{CommitOutcome, CommitRequest};
pub use self::files::{DataFile, FileRows, TableShape, files_at, in_order, read_file};
pub use self::history::{LoggedCommit, TableDetail, detail, history};
pub use self::judge::{Entry, PipelineTxns};
pub use self::lives::{TablePast, TimedVersion, commits_back_to, oldest_readable, oldest_with_rows, version_times};
pub use self::log::read_entry;
pub use self::maintain::{Cleanup, FileSummary, MaintenancePolicy, MaintenanceReport};
pub use self::metadata::{GENERATED, unstorable};
pub use self::offset_id::OffsetId;
pub use self::open_files::size_of_rows;
pub use self::parts::parts;
pub use self::past::{Contents, LoggedEpoch, PipelinePast, logged_epoch};
pub use self::probe::{ProbeStep, local_folder, probe};
pub use self::rewind::RewindPlan;
pub use self::scan::{AsOf, TableVersion, all_versions, open_version};
pub use self::shown::FileColumns;
pub use self::spark::generated as generated_as_spark;
pub use self::store::{TableStore, folder_below, known_as};
pub use self::table::Table;
pub use self::times::with_micros;
pub use self::upsert::{Change, Changes, IndexRoom, Place, UpsertRows, UpsertTable, UpsertUsage};
pub use self::validate::{Validator, Violations, rule_problems};
pub use self::versions::{BeforeFirst, LivedRows, ROW_FROM, ROW_UNTIL, lived_rows};
pub use self::writer::{StagedFiles, TableWriter, UpsertCommit, WriterOptions};
