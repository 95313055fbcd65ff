//! Several servers, the same work, alternating rounds: A B A B ..., and the ratios.
//!
//! ```text
//!   for each row of the table:   A: measure | B: measure | A: measure | B: measure | ...      rounds times
//!                                   CPU time of the server from /proc at both edges of each measurement
//! ```
//!
//! All servers are started before and stay up, each with its keys stored once; those not measured have nothing to do. What
//! is compared first is requests per second of the server's CPU time: it does not depend on how busy the client kept it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;

use crate::doors::{Protocol, raw::Raw};
use crate::interrupt;
use crate::options::{Compare, LoadOptions, WorkOptions};
use crate::report::{self, Comparison, ComparisonRow, Context};
use crate::server::Server;
use crate::session::{Client, Outcome, Session};
use crate::shards;
use crate::stats;
use crate::tally::Tally;
use crate::target::Target;
use crate::verify::Ledger;
use crate::work::Work;
use crate::work::mix::{Kind, Mix};

/// One load of the table.
struct Row {
    name: String,
    x: f64,
    work: WorkOptions,
    load: LoadOptions,
    /// The keys must be stored again.
    reload: bool,
}

/// A figure of a sample.
pub type Figure = fn(&Sample) -> f64;

/// What one server did in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Requests per second of wall time.
    pub rate: f64,
    /// CPU time of the server per request, in microseconds.
    pub server_cpu_us: f64,
    /// CPU time of the server by wall time, 1 is one CPU.
    pub server_busy: f64,
    /// CPU time of the client per request, in microseconds.
    pub client_cpu_us: f64,
    /// CPU time of the client by wall time.
    pub client_busy: f64,
    /// Requests per turn of the client.
    pub batch: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// Found keys among keys asked for.
    pub hit_ratio: Option<f64>,
    /// Resident memory of the server, in bytes.
    pub resident_bytes: u64,
    /// Growth of the resident memory since before any key was stored, per item that the server says it holds.
    pub bytes_per_item: Option<f64>,
}

/// The samples of one server in one row.
#[derive(Serialize)]
pub struct Column {
    /// The server's name.
    pub name: String,
    /// One per round.
    pub samples: Vec<Sample>,
}

struct Contestant {
    name: String,
    command: String,
    echo: bool,
    protocol: Protocol,
    server: Option<Server>,
    ledger: Arc<Ledger>,
    resident_empty: u64,
}

impl Column {
    /// Lowest, median and highest of a figure.
    pub fn spread(&self, figure: Figure) -> (f64, f64, f64) {
        spread(self.samples.iter().map(figure).collect())
    }

    /// Median of the rounds' ratios to another server. A machine that changes its speed between rounds moves the medians of two
    /// servers apart, but hardly a ratio within one round.
    pub fn ratio(&self, other: &Self, figure: Figure) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        spread(pairs.map(|(own, others)| figure(own) / figure(others)).collect()).1
    }
}

/// Lowest, median and highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    match values[..] {
        [] => (f64::NAN, f64::NAN, f64::NAN),
        [first, ..] => (first, values[values.len() / 2], values[values.len() - 1]),
    }
}

/// Compares and prints; gives the exit code.
pub fn compare(options: &Compare) -> Result<u8, String> {
    interrupt::catch();
    let (server_cpus, client_cpus) = placement(options);
    let mut contestants = options.commands.iter().map(|command| contestant(command, options)).collect::<Vec<_>>();
    for contestant in contestants.iter_mut().filter(|contestant| !contestant.echo) {
        let server = Server::start(&contestant.command, &server_cpus)?;
        contestant.resident_empty = server.resident_bytes();
        contestant.server = Some(server);
    }
    let mut comparison = Comparison {
        context: Context::new(options),
        commands: options.commands.clone(),
        over: options.over.as_ref().map(|over| over.name.clone()),
        rows: Vec::new(),
        faults: Default::default(),
    };
    print!("{}", report::text::compare_head(&options.commands));
    let work = &options.work;
    println!(
        "{} keys, {} bytes per value, {}, {} keys; {} rounds of {} s; servers on CPU {server_cpus:?}, client on {client_cpus:?}",
        work.keys, work.value_size, work.ratio, work.distribution, options.rounds, options.load.duration
    );
    let mut faults = Tally::default();
    for row in rows(options) {
        let place = Place { server_cpus: &server_cpus, client_cpus: &client_cpus };
        let columns = measure_row(&row, options.rounds, &mut contestants, place, &mut faults)?;
        let row = ComparisonRow { name: row.name, x: row.x, columns };
        println!("{}", report::text::compare_row(&row));
        comparison.rows.push(row);
    }
    comparison.faults = faults.faults.iter().map(|(fault, count)| (fault.to_string(), *count)).collect();
    print!("{}", report::text::faults(&comparison.faults, &faults.fault_samples));
    let (csv, html) = (|| report::csv::comparison(&comparison), || report::html::comparison(&comparison));
    report::files::write_all(&options.output, &comparison, csv, html)?;
    if let Some(path) = &options.svg {
        report::files::write(path, &report::html::comparison_picture(&comparison))?;
    }
    Ok(if faults.faults_count() > 0 { 1 } else { 0 })
}

