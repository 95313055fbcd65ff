//! The laws of the ring, as properties with seeds, and its published vectors.
//!
//! `RING_SEED` replays a failing layout. `RING_WRITE=1` writes `vectors.txt` anew: then the function has changed, every ring in use
//! would move, and `SPEC.md` needs another version. `check.py` beside this file knows only `SPEC.md` and reads the same vectors.
#![allow(clippy::disallowed_methods)] // a test reads files and starts the checker

#[path = "../random/mod.rs"]
mod random;
#[path = "../skip/mod.rs"]
mod skip;
mod vectors;

/// The component compiled alone: it needs nothing of the crate around it.
#[allow(dead_code, unused_imports)]
#[path = "../../src/placement/mod.rs"]
mod alone;

use std::collections::HashSet;

use pbcache::key;
use pbcache::placement::{
    Assignment, Layout, Member, NodeId, NodeIndex, OwnersCache, PARTITIONS_COUNT, REDUNDANCY_MAX, Ring, RingError, moved,
};

use random::Random;

/// Layouts that each property is tried on.
const LAYOUTS_COUNT: u64 = 300;
/// Buckets of a layout that are looked at.
const BUCKETS_SEEN: u64 = 200;

fn member(id: &str, weight: u32, zone: &str) -> Member {
    Member { id: NodeId::new(id).unwrap(), weight, zone: zone.into() }
}

fn members(count: usize) -> Vec<Member> {
    (0..count).map(|i| member(&format!("n{i}"), 1, "")).collect()
}

fn layout(buckets: u32, redundancy: usize, members: Vec<Member>) -> Layout {
    Layout { buckets, redundancy, members, assignments: Vec::new() }
}

/// A layout of 1 to 40 members: equal or unequal weights, with some of 0, no zones or some, often an assignment.
fn random_layout(random: &mut Random) -> Layout {
    let zones = random.pick(&[1, 1, 2, 3, 5]);
    let weights = random.pick(&[&[1][..], &[7], &[1, 2, 3, 4], &[1, 2, 0], &[65_535, 1, 300]]);
    let count = random.pick(&[1, 2, 3, 4, 7, 12, 33, 40]);
    let mut members: Vec<Member> = (0..count)
        .map(|i| {
            let zone = format!("z{}", random.below(zones));
            member(&format!("10.0.{}.{i}:11211", random.below(200)), random.pick(weights), &zone)
        })
        .collect();
    members[0].weight = members[0].weight.max(1);
    let mut assignments = Vec::new();
    if random.below(3) == 0 {
        let first = random.below(4000) as u32;
        let listed = (1 + random.below(3)).min(count) as usize;
        let nodes = members.iter().take(listed).map(|member| member.id.clone()).chain([NodeId::new("absent").unwrap()]);
        assignments.push(Assignment { partitions: first..=first + 90, nodes: nodes.collect() });
    }
    let redundancy = random.pick(&[1, 2, 3, 4, 5, REDUNDANCY_MAX]);
    let buckets = random.pick(&[1, 2, 100, 4095, 4096, 10_007, 10_000_000, u32::MAX]);
    Layout { buckets, redundancy, members, assignments }
}

/// Tries a property on many layouts; a failure names the seed.
fn each_layout(property: impl Fn(Layout, &mut Random)) {
    let chosen = std::env::var("RING_SEED").ok().map(|seed| seed.parse().expect("RING_SEED is a number"));
    let seeds = chosen.map_or(0..LAYOUTS_COUNT, |seed: u64| seed..seed + 1);
    for seed in seeds {
        struct Told(u64);
        impl Drop for Told {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("RING_SEED={}", self.0);
                }
            }
        }
        let _told = Told(seed);
        let mut random = Random(seed);
        property(random_layout(&mut random), &mut random);
    }
}

/// Some buckets of a ring: those at the ends, those that are assigned, and others.
fn buckets(ring: &Ring, layout: &Layout, random: &mut Random) -> Vec<u32> {
    let last = ring.buckets() - 1;
    let mut buckets = vec![0, last, last / 2];
    for assignment in &layout.assignments {
        buckets.extend(ring.buckets_of(*assignment.partitions.start()).take(20));
    }
    buckets.extend((0..BUCKETS_SEEN).map(|_| random.below(u64::from(last) + 1) as u32));
    buckets
}

