//! Reads bound parameters; their number, size and form are checked while they arrive, not afterwards.

use arrow::array::RecordBatch;
use arrow::ipc::{MessageHeader, root_as_message};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt};
use tonic::Status;

use crate::error::{Error, SqlState};
use crate::serve::failure::status;

/// The maximum number of rows of parameters bound at once; each is one execution.
pub const MAX_BOUND_ROWS: usize = 1024;
/// The maximum bytes of all messages with parameters.
const MAX_BOUND_BYTES: usize = 4 << 20;
/// The maximum number of these messages, whatever their contents.
const MAX_MESSAGES: usize = 4_096;

/// The rows in `messages`. Errors: too many rows, bytes or messages; compressed messages, whose stated size cannot be
/// trusted.
pub async fn read(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<RecordBatch>, Status> {
    let (mut bytes, mut count) = (0_usize, 0_usize);
    let bounded = messages.map(move |message| {
        let message = message?;
        count += 1;
        bytes = bytes.saturating_add(message.data_header.len()).saturating_add(message.data_body.len());
        if bytes > MAX_BOUND_BYTES || count > MAX_MESSAGES {
            return Err(status(&too_much(&format!("{MAX_BOUND_BYTES} bytes in {MAX_MESSAGES} messages"))));
        }
        if is_compressed(&message) {
            let error = Error::sql("parameters are compressed").with_state(SqlState::PROTOCOL);
            return Err(status(&error.with_hint("Send parameters uncompressed.")));
        }
        Ok(message)
    });
    let bounded = bounded.map(|message| message.map_err(|status| FlightError::Tonic(Box::new(status))));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(bounded);
    let (mut all, mut rows) = (Vec::new(), 0_usize);
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(Status::from)?;
        rows = rows.saturating_add(batch.num_rows());
        if rows > MAX_BOUND_ROWS {
            return Err(status(&too_much(&format!("{MAX_BOUND_ROWS} rows"))));
        }
        if batch.num_rows() > 0 {
            all.push(batch);
        }
    }
    Ok(all)
}

fn too_much(limit: &str) -> Error {
    Error::sql(format!("more parameters were bound than {limit}"))
        .with_state(SqlState::LIMIT)
        .with_hint("Join a list of values in SQL, or execute in pieces.")
}

fn is_compressed(message: &FlightData) -> bool {
    let Ok(header) = root_as_message(&message.data_header) else { return false };
    match header.header_type() {
        MessageHeader::RecordBatch => {
            header.header_as_record_batch().is_some_and(|batch| batch.compression().is_some())
        }
        MessageHeader::DictionaryBatch => header
            .header_as_dictionary_batch()
            .and_then(|dictionary| dictionary.data())
            .is_some_and(|batch| batch.compression().is_some()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use futures::{TryStreamExt, stream};

    use super::*;
    use crate::serve::failure::SQLSTATE;

    fn batch(rows: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; rows]));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    async fn messages(rows: usize, compression: Option<CompressionType>) -> Vec<FlightData> {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let builder = FlightDataEncoderBuilder::new().with_options(options);
        builder.build(stream::iter([Ok(batch(rows))])).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn endless_parameters_are_cut_while_they_come() {
        for rows in [1, 1_000, 100_000] {
            let given = messages(rows, None).await;
            let taken = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&taken);
            let endless = stream::iter(given.clone()).chain(stream::iter(given).cycle().skip(1).map(move |message| {
                count.fetch_add(1, Ordering::Relaxed);
                message
            }));
            // The schema is sent once, then only batches.
            let endless = endless.enumerate().filter(|(index, message)| {
                let is_schema = message.data_body.is_empty() && *index > 0;
                std::future::ready(!is_schema)
            });
            let outcome = read(endless.map(|(_, message)| Ok(message))).await;
            let refused = outcome.expect_err("endless");
            assert_eq!(refused.metadata().get(SQLSTATE).unwrap(), "54000", "{refused:?}");
            assert!(taken.load(Ordering::Relaxed) <= 2 * MAX_MESSAGES + 2);
        }
    }

    #[tokio::test]
    async fn parameters_within_the_limits_are_read_and_compressed_ones_refused() {
        let given = messages(3, None).await;
        let rows: usize =
            read(stream::iter(given.into_iter().map(Ok))).await.unwrap().iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 3);
        let packed = messages(1_000, Some(CompressionType::ZSTD)).await;
        let refused = read(stream::iter(packed.into_iter().map(Ok))).await.unwrap_err();
        assert_eq!(refused.metadata().get(SQLSTATE).unwrap(), "08P01");
    }
}
