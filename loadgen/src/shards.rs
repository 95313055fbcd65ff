//! Which core of the server owns a key, so that a request can go straight to the core's own port.
//!
//! The server tells its map by `stats shards`: `cores`, `buckets`, and a port for each core. The placement is published:
//!
//! ```text
//!   h = XXH3-64(key, or the text between the first { and the next } if it is not empty; seed)
//!   bucket = floor(h * buckets / 2^64)          core = floor(bucket * cores / buckets)
//! ```

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::session::Client;
use crate::stats;
use crate::target::Target;

/// The map of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ShardMap {
    /// Cores of the server.
    pub cores: u32,
    /// Buckets of the ring.
    pub buckets: u32,
}

impl ShardMap {
    /// The core that owns a key.
    #[inline]
    pub fn core_of(&self, key: &[u8]) -> u32 {
        let hash = xxh3_64_with_seed(routing_part(key), SEED);
        let bucket = (hash as u128 * self.buckets as u128) >> 64;
        (bucket as u64 * self.cores as u64 / self.buckets as u64) as u32
    }
}

/// Replaces the one target of a client by the ports of the server's cores.
pub fn adopt(client: &mut Client) -> Result<(), String> {
    let [Target::Tcp(address)] = client.targets[..] else { return Err("--shard_aware wants one TCP target".into()) };
    let stats = stats::read(&client.targets[0], "shards").ok_or(format!("{address} does not answer `stats shards`"))?;
    let number = |name: &str| stats.get(name).and_then(|value| value.parse::<u32>().ok()).filter(|number| *number > 0);
    let missing = || format!("`stats shards` of {address} lacks cores, buckets or ports");
    let map = ShardMap { cores: number("cores").ok_or_else(missing)?, buckets: number("buckets").ok_or_else(missing)? };
    let mut targets = Vec::new();
    for core in 0..map.cores.min(CORES_MAX) {
        let port = number(&format!("{core}:port")).and_then(|port| u16::try_from(port).ok()).ok_or_else(missing)?;
        targets.push(Target::Tcp((address.ip(), port).into()));
    }
    let same = targets.iter().filter(|target| **target == targets[0]).count();
    if map.cores > 1 && same > 1 {
        return Err(format!("the cores of {address} share one port: start it with --shard_ports"));
    }
    client.targets = targets;
    client.shards = Some(map);
    Ok(())
}

fn routing_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

/// Seed of the published routing hash: the bytes of "pbcache1".
const SEED: u64 = u64::from_be_bytes(*b"pbcache1");
const CORES_MAX: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_own_equal_shares_and_tags_stay_together() {
        let map = ShardMap { cores: 4, buckets: 10_000_000 };
        let mut counts = [0; 4];
        for number in 0..40_000 {
            counts[map.core_of(format!("key:{number}").as_bytes()) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
        assert_eq!(map.core_of(b"{user:7}:name"), map.core_of(b"a{user:7}"));
    }
}
