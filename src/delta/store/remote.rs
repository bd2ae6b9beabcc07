//! Cloud object stores from a location and the options of `OPTIONS (…)`.
//!
//! Options carry object_store's own names (`aws_region`, `azure_storage_account_key`, `allow_http` …); what is not given is
//! taken from the environment variables that those clients know. Unknown options are refused.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::catalog::Secret;
use crate::error::{Context, Error, ErrorKind, Result};

/// The store that `url` names, rooted at its bucket or container. `None` when the scheme is not a cloud's.
pub fn open(url: &Url, options: &BTreeMap<String, Secret>) -> Result<Option<Arc<dyn ObjectStore>>> {
    let bucket = bucket_url(url);
    let failed = || format!("cannot reach the store of `{url}`");
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(bucket).with_retry(retry());
            for (key, value) in options {
                builder = builder.with_config(parse::<AmazonS3ConfigKey>(key)?, value.expose());
            }
            Arc::new(builder.build().context(ErrorKind::Config, failed)?)
        }
        "az" | "azure" | "adl" | "abfs" | "abfss" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(bucket).with_retry(retry());
            for (key, value) in options {
                builder = builder.with_config(parse::<AzureConfigKey>(key)?, value.expose());
            }
            Arc::new(builder.build().context(ErrorKind::Config, failed)?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(bucket).with_retry(retry());
            for (key, value) in options {
                builder = builder.with_config(parse::<GoogleConfigKey>(key)?, value.expose());
            }
            Arc::new(builder.build().context(ErrorKind::Config, failed)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(store))
}

/// A host that tells stores apart: for Azure the container joins the account, which the URL's user part would hide.
pub fn identity(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.username() {
        "" => host.to_owned(),
        container => format!("{container}.{host}"),
    }
}

/// `true` if two URLs whose hosts are [`identity`]s may name one store, by whichever of its schemes.
pub fn may_be_one(a: &Url, b: &Url) -> bool {
    let family = |url: &Url| match url.scheme() {
        "s3" | "s3a" => "s3".to_owned(),
        "az" | "azure" | "adl" | "abfs" | "abfss" => "azure".to_owned(),
        other => other.to_owned(),
    };
    let (host_a, host_b) = (a.host_str().unwrap_or_default(), b.host_str().unwrap_or_default());
    // With some schemes of Azure the account is in the options, not in the URL.
    let begins = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'));
    let is_azure = family(a) == "azure";
    let same = host_a == host_b || (is_azure && (begins(host_a, host_b) || begins(host_b, host_a)));
    same && family(a) == family(b)
}

fn bucket_url(url: &Url) -> String {
    let mut bucket = url.clone();
    bucket.set_path("");
    bucket.to_string()
}

fn parse<K: FromStr>(key: &str) -> Result<K> {
    let unknown = || {
        Error::config(format!("unknown storage option `{key}`"))
            .with_hint("Options of a location carry object_store's names, such as `aws_region` or `allow_http`.")
    };
    K::from_str(&key.to_ascii_lowercase()).map_err(|_| unknown())
}

/// Shorter than the client's default: [`RetryStore`](super::retry::RetryStore) and the commit loop try again too.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() }
}
