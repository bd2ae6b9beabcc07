//! Random numbers that are the same on every machine and in every version: splitmix64, one stream per purpose and day.

use rand::RngCore;

use crate::env::splitmix64;

/// A splitmix64 stream.
#[derive(Debug, Clone)]
pub(super) struct Stream(u64);

/// The purpose of a stream; each has its own numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Customers = 1,
    Terminals = 2,
    Transactions = 3,
    CompromisedTerminals = 4,
    LeakedCards = 5,
    LeakedUse = 6,
}

impl Stream {
    /// The stream of `seed` for `purpose` on the `part`-th day.
    pub(super) fn new(seed: u64, purpose: Purpose, part: u64) -> Self {
        let mut stream = Self(seed);
        for key in [purpose as u64, part] {
            stream.0 = stream.next_u64() ^ key.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        }
        stream.next_u64();
        stream
    }

    /// A number in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `[0, limit)`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u32
    }
}

impl RngCore for Stream {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        for block in out.chunks_mut(8) {
            block.copy_from_slice(&self.next_u64().to_le_bytes()[..block.len()]);
        }
    }
}
