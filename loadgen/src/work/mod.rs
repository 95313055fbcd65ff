//! What is asked of the server: which key, which value, which command. No I/O, no clock; seeded.

pub mod keys;
pub mod lru;
pub mod mix;
pub mod trace;
pub mod values;

use std::sync::Arc;

use serde::Serialize;

use keys::{Distribution, KeySpace};
use mix::Mix;
use trace::Trace;
use values::Sizes;

/// The work of one run, the same for every thread and every server that is compared.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The keys and how they are written.
    pub keys: KeySpace,
    /// Which key is next.
    pub distribution: Distribution,
    /// How large values are.
    pub sizes: Sizes,
    /// Which command is next.
    pub mix: Mix,
    /// Keys per get.
    pub multi_get: u16,
    /// Times to live that writes ask for.
    pub ttls: mix::Ttls,
    /// Store the item again after a miss, as an application with a data base behind the cache does.
    pub fill_misses: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// A recorded sequence instead of all of the above except `fill_misses`.
    #[serde(skip)]
    pub trace: Option<Arc<Trace>>,
}

impl Work {
    /// Appends the key of an index.
    #[inline]
    pub fn write_key(&self, index: u32, output: &mut Vec<u8>) {
        match &self.trace {
            None => self.keys.write(index, output),
            Some(trace) => output.extend_from_slice(trace.key(index)),
        }
    }

    /// The size of the value of a key, in bytes.
    #[inline]
    pub fn value_bytes(&self, index: u32) -> u32 {
        match &self.trace {
            None => self.sizes.of(index, self.seed),
            Some(trace) => trace.value_bytes(index),
        }
    }

    /// The largest value that can come, in bytes.
    pub fn value_bytes_max(&self) -> u32 {
        self.trace.as_ref().map_or(self.sizes.bytes_max(), |trace| trace.value_bytes_max())
    }

    /// Whether any item may have a time to live: then a miss proves nothing.
    pub fn temporary(&self) -> bool {
        self.ttls.any() || self.trace.is_some()
    }
}
