//! The published vectors: written by this implementation, read by any other.
//!
//! Each line is a word and its fields, divided by one space; `SPEC.md` names the fields. Comparing the file as a whole makes it a golden
//! one.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use pbcache::key::routing_hash;
use pbcache::placement::{Assignment, LOG2, Layout, NodeId, Ring};

use super::{ids, member, skip};

const HEAD: &str = "# Test vectors of src/placement/SPEC.md, version 1. Words and fields are explained there, under Vectors.\n";

fn layouts() -> Vec<(&'static str, Layout)> {
    let id = |text: &str| NodeId::new(text).unwrap();
    let plain = |count: usize| (1..=count).map(|i| member(&format!("10.0.0.{i}:11211"), 1, "")).collect::<Vec<_>>();
    let layout = |buckets, redundancy, members| Layout { buckets, redundancy, members, assignments: Vec::new() };
    let weighted = vec![member("small", 1, ""), member("big", 4, ""), member("middle", 2, ""), member("drained", 0, "")];
    let zoned = (0..7).map(|i| member(&format!("cache-{i}"), 1, ["north", "south", "west"][i * i % 3])).collect::<Vec<_>>();
    let heavy = (0..9).map(|i| member(&format!("h{i}"), [65_535, 300, 7][i % 3], ["", "b"][i % 2])).collect::<Vec<_>>();
    let mut pinned = layout(5000, 2, plain(4));
    pinned.members.push(member("museum", 0, ""));
    pinned.assignments = vec![
        Assignment { partitions: 4000..=4095, nodes: vec![id("10.0.0.3:11211"), id("10.0.0.1:11211"), id("museum")] },
        Assignment { partitions: 0..=9, nodes: vec![id("museum"), id("unknown")] },
    ];
    let mut pinned_zones = layout(4096, 3, zoned.clone());
    pinned_zones.assignments = vec![Assignment { partitions: 100..=103, nodes: vec![id("cache-2")] }];
    vec![
        ("lone", layout(1, 3, plain(1))),
        ("three", layout(10_000_000, 1, plain(3))),
        ("ten", layout(10_000_000, 2, plain(10))),
        ("weighted", layout(10_000_000, 2, weighted)),
        ("zoned", layout(10_000_000, 2, zoned.clone())),
        ("crowded", layout(65_536, 5, zoned)),
        ("heavy", layout(u32::MAX, 3, heavy)),
        ("pinned", pinned),
        ("pinned-zones", pinned_zones),
    ]
}

fn render() -> String {
    let mut text = String::from(HEAD);
    for (index, entry) in LOG2.iter().enumerate() {
        writeln!(text, "log2 {index} {entry}").unwrap();
    }
    let long = "k".repeat(250);
    for key in ["a", "key:000000000001", "{user:7}:name", "cart:{user:7}", "{}name", "{name", "\u{e9}t\u{e9}", &long] {
        let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "key {hex} {:016x}", routing_hash(key.as_bytes())).unwrap();
    }
    for (name, layout) in layouts() {
        let ring = Ring::new(layout.clone()).unwrap();
        writeln!(text, "ring {name} {} {} {}", layout.buckets, layout.redundancy, ring.view()).unwrap();
        for member in &layout.members {
            let zone = if member.zone.is_empty() { "-" } else { &member.zone };
            writeln!(text, "member {} {} {zone}", member.id, member.weight).unwrap();
        }
        for Assignment { partitions, nodes } in &layout.assignments {
            let nodes: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
            writeln!(text, "assign {} {} {}", partitions.start(), partitions.end(), nodes.join(",")).unwrap();
        }
        for i in 0..40u64 {
            let spread = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hash = [0, u64::MAX, 0x0020_0000_0000_0000, 0x0673_0000_0000_0000][i as usize % 4]
                .wrapping_add(spread.wrapping_mul(i / 4));
            let bucket = ring.bucket(hash);
            let (owners, ranking) = (ring.owners_of(bucket), ring.ranking(bucket));
            let fallbacks = ids(&ring, ranking.skip(owners.len())).join(",");
            let fallbacks = if fallbacks.is_empty() { "-" } else { &fallbacks };
            let owners = ids(&ring, owners.to_vec()).join(",");
            writeln!(text, "hash {hash:016x} {bucket} {} {owners} {fallbacks}", ring.partition(bucket)).unwrap();
        }
    }
    text
}

#[test]
fn the_vectors_are_the_published_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/placement/vectors.txt");
    let text = render();
    if std::env::var_os("RING_WRITE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap();
    let difference = published.lines().zip(text.lines()).find(|(published, found)| published != found);
    assert_eq!(difference, None, "published, found");
    assert!(published == text, "one has more lines");
}

/// The specification is enough: a program that was written from it alone finds the same.
#[test]
fn a_second_implementation_agrees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/placement");
    let output = match Command::new("python3").arg(folder.join("check.py")).arg(folder.join("vectors.txt")).output() {
        Ok(output) => output,
        Err(error) => return skip::because(format!("python3 does not start: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_second_implementation_is_not_left_out_in_silence() {
    skip::fails_without("vectors::a_second_implementation_agrees", "python3 does not start");
}
