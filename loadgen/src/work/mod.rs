//! What is asked of the server: which key, which value, which command. No I/O, no clock; seeded.

pub mod keys;
pub mod mix;
pub mod values;

use serde::Serialize;

use keys::{Distribution, KeySpace};
use mix::Mix;
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
}
