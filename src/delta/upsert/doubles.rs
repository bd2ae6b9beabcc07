//! Rows of one key, where a table holds two when its keys are read.
//!
//! Two rows with the same values are damage. Rows whose values are equal and written in two ways (0.0 and -0.0, the NaNs) come from
//! writers that took them for two keys, older versions of weir among them: the newest is the key's row, and the next commit
//! deletes the others.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use roaring::RoaringBitmap;

use super::changes::show_row;
use super::key::{Key, KeyMap, Location};
use super::{Shared, State, key_schema};
use crate::error::{Error, Result};

/// Keys that a warning shows, at most.
const SHOWN: usize = 3;

/// The key of a row, and its hash as it is written.
type KeyForms = (Key, Key);

impl Shared {
    /// Chooses, for each of these rows that is alive, between it and the row that the index has for its key.
    ///
    /// Errors: both have the same values in the key.
    pub(super) async fn resolve(&self, state: &mut State, mut replaced: Vec<Location>) -> Result<()> {
        replaced.retain(|at| state.files.lives(*at));
        if replaced.is_empty() {
            return Ok(());
        }
        let mut forms = self.key_forms(state, &replaced).await?;
        let keys: Vec<Key> = replaced.iter().filter_map(|at| forms.get(at)).map(|forms| forms.0).collect();
        let located = state.index.locate(&keys)?;
        let mut holders: KeyMap<Location> =
            keys.into_iter().zip(located).filter_map(|(key, at)| Some((key, at?))).collect();
        let held: Vec<Location> = holders.values().copied().collect();
        forms.extend(self.key_forms(state, &held).await?);
        let mut doubles = Vec::new();
        for at in replaced {
            let Some((key, written)) = forms.get(&at) else { continue };
            let Some(holder) = holders.get_mut(key).filter(|holder| **holder != at) else { continue };
            if forms.get(holder).is_some_and(|forms| forms.1 == *written) {
                return Err(self.twice(state, at).await);
            }
            if age(state, at) > age(state, *holder) {
                doubles.push(std::mem::replace(holder, at));
                state.index.insert(*key, at);
            } else {
                doubles.push(at);
            }
        }
        for at in &doubles {
            state.files.double(*at);
        }
        self.warn(state, &doubles).await;
        Ok(())
    }

    /// The keys of the rows at these places.
    async fn key_forms(&self, state: &State, places: &[Location]) -> Result<HashMap<Location, KeyForms>> {
        let mut by_file: BTreeMap<u32, RoaringBitmap> = BTreeMap::new();
        for at in places {
            by_file.entry(at.file).or_default().insert(at.row);
        }
        let mut found = HashMap::with_capacity(places.len());
        for (id, rows) in by_file {
            let mut at = rows.iter();
            for batch in self.keys_at(state, id, &rows).await? {
                let keys = self.hasher.hash(batch.columns())?.into_iter();
                let written = self.hasher.hash_as_written(batch.columns())?;
                let places = at.by_ref().take(batch.num_rows()).map(|row| Location { file: id, row });
                found.extend(places.zip(keys.zip(written)));
            }
        }
        Ok(found)
    }

    /// The key columns of rows of a file.
    async fn keys_at(&self, state: &State, file: u32, rows: &RoaringBitmap) -> Result<Vec<RecordBatch>> {
        let Some(file) = state.files.get(file) else { return Ok(Vec::new()) };
        let columns = key_schema(&self.table, &self.table.metadata(), &self.key)?;
        self.reader().these_rows(file, &columns, rows).await?.try_collect().await
    }

    /// A row's key as text.
    async fn shown(&self, state: &State, at: Location) -> String {
        let rows = self.keys_at(state, at.file, &RoaringBitmap::from_iter([at.row])).await.unwrap_or_default();
        rows.iter().find(|rows| rows.num_rows() > 0).map_or_else(|| "?".to_owned(), show_row)
    }

    async fn warn(&self, state: &State, doubles: &[Location]) {
        let Some(first) = doubles.first() else { return };
        let mut keys = self.shown(state, *first).await;
        for at in doubles.iter().take(SHOWN).skip(1) {
            keys.push_str(", ");
            keys.push_str(&self.shown(state, *at).await);
        }
        tracing::warn!(
            table = self.table.name(),
            rows = doubles.len(),
            keys,
            "rows whose primary keys equal those of newer rows (0.0 and -0.0, NaNs); the next commit deletes them"
        );
    }

    async fn twice(&self, state: &State, at: Location) -> Error {
        let (keys, shown) = (self.key.join(", "), self.shown(state, at).await);
        Error::damaged(format!("table `{}` has two rows with the same primary key", self.table.name()))
            .with_detail(format!("The key is ({keys}); one that is there twice is {shown}."))
            .with_hint("Delete one of the rows, or declare another key.")
    }
}

/// Orders rows by when they were written, as far as the table tells: by their files, and within a file by their places.
fn age(state: &State, at: Location) -> (i64, &str, u32) {
    let file = state.files.get(at.file).map(|file| &file.add);
    (file.map_or(0, |add| add.modification_time), file.map_or("", |add| add.path.as_str()), at.row)
}
