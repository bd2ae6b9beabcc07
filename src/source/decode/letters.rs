//! The treatment of refused records: kept, counted, or an error that ends the run.

use crate::catalog::OnError;
use crate::error::{Error, Result};
use crate::source::chunk::{DeadLetter, Offset, PartitionId, Records};

/// The reason why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) column: Option<String>,
}

impl Refusal {
    /// A refusal that concerns no single column.
    pub(super) fn of_record(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), column: None }
    }

    /// The refusal of a record of `length` bytes, of which the first `kept` are kept.
    pub(super) fn too_long(length: u64, kept: usize) -> Self {
        Self::of_record(format!("the record has {length} bytes, more than 64 MiB: the first {kept} are kept here"))
    }
}

/// The refused records of one chunk.
#[derive(Debug)]
pub(super) struct Letters<'a> {
    source: &'a str,
    on_error: OnError,
    partition: PartitionId,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) refused: usize,
}

impl<'a> Letters<'a> {
    pub(super) fn new(source: &'a str, on_error: OnError, partition: PartitionId) -> Self {
        Self { source, on_error, partition, dead: Vec::new(), refused: 0 }
    }

    /// Adds record `index`. Errors: `on_error = 'fail'`.
    pub(super) fn record(&mut self, records: &Records, index: usize, tombstone: bool, refusal: Refusal) -> Result<()> {
        let offset = records.offsets[index];
        self.take(offset, refusal, |letter| {
            letter.timestamp_ms = records.timestamps_ms.get(index).copied().unwrap_or(-1);
            letter.key = records.key(index).map(<[u8]>::to_vec);
            letter.payload = (!tombstone).then(|| records.payload(index).to_vec());
            Ok(())
        })
    }

    /// Adds the record at `offset`; `fill` completes its dead letter if it is kept.
    pub(super) fn take(
        &mut self,
        offset: Offset,
        refusal: Refusal,
        fill: impl FnOnce(&mut DeadLetter) -> Result<()>,
    ) -> Result<()> {
        self.refused += 1;
        match self.on_error {
            OnError::Drop => Ok(()),
            OnError::Fail => Err(self.failure(offset, &refusal)),
            OnError::DeadLetter => {
                let mut letter = DeadLetter {
                    partition: PartitionId::clone(&self.partition),
                    offset,
                    timestamp_ms: -1,
                    key: None,
                    payload: None,
                    reason: refusal.reason,
                    column: refusal.column,
                };
                fill(&mut letter)?;
                self.dead.push(letter);
                Ok(())
            }
        }
    }

    fn failure(&self, offset: Offset, refusal: &Refusal) -> Error {
        let place = refusal.column.as_ref().map_or(String::new(), |column| format!("Column `{column}`: "));
        let message =
            format!("record at offset {offset} of `{}` in source `{}` cannot be decoded", self.partition, self.source);
        Error::sql(message).with_detail(format!("{place}{}.", refusal.reason)).with_hint(
            "Set `on_error = 'dead_letter'` on the source to keep such records in the dead-letter table and go on.",
        )
    }
}