/// Which CPUs are whose.
#[derive(Clone, Copy)]
struct Place<'a> {
    server_cpus: &'a [usize],
    client_cpus: &'a [usize],
}

fn measure_row(
    row: &Row,
    rounds: u32,
    contestants: &mut [Contestant],
    place: Place<'_>,
    faults: &mut Tally,
) -> Result<Vec<Column>, String> {
    let work = Arc::new(row.work.work()?);
    let sessions =
        contestants.iter_mut().map(|contestant| open(row, &work, contestant, place)).collect::<Result<Vec<_>, _>>()?;
    let mut columns: Vec<Column> =
        contestants.iter().map(|contestant| Column { name: contestant.name.clone(), samples: Vec::new() }).collect();
    for _ in 0..rounds {
        for ((contestant, session), column) in contestants.iter_mut().zip(&sessions).zip(&mut columns) {
            let Some(server) = &mut contestant.server else { continue };
            let edges = RefCell::new(Vec::new());
            let outcome =
                session.measure(row.load.pace(), || edges.borrow_mut().push((Instant::now(), server.cpu_ns())), |_| {});
            if interrupt::CAUGHT.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if let Some(words) = outcome.failure {
                let end = server.ended().unwrap_or(words);
                return Err(format!("{}: {end}", contestant.name));
            }
            let mut sample = sample(&outcome, &edges.borrow(), server.resident_bytes());
            let grown = sample.resident_bytes.saturating_sub(contestant.resident_empty) as f64;
            let items =
                stats::read(&Target::Tcp(server.address), "").and_then(|stats| stats.get("curr_items")?.parse::<f64>().ok());
            sample.bytes_per_item = items.filter(|items| *items > 0.0).map(|items| grown / items);
            column.samples.push(sample);
            faults.merge(Tally { commands: Vec::new(), intervals: Vec::new(), ..outcome.tally });
        }
    }
    Ok(columns)
}

/// Connects to a contestant for one row, and stores the keys where they are not stored yet.
fn open(row: &Row, work: &Arc<Work>, contestant: &mut Contestant, place: Place<'_>) -> Result<Session, String> {
    row.work.check(contestant.protocol)?;
    let raw = exchange(work);
    if contestant.echo {
        let sizes = format!(" --request_bytes {} --reply_bytes {}", raw.request_bytes, raw.reply_bytes);
        contestant.server = None;
        contestant.server = Some(Server::start(&(contestant.command.clone() + &sizes), place.server_cpus)?);
    }
    let Some(server) = &contestant.server else { return Err("the server is not running".into()) };
    let base = row.load.client(vec![Target::Tcp(server.address)]);
    let client = Client {
        protocol: if contestant.echo { Protocol::Raw } else { contestant.protocol },
        raw: contestant.echo.then_some(raw),
        cpus: place.client_cpus.to_vec(),
        ..base
    };
    let client = match (row.load.shard_aware, contestant.echo) {
        (true, false) => adopted(client),
        _ => client,
    };
    if row.reload {
        contestant.ledger = Arc::new(Ledger::new(row.work.keys, crate::writer_name(), row.load.shared));
    }
    if row.reload && !contestant.echo {
        let few = Client { connections: client.connections.min(LOAD_CONNECTIONS_MAX), ..client.clone() };
        let session = Session::open(&few, work, &contestant.ledger)?;
        session.load(|_| {}).map_err(|words| format!("{}: {words}", contestant.name))?;
    }
    Session::open(&client, work, &contestant.ledger)
}

/// A server that does not tell its cores is asked like any other.
fn adopted(client: Client) -> Client {
    let mut aware = client.clone();
    if shards::adopt(&mut aware).is_ok() { aware } else { client }
}

