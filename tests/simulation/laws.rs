//! What must hold whatever happened.
//!
//! Lives here: the laws about nodes, each by name. Not here: laws about what one key was told (`histories`), what leads up to them (`main`).

use std::collections::{BTreeMap, BTreeSet};

use pbcache::key::{self, Key, PARTITIONS_COUNT};
use pbcache::limits;
use pbcache::version::Version;

use super::clients::{Asked, Clients, Record, Told};
use super::histories;
use super::world::World;

/// What a node has of a key in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    version: u64,
    tombstone: bool,
    value: Vec<u8>,
    flags: u32,
    expiry: u32,
}

/// Everything that is broken, a sentence each that begins with the name of the law.
pub fn check(world: &mut World, clients: &Clients, evicts: bool) -> Vec<String> {
    let mut broken = std::mem::take(&mut world.broken);
    let keys: BTreeSet<String> =
        clients.history.iter().map(|record| record.key.clone()).filter(|key| !key.is_empty()).collect();
    let mut acknowledged = BTreeMap::<&str, u64>::new();
    for record in clients.history.iter().filter(|record| !record.may_be_lost) {
        let greatest = acknowledged.entry(&record.key).or_default();
        *greatest = (*greatest).max(record.version);
    }
    for key in &keys {
        owners_agree(world, key, evicts, &mut broken);
        nothing_is_lost(world, clients, (key, acknowledged[key.as_str()]), evicts, &mut broken);
    }
    if !evicts {
        nothing_is_evicted(world, &mut broken);
    }
    nothing_flushed_returns(world, clients, &mut broken);
    clocks_are_near(world, &mut broken);
    values_keep_to_their_keys(clients, &mut broken);
    versions_rise(clients, &mut broken);
    comparisons_win_once(clients, &mut broken);
    errors_are_rare(clients, &mut broken);
    histories::check(clients, evicts, world.plan.ack, &mut broken);
    broken
}

/// `clocks-near`: no number that a node was sent has moved its clock or a fence beyond what clocks may differ by.
fn clocks_are_near(world: &World, broken: &mut Vec<String>) {
    for (index, node) in world.nodes.iter().enumerate() {
        let latest = Version::first_at(world.clock(index).plus_ms(2 * limits::PEER_CLOCK_SKEW_MS_MAX));
        for core in &node.cores {
            let partition =
                (0..PARTITIONS_COUNT).map(|partition| core.engine.partition_fence(partition)).max().unwrap_or_default();
            let greatest = core.engine.clock().max(core.engine.fence()).max(partition);
            if greatest > latest {
                broken.push(format!("clocks-near: node {index} has come to {greatest:?}, from no clock"));
            }
        }
    }
}

/// What a node has of a key that a client could read, or that says that it was deleted.
fn copy_at(world: &mut World, node: usize, key: &str) -> Option<Copy> {
    let now = world.clock(node);
    let key = Key::new(key.as_bytes());
    let core = world.nodes[node].cores.iter().position(|core| core.routes.core_of(key.hash) == core.id)?;
    let copy = world.nodes[node].cores[core].engine.copy_of(&key, now)?;
    Some(Copy {
        version: copy.version.bits(),
        tombstone: copy.tombstone,
        value: copy.value.to_vec(),
        flags: copy.client_flags,
        expiry: copy.expiry.0,
    })
}

/// `room`: where there is room for everything, nothing goes for want of it. Other laws rely on that.
fn nothing_is_evicted(world: &World, broken: &mut Vec<String>) {
    for (index, node) in world.nodes.iter().enumerate() {
        let evicted: u64 = node.cores.iter().map(|core| core.engine.evicted_count()).sum();
        if evicted > 0 {
            broken.push(format!("room: node {index} has evicted {evicted} items"));
        }
    }
}

/// `owners-agree`: after healing, all owners of a key have the same, byte for byte, and nobody else has anything.
fn owners_agree(world: &mut World, key: &str, evicts: bool, broken: &mut Vec<String>) {
    let owners = world.owners_of(key);
    let copies: Vec<Option<Copy>> = owners.iter().map(|&owner| copy_at(world, owner, key)).collect();
    // A tombstone says what absence says, and which of the two is there may depend on memory and time.
    let readable = |copy: &Option<Copy>| copy.clone().filter(|copy| !copy.tombstone);
    let there: Vec<Copy> = copies.iter().filter_map(readable).collect();
    let same = there.windows(2).all(|pair| pair[0] == pair[1]);
    if !same || (!evicts && !there.is_empty() && there.len() != copies.len()) {
        broken.push(format!("owners-agree: {key} is {copies:?} at its owners {owners:?}"));
    }
    for node in world.members.clone().into_iter().filter(|node| !owners.contains(node)) {
        if let Some(copy) = copy_at(world, node, key).filter(|copy| !copy.tombstone) {
            broken.push(format!("owners-agree: node {node} still has {key} ({}), which it does not own", copy.version));
        }
    }
}

