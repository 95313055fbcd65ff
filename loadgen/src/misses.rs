//! Miss ratios of recorded traces, over how much of them fits: a read, and a store where it missed, for several servers.
//!
//! ```text
//!   for each trace, for each share of its bytes:     values are so long that this share is as many bytes as the memory
//!     for each server:  tell it {mib}, fill it, look at its resident memory; tell it as much less as it was above; again
//!                       start it, ask the whole trace, count misses
//!     beside them:      the same requests through a simulated LRU of as many bytes, and reads that no cache can answer
//! ```
//!
//! Equal is the resident memory of the whole process when it is full, not what a server counts as its items. The memory stays the same
//! over all shares and traces, so that what a process needs beside its items weighs the same in each point.

use std::path::Path;

use serde::Serialize;

use crate::interrupt;
use crate::lookaside::{Client, Counts};
use crate::options::MissesOptions;
use crate::report::{self, Context};
use crate::server::Server;
use crate::work::lru::Lru;
use crate::work::mix::Kind;
use crate::work::trace::Trace;

/// Everything that was measured.
#[derive(Serialize)]
pub struct Curves {
    /// How and where.
    pub context: Context,
    /// The servers' command lines.
    pub commands: Vec<String>,
    /// The servers' names.
    pub names: Vec<String>,
    /// Resident memory of each server when full, in MiB.
    pub memory_mib: u64,
    /// By how many percent values are shorter or longer than the mean, at most.
    pub spread: u32,
    /// One per trace.
    pub traces: Vec<Curve>,
}

/// Miss ratios on one trace.
#[derive(Serialize)]
pub struct Curve {
    /// Name of the file without its endings.
    pub trace: String,
    /// Reads.
    pub reads: u64,
    /// Distinct objects.
    pub objects: u32,
    /// Share of reads that are the first of their object: these miss in any cache.
    pub first_reads: f64,
    /// One per share.
    pub points: Vec<CurvePoint>,
}

/// Miss ratios at one share.
#[derive(Serialize)]
pub struct CurvePoint {
    /// Memory as a share of the bytes of all keys and values, in percent.
    pub share: f64,
    /// Mean length of a value, in bytes.
    pub value_bytes: f64,
    /// Misses per read of a simulated LRU with as many bytes of keys and values, and no overhead.
    pub lru: f64,
    /// One per server, in the order of the commands.
    pub servers: Vec<CurveServer>,
}

/// One server at one share.
#[derive(Serialize)]
pub struct CurveServer {
    /// Misses per read.
    pub misses: f64,
    /// What the server was told as {mib}.
    pub told_mib: u64,
    /// Resident memory at the end of the trace, in MiB.
    pub resident_mib: f64,
    /// Stores that it refused.
    pub refused: u64,
    /// The first refusal.
    pub refusal: Option<String>,
}

/// Measures and prints; gives the exit code.
pub fn misses(options: &MissesOptions) -> Result<u8, String> {
    interrupt::catch();
    if let Some(command) = options.commands.iter().find(|command| !command.contains("{mib}")) {
        return Err(format!("`{command}` lacks the placeholder {{mib}}"));
    }
    let mut curves = Curves {
        context: Context::new(options),
        commands: options.commands.clone(),
        names: options.commands.iter().map(|command| name_of(command)).collect(),
        memory_mib: options.memory,
        spread: options.spread,
        traces: Vec::new(),
    };
    print!("{}", report::text::compare_head(&options.commands));
    for path in &options.trace {
        let trace = Trace::open(path, options.limit)?;
        let mut curve = Curve {
            trace: trace_name(path),
            reads: trace.operations.iter().filter(|operation| operation.kind == Kind::Get).count() as u64,
            objects: trace.keys_count(),
            first_reads: first_reads(&trace),
            points: Vec::new(),
        };
        print!("{}", report::text::curve_head(&curve, &curves));
        for share in &options.shares {
            let point = measure(&trace, *share, options).map_err(|words| format!("{}, {share} %: {words}", curve.trace))?;
            print!("{}", report::text::curve_point(&point, &curves.names));
            curve.points.push(point);
        }
        curves.traces.push(curve);
    }
    let (csv, html) = (|| report::csv::curves(&curves), || report::html::curves(&curves));
    report::files::write_all(&options.output, &curves, csv, html)?;
    for (path, curve) in options.svg_files().iter().zip(&curves.traces) {
        report::files::write(path, &report::html::curve_picture(curve, &curves))?;
    }
    Ok(0)
}