fn sample(outcome: &Outcome, edges: &[(Instant, u64)], resident_bytes: u64) -> Sample {
    let tally = &outcome.tally;
    let requests = tally.requests().max(1) as f64;
    let latency = tally.latency();
    let elapsed = tally.elapsed_ns.max(1) as f64;
    // The edges are read by another thread than the one that measures, and may be a little late: use their own distance.
    let cpu_ns = match edges {
        // A thread that ended meanwhile took its time along.
        [(begin, before), (end, after), ..] if after > before => {
            (after - before) as f64 / (*end - *begin).as_nanos().max(1) as f64 * elapsed
        }
        // The measurement ended before its edges were seen.
        _ => f64::NAN,
    };
    Sample {
        rate: tally.rate(),
        server_cpu_us: cpu_ns / 1e3 / requests,
        server_busy: cpu_ns / elapsed,
        client_cpu_us: tally.client_cpu_us(),
        client_busy: tally.cpu_ns as f64 / elapsed,
        batch: requests / tally.turns.max(1) as f64,
        p50_us: latency.quantile_us(0.5),
        p99_us: latency.quantile_us(0.99),
        hit_ratio: tally.hit_ratio(),
        resident_bytes,
        bytes_per_item: None,
    }
}

fn contestant(command: &str, options: &Compare) -> Contestant {
    let echo = command == "echo";
    let (protocol, command) = match command.split_once(':') {
        Some((name, rest)) => match Protocol::from_str(name, true) {
            Ok(protocol) => (protocol, rest),
            Err(_) => (options.load.protocol, command),
        },
        None => (options.load.protocol, command),
    };
    let program = command.split_whitespace().next().unwrap_or(command);
    let name = program.rsplit('/').next().unwrap_or(program).to_owned();
    let command = if echo {
        let own = std::env::current_exe().map_or("loadgen".into(), |path| path.display().to_string());
        format!("{own} echo --port {{port}}")
    } else {
        command.to_owned()
    };
    let ledger = Arc::new(Ledger::new(options.work.keys, crate::writer_name(), options.load.shared));
    Contestant { name, command, echo, protocol, server: None, ledger, resident_empty: 0 }
}

/// The CPUs of servers and client: as asked for, or the first CPU and the second one.
fn placement(options: &Compare) -> (Vec<usize>, Vec<usize>) {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let (first, second) = match available[..] {
        [first, second, ..] => (vec![first], vec![second]),
        _ => (Vec::new(), Vec::new()),
    };
    let or = |asked: &Vec<usize>, default| if asked.is_empty() { default } else { asked.clone() };
    (or(&options.server_cpus, first), or(&options.load.client_cpus, second))
}

/// Bytes of the mean exchange of this work in the text protocol: what the echo server is to answer.
fn exchange(work: &Work) -> Raw {
    let value = work.sizes.mean(work.seed);
    let key = work.keys.size as f64;
    let (get, keys) = (work.mix.share(Kind::Get), work.multi_get as f64);
    let digits = 3.0;
    let request = get * (5.0 + keys * (key + 1.0)) + (1.0 - get) * (13.0 + key + digits + value);
    let reply = get * (5.0 + keys * (13.0 + key + digits + value)) + (1.0 - get) * 8.0;
    Raw { request_bytes: request.round() as usize, reply_bytes: reply.round() as usize }
}

fn rows(options: &Compare) -> Vec<Row> {
    let base =
        |name: String, x: f64, reload: bool| Row { name, x, work: options.work.clone(), load: options.load.clone(), reload };
    if let Some(over) = &options.over {
        let row = |(number, value): (usize, &f64)| {
            let mut row = base(format!("{} = {value}", over.name), *value, number == 0 || over.reloads());
            over.apply(*value, &mut row.work, &mut row.load);
            row
        };
        return over.values.iter().enumerate().map(row).collect();
    }
    if options.table.is_none() {
        let load = &options.load;
        return vec![base(format!("{} connections, {} in flight each", load.connections, load.depth), 0.0, true)];
    }
    let node = [(50, 1, 1), (50, 16, 1), (10, 100, 1), (50, 1, 100)];
    let row = |(number, (connections, depth, multi_get)): (usize, (u32, u32, u16))| {
        let more = if multi_get > 1 { format!(", get with {multi_get} keys") } else { String::new() };
        let mut row = base(format!("{connections} connections, {depth} in flight each{more}"), number as f64, number == 0);
        (row.load.connections, row.load.depth, row.work.multi_get) = (connections, depth, multi_get);
        if multi_get > 1 {
            row.work.ratio = Mix::new(&[(Kind::Get, 1.0)]);
        }
        row
    };
    node.into_iter().enumerate().map(row).collect()
}

/// Connections with which keys are stored.
const LOAD_CONNECTIONS_MAX: usize = 50;
