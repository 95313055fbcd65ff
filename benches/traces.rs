//! Which share of reads misses when a tenth of all objects fits, and how does that compare with S3-FIFO and LRU?
//!
//! Unit: misses per read over the whole trace, all objects of one size, each miss followed by a set. The size of values is chosen
//! so that the engine holds a tenth of the objects, as counted during the second half: what is compared is the rule of eviction,
//! not bytes per item.
//!
//! Without settings: three synthetic traces. `PBCACHE_DATA` names a folder with `orm-busy.trace.xz`, `orm-night.trace.xz`,
//! `web07.trace.xz` (cache2k's, as kept by the caffeine project's simulator; needs `xz`). `PBCACHE_TRACES` names a folder where
//! each trace is written as libCacheSim reads it (`NAME.oracleGeneral`); `benches/traces_anchor.py` then measures its LRU and
//! S3-FIFO on the same requests.
//!
//! Would change our mind about eviction by segment: a row more than 4 % above S3-FIFO's, or above LRU's.

#[path = "lookaside/cache.rs"]
mod cache;
#[path = "../tests/random/mod.rs"]
mod random;
#[path = "lookaside/zipf.rs"]
mod zipf;

use std::collections::HashMap;
use std::io::Write;
use std::process::Command as Process;

use cache::Cache;
use pbcache::time::Exptime;
use random::Random;
use zipf::Zipf;

/// As many segments as a small shard has: 512 of 64 KiB.
const MEMORY_BYTES: usize = 32 << 20;
const TRIES_MAX: usize = 6;

/// A name and the objects that are asked for, in order.
struct Trace {
    name: &'static str,
    objects: Vec<u64>,
}

impl Trace {
    fn plain(requests: usize) -> Self {
        let (mut random, zipf) = (Random(0x9e37_79b9_7f4a_7c15), Zipf::new(1_000_000.min(requests / 10), 0.99));
        Self { name: "zipf-0.99", objects: (0..requests).map(|_| zipf.rank(&mut random)).collect() }
    }

    /// Every fifth request is for an object that nobody asks for again.
    fn one_hit(requests: usize) -> Self {
        let (mut random, zipf) = (Random(0x1234_5678_9abc_def1), Zipf::new(1_000_000.min(requests / 10), 1.0));
        let mut fresh = 1 << 40;
        let mut request = || {
            if random.next().is_multiple_of(5) {
                fresh += 1;
                fresh
            } else {
                zipf.rank(&mut random)
            }
        };
        Self { name: "zipf-1.0-one-hit", objects: (0..requests).map(|_| request()).collect() }
    }

    /// Every now and then, objects in a row: 0.3 of what fits.
    fn scans(requests: usize) -> Self {
        let keys = 1_000_000.min(requests / 10);
        let (mut random, zipf) = (Random(0x0fed_cba9_8765_4321), Zipf::new(keys, 1.0));
        let scan = (keys as u64 / 10) * 3 / 10;
        let mut objects = Vec::with_capacity(requests);
        while objects.len() < requests {
            for _ in 0..8 * scan {
                objects.push(zipf.rank(&mut random));
            }
            let start = random.next() % (keys as u64 - scan);
            objects.extend(start..start + scan);
        }
        objects.truncate(requests);
        Self { name: "zipf-1.0-scans", objects }
    }

    /// A trace of cache2k's: numbers of 4 bytes, the highest first.
    fn read(folder: &str, name: &'static str) -> Self {
        let path = format!("{folder}/{name}.trace.xz");
        let output = Process::new("xz").args(["--decompress", "--stdout", &path]).output().expect("xz can be run");
        assert!(output.status.success() && !output.stdout.is_empty(), "{path} cannot be read");
        let number = |bytes: &[u8]| u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        Self { name, objects: output.stdout.chunks_exact(4).map(number).collect() }
    }

    /// Distinct objects.
    fn distinct(&self) -> usize {
        let mut objects = self.objects.clone();
        objects.sort_unstable();
        objects.dedup();
        objects.len()
    }

    /// Writes libCacheSim's records: second, object, size, next request for the same object (-1 if none).
    fn write(&self, folder: &str) {
        let mut next_of = HashMap::new();
        let mut records = vec![[0u8; 24]; self.objects.len()];
        for (at, &object) in self.objects.iter().enumerate().rev() {
            let next = next_of.insert(object, at as i64).unwrap_or(-1);
            let record = &mut records[at];
            record[..4].copy_from_slice(&(at as u32).to_le_bytes());
            record[4..12].copy_from_slice(&object.to_le_bytes());
            record[12..16].copy_from_slice(&1u32.to_le_bytes());
            record[16..].copy_from_slice(&next.to_le_bytes());
        }
        let path = format!("{folder}/{}.oracleGeneral", self.name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("the folder can be written to"));
        records.iter().for_each(|record| file.write_all(record).expect("room on the disk"));
    }
}

/// Misses per read, and items held on average during the second half.
fn replay(trace: &Trace, value_bytes: usize) -> (f64, f64) {
    let mut cache = Cache::new(MEMORY_BYTES);
    let value = vec![b'v'; value_bytes];
    let (mut misses, mut held, mut looks) = (0u64, 0u64, 0u64);
    for (number, &object) in trace.objects.iter().enumerate() {
        misses += u64::from(cache.request(object, &value, Exptime(0)));
        if number % 16 == 0 {
            cache.engine.tick(cache.now, 64);
        }
        if number >= trace.objects.len() / 2 && number % 1024 == 0 {
            held += cache.engine.statistics().items_count;
            looks += 1;
        }
    }
    (misses as f64 / trace.objects.len() as f64, held as f64 / looks.max(1) as f64)
}

fn measure(trace: &Trace) {
    let wanted = trace.distinct() as f64 / 10.0;
    let mut value_bytes = (MEMORY_BYTES as f64 / wanted - 60.0).clamp(1.0, 30_000.0);
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..TRIES_MAX {
        let (misses, held) = replay(trace, value_bytes as usize);
        if best.is_none_or(|(_, before)| (held - wanted).abs() < (before - wanted).abs()) {
            best = Some((misses, held));
        }
        if (held / wanted - 1.0).abs() < 0.003 {
            break;
        }
        value_bytes = ((value_bytes + 52.0) * held / wanted - 52.0).clamp(1.0, 30_000.0);
    }
    let (misses, held) = best.expect("replayed at least once");
    println!("{:18} {wanted:9.0} objects fit, held {held:9.0} ({value_bytes:.0} B each)   misses {misses:.4}", trace.name);
}

fn main() {
    let requests = if std::env::args().any(|argument| argument == "--bench") { 10_000_000 } else { 20_000 };
    let mut traces: Vec<Box<dyn Fn() -> Trace>> = vec![
        Box::new(move || Trace::plain(requests)),
        Box::new(move || Trace::one_hit(requests)),
        Box::new(move || Trace::scans(requests)),
    ];
    match std::env::var("PBCACHE_DATA") {
        Err(_) => println!("PBCACHE_DATA is not set: no recorded traces"),
        Ok(folder) => {
            for name in ["orm-busy", "orm-night", "web07"] {
                let folder = folder.clone();
                traces.push(Box::new(move || Trace::read(&folder, name)));
            }
        }
    }
    for make in traces {
        let trace = make();
        if let Ok(folder) = std::env::var("PBCACHE_TRACES") {
            trace.write(&folder);
        }
        measure(&trace);
    }
}