fn ids(ring: &Ring, nodes: impl IntoIterator<Item = NodeIndex>) -> Vec<&str> {
    nodes.into_iter().map(|node| ring.member(node).id.as_str()).collect()
}

fn assigned(ring: &Ring, layout: &Layout, bucket: u32) -> Vec<NodeIndex> {
    let partition = ring.partition(bucket);
    let assignment = layout.assignments.iter().find(|assignment| assignment.partitions.contains(&partition));
    assignment.map_or(Vec::new(), |assignment| assignment.nodes.iter().filter_map(|id| ring.index_of(id.as_str())).collect())
}

#[test]
fn the_order_of_members_does_not_matter() {
    each_layout(|layout, random| {
        let ring = Ring::new(layout.clone()).unwrap();
        let mut shuffled = layout.clone();
        for at in (1..shuffled.members.len()).rev() {
            shuffled.members.swap(at, random.below(at as u64 + 1) as usize);
        }
        let other = Ring::new(shuffled).unwrap();
        assert_eq!(ring.view(), other.view());
        for bucket in buckets(&ring, &layout, random) {
            assert_eq!(ids(&ring, ring.ranking(bucket)), ids(&other, other.ranking(bucket)));
        }
    });
}

#[test]
fn owners_are_distinct_and_their_zones_too_where_possible() {
    each_layout(|layout, random| {
        let ring = Ring::new(layout.clone()).unwrap();
        let weighed = || ring.members().iter().filter(|member| member.weight > 0);
        let zones: HashSet<&str> = weighed().map(|member| member.zone.as_str()).collect();
        for bucket in buckets(&ring, &layout, random) {
            let owners = ring.owners_of(bucket);
            let distinct: HashSet<NodeIndex> = owners.iter().copied().collect();
            assert_eq!(distinct.len(), owners.len());
            if assigned(&ring, &layout, bucket).is_empty() {
                assert_eq!(owners.len(), ring.redundancy().min(weighed().count()));
                assert!(owners.iter().all(|&owner| ring.member(owner).weight > 0));
                let used: HashSet<&str> = owners.iter().map(|&owner| ring.member(owner).zone.as_str()).collect();
                assert_eq!(used.len(), zones.len().min(owners.len()));
            }
        }
    });
}

#[test]
fn the_ranking_is_the_owners_and_then_everyone_else() {
    each_layout(|layout, random| {
        let ring = Ring::new(layout.clone()).unwrap();
        for bucket in buckets(&ring, &layout, random).into_iter().take(40) {
            let ranking: Vec<NodeIndex> = ring.ranking(bucket).collect();
            let owners = ring.owners_of(bucket);
            assert_eq!(ranking[..owners.len()], *owners);
            assert_eq!(ranking.iter().collect::<HashSet<_>>().len(), ring.members().len());
            assert_eq!(ranking.len(), ring.members().len());
        }
    });
}

#[test]
fn assigned_nodes_come_first_in_the_order_given() {
    each_layout(|layout, random| {
        let ring = Ring::new(layout.clone()).unwrap();
        for bucket in buckets(&ring, &layout, random).into_iter().take(40) {
            let listed = assigned(&ring, &layout, bucket);
            let owners = ring.owners_of(bucket);
            let owned = listed.len().min(ring.redundancy());
            assert_eq!(owners[..owned], listed[..owned]);
            let ranking: Vec<NodeIndex> = ring.ranking(bucket).collect();
            let behind = &ranking[owners.len()..];
            let pinned = &listed[owned..];
            assert_eq!(behind[..pinned.len()], *pinned);
        }
    });
}

