//! The one place that touches delta-rs: stores, tables, commits, writers, scans, maintenance.
//!
//! In reading order: [`store`] (where files lie), [`Table`] (one Delta table), its metadata and what it demands of
//! writers, [`TableWriter`] (rows to staged files), [`validate`] (constraints), the commit protocol (`judge` decides,
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
mod lengths;
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

pub use self::actions::LogPath;
pub(crate) use self::actions::{Add, AddCDCFile, Remove};
pub(crate) use self::app_id::AppId;
pub(crate) use self::batch_rows::batch_rows;
pub(crate) use self::between::rows_in_order;
pub(crate) use self::changes::Commit;
pub use self::commit::{CommitOutcome, CommitRequest};
pub(crate) use self::files::{DataFile, FileRows, TableShape, files_at, read_file};
pub(crate) use self::history::{detail, history};
pub(crate) use self::judge::Entry;
pub use self::judge::PipelineTxns;
pub(crate) use self::lives::{
    TablePast, TimedVersion, commits_back_to, oldest_readable, oldest_with_rows, version_times,
};
pub(crate) use self::log::read_entry;
pub use self::maintain::{Cleanup, MaintenancePolicy};
pub(crate) use self::metadata::{GENERATED, unstorable};
pub(crate) use self::offset_id::OffsetId;
pub(crate) use self::open_files::size_of_rows;
pub(crate) use self::parts::parts;
pub(crate) use self::past::{Contents, LoggedEpoch, PipelinePast, logged_epoch};
pub(crate) use self::probe::{local_folder, probe};
pub(crate) use self::rewind::RewindPlan;
pub(crate) use self::scan::{AsOf, TableVersion, all_versions, open_version};
pub(crate) use self::shown::FileColumns;
pub(crate) use self::spark::generated as generated_as_spark;
pub use self::store::TableStore;
pub(crate) use self::store::{folder_below, known_as};
pub use self::table::Table;
pub(crate) use self::times::with_micros;
pub(crate) use self::upsert::{Change, Changes, IndexRoom, Place, UpsertRows, UpsertTable, UpsertUsage};
pub(crate) use self::validate::{Violations, rule_problems};
pub(crate) use self::versions::{BeforeFirst, LivedRows, ROW_FROM, ROW_UNTIL, lived_rows};
pub use self::writer::{StagedFiles, WriterOptions};
pub(crate) use self::writer::{TableWriter, UpsertCommit};
