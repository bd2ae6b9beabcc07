//! An epoch's dead letters, written as they come: a file is begun when the first one comes, and nothing else is kept of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::sinks::TableSink;
use crate::delta::{StagedFiles, TableWriter, size_of_rows};
use crate::error::Result;
use crate::memory::Reserved;
use crate::sink::dead_letters::{self, Letter};
use crate::source::chunk::DeadLetter;

/// Letters that wait are written once they have so many bytes.
const WAITING_BYTES: u64 = 4 << 20;
/// Letters made rows at a time.
const ROWS: usize = 16_384;

/// The dead letters of one epoch.
pub struct LetterBox {
    waiting: Mutex<Waiting>,
    writer: tokio::sync::Mutex<Option<TableWriter>>,
    count: AtomicU64,
    reserved: Reserved,
}

#[derive(Default)]
struct Waiting {
    letters: Vec<Letter>,
    bytes: u64,
}

impl LetterBox {
    /// No letters.
    pub fn new(reserved: Reserved) -> Self {
        Self { waiting: Mutex::default(), writer: tokio::sync::Mutex::default(), count: AtomicU64::new(0), reserved }
    }

    /// Takes letters, which wait to be written. True when it is time to write them.
    pub fn put(&self, letters: impl IntoIterator<Item = Letter>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (waiting.letters.len(), waiting.bytes);
        for letter in letters {
            waiting.bytes += size(&letter.letter);
            waiting.letters.push(letter);
        }
        self.count.fetch_add((waiting.letters.len() - before.0) as u64, Ordering::Relaxed);
        self.reserved.add(waiting.bytes - before.1);
        waiting.bytes >= WAITING_BYTES
    }

    /// Writes the letters that wait into `table`.
    pub async fn write(&self, table: &TableSink, epoch: u64) -> Result<()> {
        let Waiting { mut letters, .. } =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if letters.is_empty() {
            return Ok(());
        }
        let mut slot = self.writer.lock().await;
        let writer = match &mut *slot {
            Some(writer) => writer,
            None => slot.insert(table.table.writer(&table.options)?),
        };
        let now_ms = table.table.store().env().unix_ms();
        while !letters.is_empty() {
            let rest = letters.split_off(letters.len().min(ROWS));
            let rows = dead_letters::rows(&letters, epoch, now_ms)?;
            drop(letters);
            self.reserved.set(writer.bytes() + size_of_rows(&rows));
            writer.write(&rows).await?;
            letters = rest;
        }
        self.reserved.set(writer.bytes());
        Ok(())
    }

    /// Letters taken so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the files; called once, when the epoch closes and every letter is written.
    pub async fn close(&self) -> Result<StagedFiles> {
        match self.writer.lock().await.take() {
            Some(writer) => writer.close().await,
            None => Ok(StagedFiles::default()),
        }
    }
}

fn size(letter: &DeadLetter) -> u64 {
    let bytes = [&letter.key, &letter.payload].into_iter().flatten().map(Vec::len).sum::<usize>();
    (size_of::<Letter>() + bytes + letter.reason.len()) as u64
}