/// Everything that changes hands when one member comes, goes or changes weight is won or lost by that member.
#[test]
fn only_what_the_changed_node_wins_or_loses_moves() {
    each_layout(|layout, random| {
        let mut changed = layout.clone();
        let at = random.below(changed.members.len() as u64) as usize;
        let id = changed.members[at].id.clone();
        match random.below(3) {
            0 if changed.members.len() > 1 => drop(changed.members.remove(at)),
            1 => changed.members[at].weight = random.pick(&[1, 2, 5, 65_535]),
            _ => changed.members.push(member("newcomer", random.pick(&[1, 3]), "z1")),
        }
        let id = if changed.members.len() > layout.members.len() { NodeId::new("newcomer").unwrap() } else { id };
        if changed.members.iter().all(|member| member.weight == 0) {
            return;
        }
        let (old, new) = (Ring::new(layout.clone()).unwrap(), Ring::new(changed.clone()).unwrap());
        let listed = layout.assignments.iter().any(|assignment| assignment.nodes.contains(&id));
        for (from, to) in [(&old, &new), (&new, &old)] {
            let moves = moved(from, to).unwrap();
            for bucket in buckets(from, &layout, random) {
                let Some(change) = moves.of(bucket) else { continue };
                let (losers, winners) = (ids(from, change.losers.to_vec()), ids(to, change.winners.to_vec()));
                let known = [&losers, &winners].iter().any(|ids| ids.contains(&id.as_str()));
                assert!(known, "{bucket}: {losers:?} to {winners:?} for a change of {id}");
                if !listed || assigned(from, &layout, bucket).is_empty() {
                    assert!(losers.len() <= 1 && winners.len() <= 1, "{bucket}: {losers:?} to {winners:?}");
                }
            }
        }
    });
}

#[test]
fn an_absent_member_leaves_the_order_of_the_others() {
    each_layout(|mut layout, random| {
        layout.redundancy = 1;
        layout.assignments.clear();
        let ring = Ring::new(layout.clone()).unwrap();
        let gone = layout.members.len() - 1;
        let id = layout.members.remove(gone).id;
        let Ok(without) = Ring::new(layout.clone()) else { return };
        for bucket in buckets(&ring, &layout, random) {
            let mut before = ids(&ring, ring.ranking(bucket));
            before.retain(|&other| other != id.as_str());
            assert_eq!(before, ids(&without, without.ranking(bucket)));
        }
    });
}

#[test]
fn equal_weights_give_the_same_ring_whatever_they_are() {
    each_layout(|mut layout, random| {
        layout.members.iter_mut().for_each(|member| member.weight = 1);
        let ring = Ring::new(layout.clone()).unwrap();
        // One member that is only a bystander makes the ring count with weights.
        layout.members.iter_mut().for_each(|member| member.weight = 77);
        layout.members.push(member("bystander", 0, "z0"));
        let weighted = Ring::new(layout.clone()).unwrap();
        for bucket in buckets(&ring, &layout, random) {
            assert_eq!(ids(&ring, ring.owners_of(bucket).to_vec()), ids(&weighted, weighted.owners_of(bucket).to_vec()));
        }
    });
}

#[test]
fn the_owners_in_one_pass_are_those_that_a_sorted_ranking_gives() {
    each_layout(|mut layout, random| {
        layout.assignments.clear();
        let ring = Ring::new(layout.clone()).unwrap();
        // With one copy there are no zones to look at: the pure ranking.
        let plain = Ring::new(Layout { redundancy: 1, ..layout.clone() }).unwrap();
        for bucket in buckets(&ring, &layout, random) {
            let ranking: Vec<NodeIndex> = plain.ranking(bucket).filter(|&node| plain.member(node).weight > 0).collect();
            let mut chosen: Vec<NodeIndex> = Vec::new();
            for zones_differ in [true, false] {
                for &node in &ranking {
                    let used = chosen.iter().any(|&other| ring.member(other).zone == ring.member(node).zone);
                    if chosen.len() < ring.redundancy() && !chosen.contains(&node) && !(zones_differ && used) {
                        chosen.push(node);
                    }
                }
            }
            chosen.sort_by_key(|node| ranking.iter().position(|other| other == node));
            assert_eq!(*ring.owners_of(bucket), *chosen);
        }
    });
}

