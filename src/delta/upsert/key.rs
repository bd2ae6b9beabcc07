//! Primary keys as hashes, and the places of rows.
//!
//! Keys are 128-bit hashes (SipHash-1-3 under a random key of this process), whatever the key's type: a collision among 10^9
//! keys has a chance of 10^-21, and nobody can make one without the random key. The hashes never leave the process.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use siphasher::sip128::SipHasher13;

use crate::delta::lengths::without_blanks;
use crate::env::Env;
use crate::equality::key_values;
use crate::error::{Context, ErrorKind, Result};

/// A key, or any row, as its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64, u64);

impl Key {
    pub(super) fn of_parts(high: u64, low: u64) -> Self {
        Self(high, low)
    }

    pub(super) fn parts(self) -> (u64, u64) {
        (self.0, self.1)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Keys are hashes already.
#[derive(Debug, Default, Clone, Copy)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map by key.
pub type KeyMap<V> = HashMap<Key, V, BuildHasherDefault<Identity>>;

/// Makes keys of columns of fixed types.
#[derive(Debug)]
pub struct KeyHasher {
    converter: RowConverter,
    sip: SipHasher13,
    /// Places of CHAR(n) columns: blanks at the end of their values do not count.
    chars: Vec<usize>,
}

impl KeyHasher {
    /// For columns of these types. Errors: a type that cannot be compared.
    pub fn new(schema: &SchemaRef, env: &Env) -> Result<Self> {
        Self::with_sip(schema, SipHasher13::new_with_keys(env.random_u64(), env.random_u64()))
    }

    /// The same where these of the columns are CHAR(n).
    pub fn with_chars(self, chars: Vec<usize>) -> Self {
        Self { chars, ..self }
    }

    /// For columns of other types, under the same random key.
    pub fn of_types(&self, schema: &SchemaRef) -> Result<Self> {
        Self::with_sip(schema, self.sip)
    }

    fn with_sip(schema: &SchemaRef, sip: SipHasher13) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).context(ErrorKind::Sql, || {
            let names: Vec<_> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
            format!("values of {} cannot be compared", names.join(", "))
        })?;
        Ok(Self { converter, sip, chars: Vec::new() })
    }

    /// One key per row.
    pub fn hash(&self, columns: &[ArrayRef]) -> Result<Vec<Key>> {
        let mut values: Vec<_> = columns.iter().map(key_values).collect();
        for &place in &self.chars {
            values[place] = without_blanks(&values[place])?;
        }
        self.hash_as_written(&values)
    }

    /// One hash per row, in which the forms of an equal value differ (0.0 and -0.0, the NaNs).
    pub fn hash_as_written(&self, columns: &[ArrayRef]) -> Result<Vec<Key>> {
        let rows = self.converter.convert_columns(columns).internal(|| "keys cannot be encoded".to_owned())?;
        Ok(rows
            .iter()
            .map(|row| {
                let hash = self.sip.hash(row.as_ref());
                Key(hash.h1, hash.h2)
            })
            .collect())
    }
}

/// Location of a row: a file by its number in this process, and the row in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    pub file: u32,
    pub row: u32,
}
