//! Deletion vectors: which rows of a file are gone, beside the file.
//!
//! Small vectors are written into the log entry itself (storage type `i`), so that an epoch of few rows costs no file more. The
//! others that an epoch writes share one file, `deletion_vector_<uuid>.bin` in the table's folder, in the protocol's
//! format (64-bit Roaring bitmaps, each with size and checksum). A file's `add` names its vector; `numRecords` goes on counting
//! physical rows, and the other statistics become bounds (`tightBounds` = false).

use bytes::Bytes;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor as KernelDescriptor;
use delta_kernel::actions::deletion_vector_writer::{DeletionVector, StreamingDeletionVectorWriter};
use deltalake::kernel::{DeletionVectorDescriptor, StorageType};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::super::actions::Add;
use super::super::bounds::FileStats;
use super::super::damage::unreadable_vector;
use super::super::store::TableStore;
use crate::error::{Context, Error, ErrorKind, Result};

/// Bytes of a vector that is written into the log, and of all those of one commit.
const INLINE_BYTES: usize = 4 << 10;
const INLINE_BYTES_OF_A_COMMIT: usize = 16 << 10;
/// First number of a serialized bitmap: 1681511377, least significant byte first.
const MAGIC: [u8; 4] = 1_681_511_377_u32.to_le_bytes();

/// A bitmap as the kernel writes it.
struct Vector(RoaringTreemap);

impl DeletionVector for Vector {
    type IndexIterator = roaring::treemap::IntoIter;

    fn into_iter(self) -> Self::IndexIterator {
        self.0.into_iter()
    }

    fn cardinality(&self) -> u64 {
        self.0.len()
    }

    fn serialize(self) -> delta_kernel::DeltaResult<Bytes> {
        let mut bytes = Vec::with_capacity(self.0.serialized_size());
        self.0.serialize_into(&mut bytes).map_err(|error| delta_kernel::Error::generic(error.to_string()))?;
        Ok(bytes.into())
    }
}

/// Writes these vectors, durably where they get a file; returns what the `add` actions say of each, and the file's size.
pub async fn write(store: &TableStore, dead: &[RoaringBitmap]) -> Result<(Vec<DeletionVectorDescriptor>, u64)> {
    let inline: Vec<Option<Vec<u8>>> = dead.iter().map(inline_bytes).collect();
    let in_log: usize = inline.iter().flatten().map(Vec::len).sum();
    let mut written = match in_log <= INLINE_BYTES_OF_A_COMMIT {
        true => {
            inline.into_iter().zip(dead).map(|(bytes, rows)| bytes.map(|bytes| inline_vector(&bytes, rows))).collect()
        }
        false => vec![None; dead.len()],
    };
    let in_file: Vec<RoaringBitmap> =
        written.iter().zip(dead).filter(|(done, _)| done.is_none()).map(|(_, rows)| rows.clone()).collect();
    let size = match in_file.is_empty() {
        true => 0,
        false => {
            let (descriptors, size) = write_file(store, &in_file).await?;
            written.iter_mut().filter(|done| done.is_none()).zip(descriptors).for_each(|(to, done)| *to = Some(done));
            size
        }
    };
    Ok((written.into_iter().flatten().collect(), size))
}

/// The vector as it stands in the log, if it is small enough.
fn inline_bytes(rows: &RoaringBitmap) -> Option<Vec<u8>> {
    let map = RoaringTreemap::from_bitmaps([(0, rows.clone())]);
    let size = map.serialized_size() + MAGIC.len();
    if size > INLINE_BYTES {
        return None;
    }
    let mut bytes = MAGIC.to_vec();
    map.serialize_into(&mut bytes).ok()?;
    Some(bytes)
}

fn inline_vector(bytes: &[u8], rows: &RoaringBitmap) -> DeletionVectorDescriptor {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    DeletionVectorDescriptor {
        storage_type: StorageType::Inline,
        path_or_inline_dv: z85::encode(&padded),
        offset: None,
        size_in_bytes: bytes.len() as i32,
        cardinality: rows.len() as i64,
    }
}