#[test]
fn the_cache_says_what_the_ring_says_also_after_a_change() {
    let mut cache = OwnersCache::default();
    let mut random = Random(7);
    for count in [40, 41, 100, 10, 40] {
        for redundancy in [1, 3] {
            let ring = Ring::new(layout(1000, redundancy, members(count))).unwrap();
            let wide = Ring::new(layout(u32::MAX, redundancy, members(count))).unwrap();
            for _ in 0..5000 {
                let bucket = random.below(1000) as u32;
                assert_eq!(cache.owners_of(&ring, bucket), ring.owners_of(bucket));
            }
            for bucket in [0, 16_384, 32_768, 65_536, 1 << 20, 1 << 21, 1 << 22, 0, 16_384, u32::MAX - 1] {
                assert_eq!(cache.owners_of(&wide, bucket), wide.owners_of(bucket));
            }
        }
    }
}

fn shares(ring: &Ring) -> Vec<f64> {
    let mut counts = vec![0u32; ring.members().len()];
    (0..ring.buckets()).for_each(|bucket| counts[usize::from(ring.owners_of(bucket)[0].0)] += 1);
    counts.into_iter().map(|count| f64::from(count) / f64::from(ring.buckets())).collect()
}

#[test]
fn weights_are_honoured_within_a_hundredth() {
    for weights in [&[1, 2, 3, 4][..], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[100, 200, 150], &[65_535, 20_000]] {
        let members = weights.iter().enumerate().map(|(i, &weight)| member(&format!("n{i}"), weight, "")).collect();
        let ring = Ring::new(layout(4_000_000, 1, members)).unwrap();
        let sum: u32 = weights.iter().sum();
        for (&weight, share) in weights.iter().zip(shares(&ring)) {
            let error = share / (f64::from(weight) / f64::from(sum)) - 1.0;
            assert!(error.abs() < 0.01, "weight {weight} of {sum}: {share}, off by {error}");
        }
    }
}

/// The buckets of a node that goes spread over all others, not over a neighbour; and the copies of its buckets do too.
#[test]
fn what_a_node_leaves_goes_to_all_others_alike() {
    let old = Ring::new(layout(1_000_000, 2, members(10))).unwrap();
    let new = Ring::new(layout(1_000_000, 2, members(9))).unwrap();
    let moves = moved(&old, &new).unwrap();
    let mut won = [0u32; 9];
    for partition in 0..PARTITIONS_COUNT {
        for change in moves.partition(partition) {
            assert_eq!((change.losers.len(), change.winners.len()), (1, 1));
            won[usize::from(change.winners[0].0)] += 1;
        }
    }
    let mean = f64::from(won.iter().sum::<u32>()) / 9.0;
    assert!((mean * 9.0 / 200_000.0 - 1.0).abs() < 0.01, "a tenth of two million copies moves: {won:?}");
    assert!(won.iter().all(|&won| (f64::from(won) / mean - 1.0).abs() < 0.03), "{won:?}");
}

#[test]
fn partitions_divide_the_buckets_as_the_routing_does() {
    assert_eq!(PARTITIONS_COUNT, key::PARTITIONS_COUNT);
    for buckets in [1, 2, 4095, 4096, 4097, 10_007, 10_000_000, u32::MAX] {
        let ring = Ring::new(layout(buckets, 1, members(3))).unwrap();
        let mut next = 0;
        for partition in 0..PARTITIONS_COUNT {
            let range = ring.buckets_of(partition);
            assert_eq!(range.start, next);
            next = range.end;
            for bucket in [range.start, range.end.saturating_sub(1)].into_iter().filter(|bucket| range.contains(bucket)) {
                assert_eq!(ring.partition(bucket), partition);
                assert_eq!(key::partition_of(bucket, buckets), partition);
            }
        }
        assert_eq!(next, buckets);
        assert!(ring.buckets_of(PARTITIONS_COUNT).is_empty() && ring.buckets_of(u32::MAX).is_empty());
        for hash in [0, 1, u64::MAX / 3, u64::MAX] {
            assert_eq!(ring.bucket(hash), key::bucket_of(hash, buckets));
        }
    }
}

