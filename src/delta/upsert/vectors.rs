//! Deletion vectors: which rows of a file are gone, beside the file.
//!
//! The vectors that an epoch writes share one file, `deletion_vector_<uuid>.bin` in the table's folder, in the protocol's
//! format (64-bit Roaring bitmaps, each with size and checksum). A file's `add` names its vector; `numRecords` goes on counting
//! physical rows, and the other statistics become bounds (`tightBounds` = false).

use bytes::Bytes;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor as KernelDescriptor;
use delta_kernel::actions::deletion_vector_writer::{DeletionVector, StreamingDeletionVectorWriter};
use deltalake::kernel::{Add, DeletionVectorDescriptor, StorageType};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use roaring::{RoaringBitmap, RoaringTreemap};

use super::super::store::TableStore;
use crate::error::{Context, Error, ErrorKind, Result};

/// The alphabet of Z85, ZeroMQ's base 85.
const Z85: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

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

/// Writes these vectors into one file, durably; returns what the `add` actions say of each, and the file's size.
pub async fn write(store: &TableStore, dead: &[RoaringBitmap]) -> Result<(Vec<DeletionVectorDescriptor>, u64)> {
    let failed = || format!("cannot write deletion vectors of `{}`", store.location());
    let env = store.env();
    let uuid = uuid::Builder::from_random_bytes(
        (u128::from(env.random_u64()) << 64 | u128::from(env.random_u64())).to_be_bytes(),
    )
    .into_uuid();
    let name = z85(uuid.as_bytes());
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
    let path = add.path.clone();
    let failed = move || format!("the deletion vector of file `{path}` cannot be read");
    let descriptor = KernelDescriptor::try_from(descriptor).context(ErrorKind::Damaged, &failed)?;
    let (storage, url) = (store.log_store().engine(None).storage_handler(), store.url().clone());
    let read = tokio::task::spawn_blocking(move || descriptor.read(storage, &url)).await.internal(&failed)?;
    let rows = read.context(ErrorKind::Damaged, &failed)?;
    let low = rows.bitmaps().map(|(high, rows)| (high == 0).then(|| rows.clone()));
    let low: Option<Vec<RoaringBitmap>> = low.collect();
    match low {
        Some(mut low) => Ok(low.pop().unwrap_or_default()),
        None => Err(Error::config(format!("file `{}` has more than 2^32 rows", add.path))),
    }
}

/// `add`, of a file of `rows` physical rows, with the rows that `descriptor` marks gone. The protocol wants the number of rows.
pub fn revised(add: &Add, rows: u32, descriptor: DeletionVectorDescriptor) -> Add {
    let stats = add.stats.as_deref().and_then(|stats| serde_json::from_str::<serde_json::Value>(stats).ok());
    let mut stats = stats.filter(serde_json::Value::is_object).unwrap_or_else(|| serde_json::json!({}));
    stats["numRecords"] = rows.into();
    stats["tightBounds"] = false.into();
    Add { stats: Some(stats.to_string()), deletion_vector: Some(descriptor), data_change: true, ..add.clone() }
}

/// 4 bytes, most significant first, are 5 digits of base 85.
fn z85(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(20);
    for chunk in bytes.chunks_exact(4) {
        let value = chunk.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        for power in [85_u32.pow(4), 85_u32.pow(3), 85_u32.pow(2), 85, 1] {
            text.push(char::from(Z85[(value / power % 85) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_spelt_as_the_protocol_spells_it() {
        // The example of the Delta protocol, "Derived Fields".
        let uuid = uuid::Uuid::parse_str("d2c639aa-8816-431a-aaf6-d3fe2512ff61").unwrap();
        assert_eq!(z85(uuid.as_bytes()), "^-aqEH.-t@S}K{vb[*k^");
    }
}