/// `nothing-lost`: what was acknowledged is there, or something newer, or it was deleted or flushed later; and what was deleted does
/// not return.
fn nothing_is_lost(
    world: &mut World,
    clients: &Clients,
    (key, acknowledged): (&str, u64),
    evicts: bool,
    broken: &mut Vec<String>,
) {
    if acknowledged == 0 {
        return;
    }
    let owners = world.owners_of(key);
    let copies: Vec<Option<Copy>> = owners.iter().map(|&owner| copy_at(world, owner, key)).collect();
    for (owner, copy) in owners.iter().zip(&copies) {
        match copy {
            Some(copy) if copy.version >= acknowledged => {}
            Some(copy) if copy.tombstone => {}
            Some(copy) => broken.push(format!(
                "nothing-lost: owner {owner} has {key} with version {}, older than the acknowledged {acknowledged}",
                copy.version
            )),
            None if evicts || acknowledged < clients.flushed => {}
            None => {
                let fence = fences_at(world, *owner, key);
                let deleted = clients.history.iter().any(|record| record.key == key && record.may_remove());
                if fence < acknowledged && !deleted {
                    broken.push(format!("nothing-lost: owner {owner} has nothing of {key}, acknowledged as {acknowledged}"));
                }
            }
        }
    }
}

fn fences_at(world: &World, node: usize, key: &str) -> u64 {
    let hash = key::routing_hash(key.as_bytes());
    let partition = key::partition_of(key::bucket_of(hash, world.plan.buckets), world.plan.buckets);
    let engines = world.nodes[node].cores.iter().map(|core| &core.engine);
    engines.map(|engine| engine.fence().max(engine.partition_fence(partition))).max().unwrap_or_default().bits()
}

/// `flush-stays`: nothing from before an acknowledged flush is on any node.
fn nothing_flushed_returns(world: &mut World, clients: &Clients, broken: &mut Vec<String>) {
    for &node in &world.members {
        for core in &world.nodes[node].cores {
            if core.engine.fence().bits() < clients.flushed {
                broken.push(format!(
                    "flush-stays: node {node} has the fence {}, acknowledged {}",
                    core.engine.fence().bits(),
                    clients.flushed
                ));
            }
        }
    }
}

/// `own-values`: a value names its key, and was written by somebody.
fn values_keep_to_their_keys(clients: &Clients, broken: &mut Vec<String>) {
    let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in &clients.history {
        match &record.asked {
            Asked::Set { value, .. } | Asked::Compare { value, .. } => {
                _ = written.entry(&record.key).or_default().insert(value)
            }
            Asked::Append { token } => _ = written.entry(&record.key).or_default().insert(token),
            _ => {}
        }
    }
    for record in &clients.history {
        let Some(Told::Value(_, value)) = &record.told else { continue };
        let by_somebody = |value: &str| written.get(record.key.as_str()).is_some_and(|values| values.contains(value));
        let is_own = match record.key.starts_with("list") {
            true => value.split(';').skip(1).all(|token| by_somebody(&format!(";{token}"))),
            false => by_somebody(value),
        };
        if !is_own {
            broken.push(format!("own-values: {} was read as {value}", record.key));
        }
    }
}

/// `versions-rise`: with everybody there, a client that reads a key after a write was acknowledged never sees an older version, also right
/// after one of the nodes was away.
fn versions_rise(clients: &Clients, broken: &mut Vec<String>) {
    let mut seen: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    let mut records: Vec<&Record> = clients.history.iter().filter(|record| record.ended.is_some()).collect();
    records.sort_by_key(|record| record.ended);
    for record in &records {
        let version = match &record.told {
            Some(Told::Value(version, _) | Told::Stored(version)) => *version,
            _ => continue,
        };
        let before = seen.entry(&record.key).or_default();
        let known = before.iter().filter(|(ended, _)| *ended < record.begun).map(|(_, version)| *version).max();
        if record.steady && known.is_some_and(|known| version < known) {
            broken.push(format!("versions-rise: {} went back from {known:?} to {version} at {:?}", record.key, record.ended));
        }
        // What was only read may not have been acknowledged, and may be lost with the node that had it.
        if matches!(record.told, Some(Told::Stored(_))) && !record.may_be_lost {
            before.push((record.ended.unwrap(), version));
        }
    }
}

/// `cas-once`: a version is replaced by at most one comparison.
fn comparisons_win_once(clients: &Clients, broken: &mut Vec<String>) {
    let mut won = BTreeSet::new();
    for record in &clients.history {
        if let (Some(_), Asked::Compare { expected, .. }, Some(Told::Stored(_))) = (record.sound, &record.asked, &record.told)
            && !won.insert((record.key.clone(), *expected))
        {
            broken.push(format!("cas-once: two comparisons of {} with {expected} were stored", record.key));
        }
    }
}

/// `no-errors`: within a calm period every request is answered, and none with an error; nor is one of a key that never expires told that it may
/// have been executed. (Of one that expires, a node whose clock is seconds ahead makes a tombstone as soon as it comes: that is newer.)
fn errors_are_rare(clients: &Clients, broken: &mut Vec<String>) {
    for record in clients.history.iter().filter(|record| record.calm.is_some()) {
        let expires = record.key.starts_with("key");
        if let Some(told @ (Told::Failed(_) | Told::Interrupted)) = &record.told
            && (*told != Told::Interrupted || !expires)
        {
            broken.push(format!(
                "no-errors: {:?} of {} at {} was answered with {told:?}",
                record.asked, record.key, record.begun
            ));
        }
    }
}