#[test]
fn every_difference_that_matters_is_another_view() {
    let base = layout(1000, 2, vec![member("a", 1, "x"), member("b", 1, "y"), member("c", 1, "")]);
    let with = |change: &dyn Fn(&mut Layout)| {
        let mut layout = base.clone();
        change(&mut layout);
        Ring::new(layout).unwrap().view()
    };
    let pinned =
        |nodes: &[&str]| Assignment { partitions: 3..=4, nodes: nodes.iter().map(|id| NodeId::new(id).unwrap()).collect() };
    let views = [
        with(&|_| ()),
        with(&|layout| layout.buckets = 1001),
        with(&|layout| layout.redundancy = 3),
        with(&|layout| layout.members[0].weight = 2),
        with(&|layout| layout.members[0].zone = "y".into()),
        with(&|layout| layout.members[0].id = NodeId::new("d").unwrap()),
        with(&|layout| drop(layout.members.pop())),
        with(&|layout| layout.assignments.push(pinned(&["a", "b"]))),
        with(&|layout| layout.assignments.push(pinned(&["b", "a"]))),
    ];
    assert_eq!(views.iter().collect::<HashSet<_>>().len(), views.len());
}

#[test]
fn layouts_that_make_no_ring_are_named() {
    let id = |text: &str| NodeId::new(text).unwrap();
    let error = |change: &dyn Fn(&mut Layout)| {
        let mut layout = layout(10, 1, members(3));
        change(&mut layout);
        Ring::new(layout).err()
    };
    let assign = |first: u32, last: u32, nodes: &[&str]| Assignment {
        partitions: first..=last,
        nodes: nodes.iter().map(|text| id(text)).collect(),
    };
    assert_eq!(error(&|_| ()), None);
    assert_eq!(error(&|layout| layout.buckets = 0), Some(RingError::NoBuckets));
    assert_eq!(error(&|layout| layout.redundancy = 0), Some(RingError::Redundancy { redundancy: 0 }));
    assert_eq!(error(&|layout| layout.redundancy = 17), Some(RingError::Redundancy { redundancy: 17 }));
    assert_eq!(error(&|layout| layout.members.clear()), Some(RingError::NoMembers));
    assert_eq!(error(&|layout| layout.members.iter_mut().for_each(|m| m.weight = 0)), Some(RingError::NoMembers));
    assert_eq!(error(&|layout| layout.members = members(1024)), None);
    assert_eq!(error(&|layout| layout.members = members(1025)), Some(RingError::TooManyMembers { members_count: 1025 }));
    assert_eq!(error(&|layout| layout.members[2].id = id("n0")), Some(RingError::Twice { id: id("n0") }));
    assert_eq!(error(&|layout| layout.members[1].weight = 65_536), Some(RingError::Weight { id: id("n1"), weight: 65_536 }));
    assert_eq!(error(&|layout| layout.members[1].zone = "a b".into()), Some(RingError::Name { name: "a b".into() }));
    for (first, last, nodes) in [(4, 3, &["n0"][..]), (0, 4096, &["n0"]), (0, 1, &[])] {
        assert_eq!(
            error(&|layout| layout.assignments = vec![assign(first, last, nodes)]),
            Some(RingError::Assignment { first, last })
        );
    }
    assert_eq!(
        error(&|layout| layout.assignments = vec![assign(0, 1, &["n1", "n1"])]),
        Some(RingError::Twice { id: id("n1") })
    );
    let twice = vec![assign(5, 9, &["n1"]), assign(0, 5, &["n0"])];
    assert_eq!(error(&|layout| layout.assignments = twice.clone()), Some(RingError::Overlap { partition: 5 }));
    let (old, new) = (Ring::new(layout(10, 1, members(3))).unwrap(), Ring::new(layout(11, 1, members(3))).unwrap());
    assert_eq!(moved(&old, &new).err(), Some(RingError::BucketsDiffer { old: 10, new: 11 }));
    for name in ["", " ", "a b", "a\n", "\u{e9}", &"x".repeat(256)] {
        assert_eq!(NodeId::new(name), Err(RingError::Name { name: name.into() }));
    }
    assert!(NodeId::new(&"x".repeat(255)).is_ok());
}
