//! Partitions that a node is told of, in lists by the link that each goes over.
//!
//! A partition lies on one core of a node, or on two. A list is as long as a frame may be.
//!
//! Lives here: lists of partitions. Not here: why a node is told (`transfer`, `purge`), how a partition is written (`peer::frame`).

use arrayvec::ArrayVec;

use crate::cluster::Turn;
use crate::cluster::links::{LinkId, Reach};
use crate::cluster::view::PeerId;
use crate::peer::frame::{self, Partition};

/// Lists, in the order in which their links were first needed.
#[derive(Default)]
pub(super) struct PartitionLists(Vec<(LinkId, Vec<Vec<u8>>)>);

impl PartitionLists {
    /// Adds a partition to what goes over a link.
    pub(super) fn add(&mut self, link: LinkId, partition: Partition) {
        let place = self.0.iter().position(|(other, _)| *other == link).unwrap_or_else(|| {
            self.0.push((link, Vec::new()));
            self.0.len() - 1
        });
        let lists = &mut self.0[place].1;
        if lists.last().is_none_or(|list| list.len() >= frame::PARTITIONS_TOLD_MAX * frame::PARTITION_BYTES) {
            lists.push(Vec::new());
        }
        if let Some(list) = lists.last_mut() {
            frame::write_partition(partition, list);
        }
    }

    /// Every list with its link.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &[u8])> {
        self.0.iter().flat_map(|(link, lists)| lists.iter().map(|list| (*link, &list[..])))
    }
}

/// The links to the cores of a node that have a partition.
pub(super) fn links_of(turn: &mut Turn<'_>, node: PeerId, partition: u32) -> ArrayVec<LinkId, 2> {
    let buckets = turn.buckets();
    let range = turn.cluster.view.ring.buckets_of(partition);
    let hash_of = |bucket: u32| ((u128::from(bucket) << 64).div_ceil(u128::from(buckets))) as u64;
    let mut links = ArrayVec::new();
    for hash in [hash_of(range.start), hash_of(range.end.saturating_sub(1).max(range.start))] {
        if let Reach::There(link) = turn.cluster.links.reach(node, hash, buckets, turn.at)
            && !links.contains(&link)
        {
            links.push(link);
        }
    }
    links
}
