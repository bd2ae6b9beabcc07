//! The kinds of values that the configuration knows beside plain ones: sizes, shares of the machine, secrets.

use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use parquet::basic::Compression;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

/// A value that must never be printed, logged, explained or stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a plain text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The plain text; hand it to a client library and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of a plain String would quote the value.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("expected a text"))?;
        Ok(Self(text))
    }
}

/// A number of bytes, written `128MiB` (2^20 each), `64 KiB`, `1GB` or `1G` (10^9) or plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            "k" | "kb" => 1_000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "t" | "tb" => 1_000_000_000_000,
            _ => return Err(not_a_size(text)),
        };
        let number: f64 = number.parse().map_err(|_| not_a_size(text))?;
        let bytes = number * scale as f64;
        if bytes < 1.0 || bytes > i64::MAX as f64 {
            return Err(format!("size `{text}` is out of range"));
        }
        Ok(Self(bytes as u64))
    }
}

impl ByteSize {
    /// A size as Spark writes it in `delta.*` properties: whole numbers, and `64mb` means 64 MiB.
    pub fn of_spark(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as `128mb`, which is 128 MiB to Spark");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let shift = match unit.trim() {
            "" | "b" => 0,
            "k" | "kb" => 10,
            "m" | "mb" => 20,
            "g" | "gb" => 30,
            "t" | "tb" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(1 << shift).filter(|bytes| (1..=i64::MAX as u64).contains(bytes));
        bytes.map(Self).ok_or_else(|| format!("size `{text}` is out of range"))
    }
}

fn not_a_size(text: &str) -> String {
    format!("`{text}` is not a size such as `128MiB` or `128MB` (10^6 bytes each)")
}

/// A span of time, written `300s`, `5 minutes`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Interval {
    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a time such as `30s` or `5 minutes`");
        let digits = text.trim().find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.trim().split_at(digits);
        let unit_ms = match unit.trim().to_ascii_lowercase().as_str() {
            "ms" | "millisecond" | "milliseconds" => 1,
            "s" | "second" | "seconds" => 1_000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            _ => return Err(wrong()),
        };
        // A month is longer than any wait, and a clock can still add it.
        const LONGEST_MS: u64 = 31 * 24 * 3_600_000;
        let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or_else(wrong)?;
        if ms == 0 || ms > LONGEST_MS {
            return Err(format!("time `{text}` is out of range"));
        }
        Ok(Self(Duration::from_millis(ms)))
    }
}

/// Memory as a share of the machine or as a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// 1 to 100 percent of the machine, or of the container where it is limited.
    Percent(u8),
    /// A fixed size.
    Bytes(ByteSize),
}

impl MemoryLimit {
    /// The limit in bytes on this machine; 1 GiB if the limit is a share and the machine's memory is unknown.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bytes(size) => size.0,
            Self::Percent(percent) => machine_memory().map_or(1 << 30, |total| total / 100 * u64::from(percent)),
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.trim().strip_suffix('%') else {
            return text
                .parse()
                .map(Self::Bytes)
                .map_err(|_| format!("`{text}` is neither a share such as `60%` nor a size such as `4GiB`"));
        };
        match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(format!("`{text}` is not a share between 1% and 100%")),
        }
    }
}

/// The number of plan partitions that run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallelism {
    /// One per core.
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

impl FromStr for Parallelism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Count).map_err(|_| format!("`{text}` is neither `auto` nor 1 or more")),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

impl<'de> Deserialize<'de> for Parallelism {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer)
    }
}

/// Reads a token. A key without a value, as `${NAME:-}` leaves it, is refused: it would mean that no login is required.
pub(super) fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let text = Option::<String>::deserialize(deserializer).map_err(|_| D::Error::custom("expected a text"))?;
    match text.filter(|text| !text.trim().is_empty()) {
        Some(text) => Ok(Some(Secret(text))),
        None => Err(D::Error::custom("the token is empty; leave the key out if nobody shall log in")),
    }
}

/// Reads a path. A key without a value is refused: it would mean no encryption.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.filter(|path| !path.trim().is_empty()) {
        Some(path) => Ok(Some(path.into())),
        None => Err(D::Error::custom("the path is empty; leave both keys out for no encryption")),
    }
}

/// Reads a [`Compression`]; see [`parse_compression`].
pub(super) fn compression<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compression, D::Error> {
    parse_compression(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The Parquet compression that `zstd(1)`, `snappy` … names; a bare `zstd` or `gzip` takes level 1 or 6.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    let text = text.trim().to_ascii_lowercase();
    let name = match text.as_str() {
        "zstd" => "zstd(1)",
        "gzip" => "gzip(6)",
        "none" => "uncompressed",
        other => other,
    };
    let refused = || {
        Err(format!(
            "`{text}` is not one of `zstd(1)` to `zstd(22)`, `snappy`, `lz4_raw`, `gzip(1)` to `gzip(9)`, `uncompressed`"
        ))
    };
    match Compression::from_str(name) {
        Ok(Compression::LZO | Compression::BROTLI(_) | Compression::LZ4) | Err(_) => refused(),
        Ok(Compression::GZIP(level)) if level.compression_level() == 0 => refused(),
        Ok(compression) => Ok(compression),
    }
}

/// Reads a text or a number and hands its text to `T`.
fn scalar<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    struct Scalar;
    impl Visitor<'_> for Scalar {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a number")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    deserializer.deserialize_any(Scalar)?.parse().map_err(D::Error::custom)
}

/// The machine's memory, or the container's limit where that is lower.
fn machine_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    });
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(container).min()
}
