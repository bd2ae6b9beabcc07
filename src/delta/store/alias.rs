//! Addresses for libraries that put a store's paths into URLs without escaping them: `a%20b` would become `a b`.
//!
//! A folder whose path does not survive that gets an address of its own whose path is `/`, and a store that begins there.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use sha2::{Digest, Sha256};
use url::Url;

use crate::error::{Context, Result};

/// The scheme of these addresses.
const SCHEME: &str = "weir-folder";

/// The URL and the store under which delta-rs and DataFusion know the folder `prefix` of `bucket`, which is at `place`.
pub fn known_as(place: &Url, prefix: &Path, bucket: &Arc<dyn ObjectStore>) -> Result<(Url, Arc<dyn ObjectStore>)> {
    let mut unescaped = place.clone();
    unescaped.set_path(&format!("/{prefix}"));
    if Path::from_url_path(unescaped.path()).is_ok_and(|read| read == *prefix) {
        return Ok((place.clone(), Arc::clone(bucket)));
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = prefix.filename().unwrap_or_default().chars().map(plain).collect();
    let hash = hex::encode(&Sha256::digest(place.as_str())[..16]);
    let url = Url::parse(&format!("{SCHEME}://{name}-{hash}/")).internal(|| format!("no address for `{place}`"))?;
    Ok((url, Arc::new(PrefixStore::new(Arc::clone(bucket), prefix.clone()))))
}
