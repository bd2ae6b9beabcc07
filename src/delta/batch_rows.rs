//! The number of rows of a Parquet file that are read at a time: as many as fit into a bound, estimated from the file's metadata.

use deltalake::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// Bytes of a batch once it is decoded, about.
const BATCH_BYTES: u64 = 8 << 20;

/// At most `most` rows, fewer where rows are large.
pub fn batch_rows(file: &ParquetMetaData, most: usize) -> usize {
    let widest = file.row_groups().iter().map(|group| {
        let bytes: u64 = group.columns().iter().map(decoded_bytes).sum();
        bytes / u64::try_from(group.num_rows()).unwrap_or(0).max(1)
    });
    let row = widest.max().unwrap_or(0).max(1);
    usize::try_from(BATCH_BYTES / row).unwrap_or(usize::MAX).clamp(1, most.max(1))
}

/// A dictionary keeps one copy of a value, a batch one for each row: text counts as it will be, where the writer has noted it.
fn decoded_bytes(column: &ColumnChunkMetaData) -> u64 {
    let noted = column.unencoded_byte_array_data_bytes().unwrap_or(0);
    u64::try_from(column.uncompressed_size().max(noted)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use deltalake::parquet::arrow::ArrowWriter;
    use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn equal_texts_of_a_dictionary_count_as_often_as_they_stand_there() {
        let rows = |text: &str| {
            let texts: ArrayRef = Arc::new(StringArray::from(vec![text; 1_000]));
            let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
            let mut bytes = Vec::new();
            let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
            batch_rows(file.metadata(), 65_536)
        };
        assert_eq!(rows("short"), 65_536);
        assert_eq!(rows(&"x".repeat(1 << 20)), 7);
    }
}