fn measure(trace: &Trace, share: f64, options: &MissesOptions) -> Result<CurvePoint, String> {
    let bytes = options.memory << 20;
    let sizes = sizes(trace, bytes as f64 / share * 100.0, f64::from(options.spread) / 100.0)?;
    let mut point = CurvePoint {
        share,
        value_bytes: sizes.iter().map(|size| *size as f64).sum::<f64>() / sizes.len() as f64,
        lru: simulate(trace, &sizes, bytes),
        servers: Vec::new(),
    };
    for command in &options.commands {
        let fails = |words: String| format!("{}: {words}", name_of(command));
        let told_mib = calibrate(command, trace, &sizes, options).map_err(fails)?;
        let server = Server::start(&command.replace("{mib}", &told_mib.to_string()), &[])?;
        let Counts { reads, misses, refused, refusal } =
            Client::connect(server.address, options.values)?.play(trace, &sizes).map_err(fails)?;
        let resident_mib = server.resident_bytes() as f64 / MIB;
        point.servers.push(CurveServer { misses: misses as f64 / reads as f64, told_mib, resident_mib, refused, refusal });
    }
    Ok(point)
}

/// What a server is to be told so that it has the wanted resident memory when it is full of such values.
fn calibrate(command: &str, trace: &Trace, sizes: &[u32], options: &MissesOptions) -> Result<u64, String> {
    let mut told = options.memory;
    for _ in 0..CALIBRATIONS {
        let server = Server::start(&command.replace("{mib}", &told.to_string()), &[])?;
        Client::connect(server.address, false)?.fill(trace, sizes, FILLS * (options.memory << 20))?;
        let excess = (server.resident_bytes() as f64 / MIB - options.memory as f64).round() as i64;
        if excess == 0 {
            break;
        }
        told = told.saturating_add_signed(-excess).max(1);
    }
    Ok(told)
}

/// The length of each object's value, so that all keys and values are `bytes` together: all alike within the spread, or in the
/// proportions that the trace gives them.
fn sizes(trace: &Trace, bytes: f64, spread: f64) -> Result<Vec<u32>, String> {
    let objects = 0..trace.keys_count();
    let weight = |index: u32| match trace.has_sizes() {
        true => f64::from(trace.value_bytes(index)),
        false => 1.0 + spread * (2.0 * fastrand::Rng::with_seed(index as u64).f64() - 1.0),
    };
    let keys: usize = objects.clone().map(|index| trace.key(index).len()).sum();
    let scale = (bytes - keys as f64) / objects.clone().map(weight).sum::<f64>();
    let sizes: Vec<u32> = objects.map(|index| (weight(index) * scale).round().max(1.0) as u32).collect();
    match sizes.iter().max() {
        _ if scale <= 0.0 => Err("not even the keys fit: more --memory is needed".into()),
        Some(longest) if *longest > VALUE_BYTES_MAX => {
            Err(format!("values would have up to {longest} bytes, and {VALUE_BYTES_MAX} are allowed: give less --memory"))
        }
        _ => Ok(sizes),
    }
}

fn simulate(trace: &Trace, sizes: &[u32], bytes: u64) -> f64 {
    let mut cache = Lru::new(trace.keys_count(), bytes);
    let (mut reads, mut misses) = (0u64, 0u64);
    for operation in &trace.operations {
        let size = sizes[operation.index as usize] + trace.key(operation.index).len() as u32;
        match operation.kind {
            Kind::Get => {
                reads += 1;
                misses += u64::from(cache.read(operation.index, size));
            }
            Kind::Delete => cache.remove(operation.index),
            _ => cache.store(operation.index, size),
        }
    }
    misses as f64 / reads as f64
}

/// Share of reads of what nobody has read or stored before.
fn first_reads(trace: &Trace) -> f64 {
    let mut seen = vec![false; trace.keys_count() as usize];
    let (mut reads, mut first) = (0u64, 0u64);
    for operation in &trace.operations {
        let known = std::mem::replace(&mut seen[operation.index as usize], operation.kind != Kind::Delete);
        reads += u64::from(operation.kind == Kind::Get);
        first += u64::from(operation.kind == Kind::Get && !known);
    }
    first as f64 / reads as f64
}

/// The program of a command line, without its folder.
fn name_of(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or(command);
    program.rsplit('/').next().unwrap_or(program).to_owned()
}

/// The name of a file up to its first dot.
pub fn trace_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

const MIB: f64 = 1_048_576.0;
/// Times that a server is filled to find out how much it takes beside what it is told.
const CALIBRATIONS: usize = 4;
/// How many times the memory is stored to fill it.
const FILLS: u64 = 2;
/// Both servers take items of 1 MiB, with key and head, unless told otherwise.
const VALUE_BYTES_MAX: u32 = 1_000_000;
