//! What does the way between two cores cost: the queue alone, from one thread to another?
//!
//! Unit: nanoseconds per record (throughput: wall time over records, both threads busy), nanoseconds per round trip (one record
//! there, one back, both sides look without sleeping). Workload: records of `BYTES` (160: a get with its head) bytes, published in
//! batches of 1 and 16; `RECORDS` (5,000,000). Threads are pinned to the first two CPUs; on one CPU the figures mean nothing.
//!
//! Would change our mind: a batched record above 30 ns, or a round trip above 1 us between CPUs of one socket: then the queue's lines
//! bounce, and its indices want another layout.
#![allow(clippy::disallowed_methods)] // a bench looks at the clock

mod bare;

use std::hint::spin_loop;
use std::time::Instant;

use bare::setting;
use pbcache::runtime::mesh::queue::{Consumer, Producer, queue};

fn main() {
    let records = setting("RECORDS", 5_000_000, 2_000);
    let bytes = setting("BYTES", 160, 160) as usize;
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    println!("{:<44} {:>8}", "", "ns each");
    for batch in [1, 16] {
        let (ns, sum) = stream(records, batch, bytes, &cpus);
        println!("{:<44} {ns:>8.1}   checksum {sum:x}", format!("a record, published {batch} at a time"));
    }
    let (ns, sum) = round_trip(records / 20, bytes, &cpus);
    println!("{:<44} {ns:>8.1}   checksum {sum:x}", "a round trip");
}

fn pin(cpus: &[core_affinity::CoreId], index: usize) {
    if cpus.len() > 1 {
        core_affinity::set_for_current(cpus[index]);
    }
}

/// Writes one record, waiting for room.
fn put(producer: &mut Producer, number: u64, bytes: usize) {
    loop {
        if let Some(payload) = producer.reserve(1, bytes) {
            payload.fill(number as u8);
            payload[..8].copy_from_slice(&number.to_le_bytes());
            return;
        }
        producer.publish();
        wait();
    }
}

/// Waits for one record and gives its number.
fn take(consumer: &mut Consumer) -> u64 {
    loop {
        if let Some((_, payload)) = consumer.peek() {
            let mut number = [0; 8];
            number.copy_from_slice(&payload[..8]);
            consumer.pop();
            return u64::from_le_bytes(number);
        }
        consumer.release();
        wait();
    }
}

/// Where the machine has one CPU, the other side needs it.
fn wait() {
    static ALONE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    match ALONE.get_or_init(|| std::thread::available_parallelism().is_ok_and(|count| count.get() == 1)) {
        true => std::thread::yield_now(),
        false => spin_loop(),
    }
}

fn stream(records: u64, batch: u64, bytes: usize, cpus: &[core_affinity::CoreId]) -> (f64, u64) {
    let (mut producer, mut consumer) = queue(256 << 10, |_, _| {});
    let start = Instant::now();
    let sum = std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(cpus, 0);
            for number in 0..records {
                put(&mut producer, number, bytes);
                if (number + 1).is_multiple_of(batch) {
                    producer.publish();
                }
            }
            producer.publish();
        });
        let reader = scope.spawn(move || {
            pin(cpus, 1);
            let mut sum = 0u64;
            for number in 0..records {
                sum = sum.wrapping_mul(31).wrapping_add(take(&mut consumer));
                if (number + 1).is_multiple_of(16) {
                    consumer.release();
                }
            }
            sum
        });
        reader.join().expect("the reader")
    });
    (start.elapsed().as_nanos() as f64 / records as f64, sum)
}

fn round_trip(rounds: u64, bytes: usize, cpus: &[core_affinity::CoreId]) -> (f64, u64) {
    let (mut ask, mut asked) = queue(64 << 10, |_, _| {});
    let (mut answer, mut answered) = queue(64 << 10, |_, _| {});
    let mut sum = 0u64;
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(cpus, 1);
            for _ in 0..rounds {
                let number = take(&mut asked);
                put(&mut answer, number + 1, bytes);
                answer.publish();
                asked.release();
            }
        });
        pin(cpus, 0);
        for number in 0..rounds {
            put(&mut ask, number, bytes);
            ask.publish();
            sum = sum.wrapping_mul(31).wrapping_add(take(&mut answered));
            answered.release();
        }
    });
    (start.elapsed().as_nanos() as f64 / rounds as f64, sum)
}