async fn write_file(store: &TableStore, dead: &[RoaringBitmap]) -> Result<(Vec<DeletionVectorDescriptor>, u64)> {
    let failed = || format!("cannot write deletion vectors of `{}`", store.location());
    let env = store.env();
    let uuid = uuid::Builder::from_random_bytes(
        (u128::from(env.random_u64()) << 64 | u128::from(env.random_u64())).to_be_bytes(),
    )
    .into_uuid();
    let name = z85::encode(uuid.as_bytes());
    let mut bytes = Vec::new();
    let mut writer = StreamingDeletionVectorWriter::new(&mut bytes);
    let mut descriptors = Vec::with_capacity(dead.len());
    for rows in dead {
        let vector = Vector(RoaringTreemap::from_bitmaps([(0, rows.clone())]));
        let written = writer.write_deletion_vector(vector).internal(failed)?;
        descriptors.push(DeletionVectorDescriptor {
            storage_type: StorageType::UuidRelativePath,
            path_or_inline_dv: name.clone(),
            offset: Some(written.offset),
            size_in_bytes: written.size_in_bytes,
            cardinality: written.cardinality,
        });
    }
    writer.finalize().internal(failed)?;
    let size = bytes.len() as u64;
    let path = Path::from(format!("deletion_vector_{uuid}.bin"));
    store.object_store().put(&path, bytes.into()).await.environment(failed)?;
    Ok((descriptors, size))
}

/// The rows that a file's vector marks; none without a vector.
pub async fn read(store: &TableStore, add: &Add) -> Result<RoaringBitmap> {
    let Some(descriptor) = add.deletion_vector.clone() else { return Ok(RoaringBitmap::new()) };
    let failed = || format!("the deletion vector of file `{}` cannot be read", add.path);
    let descriptor = KernelDescriptor::try_from(descriptor).context(ErrorKind::Damaged, failed)?;
    let (storage, url) = (store.log_store().engine(None).storage_handler(), store.url().clone());
    let vector = descriptor.clone();
    let read = tokio::task::spawn_blocking(move || vector.read(storage, &url)).await.internal(failed)?;
    let rows = read.map_err(|error| unreadable_vector(store, add.path.as_str(), &descriptor, error))?;
    let low = rows.bitmaps().map(|(high, rows)| (high == 0).then(|| rows.clone()));
    let low: Option<Vec<RoaringBitmap>> = low.collect();
    match low {
        Some(mut low) => Ok(low.pop().unwrap_or_default()),
        None => Err(Error::config(format!("file `{}` has more than 2^32 rows", add.path))),
    }
}

/// `add`, of a file of `rows` physical rows, with the rows that `descriptor` marks gone. The protocol wants the number of rows.
pub fn revised(add: &Add, rows: u32, descriptor: DeletionVectorDescriptor) -> Add {
    let stats = add.stats.as_deref().and_then(FileStats::parse).unwrap_or_default().of_marked_rows(rows);
    Add { stats: Some(stats.to_string()), deletion_vector: Some(descriptor), data_change: true, ..add.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    #[tokio::test]
    async fn small_vectors_stand_in_the_log_and_large_ones_in_one_file() {
        let store = TableStore::open("memory://w/t", &Default::default(), &Env::manual(0, 1)).unwrap();
        let small: RoaringBitmap = [3, 70_000].into_iter().collect();
        let large: RoaringBitmap = (0..5_000).map(|row| row * 3).collect();
        let (written, bytes) = write(&store, &[small.clone(), large.clone(), small.clone()]).await.unwrap();
        let kinds: Vec<_> = written.iter().map(|vector| vector.storage_type).collect();
        assert_eq!(kinds, [StorageType::Inline, StorageType::UuidRelativePath, StorageType::Inline]);
        assert!(bytes > 0);
        for (descriptor, rows) in written.into_iter().zip([&small, &large, &small]) {
            let add = Add { deletion_vector: Some(descriptor), ..Add::default() };
            assert_eq!(read(&store, &add).await.unwrap(), *rows);
        }
        let (_, bytes) = write(&store, &[small]).await.unwrap();
        assert_eq!(bytes, 0);
    }

    #[test]
    fn a_uuid_is_spelt_as_the_protocol_spells_it() {
        // The example of the Delta protocol, "Derived Fields".
        let uuid = uuid::Uuid::parse_str("d2c639aa-8816-431a-aaf6-d3fe2512ff61").unwrap();
        assert_eq!(z85::encode(uuid.as_bytes()), "^-aqEH.-t@S}K{vb[*k^");
    }
}
