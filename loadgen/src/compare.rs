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
use std::time::Instant;

use crate::doors::{Protocol, raw::Raw};
use crate::options::Compare;
use crate::report;
use crate::server::Server;
use crate::session::{Client, Outcome, Pace, Session};
use crate::tally::Tally;
use crate::target::Target;
use crate::verify::Ledger;
use crate::work::Work;
use crate::work::mix::{Kind, Mix};

/// One load of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is called in the report.
    pub name: String,
    connections: usize,
    depth: usize,
    multi_get: u16,
    gets_only: bool,
}

/// What one server did in one round.
#[derive(Clone, Debug)]
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
}

/// The samples of one server in one row.
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
    server: Option<Server>,
    ledger: Arc<Ledger>,
}

/// Compares and prints; gives the exit code.
pub fn compare(options: &Compare) -> Result<u8, String> {
    let (server_cpus, client_cpus) = placement(options);
    let mut contestants = options.commands.iter().map(|command| contestant(command, options)).collect::<Vec<_>>();
    let base = options.load.client(Vec::new());
    for contestant in contestants.iter_mut().filter(|contestant| !contestant.echo) {
        let server = Server::start(&contestant.command, &server_cpus)?;
        let client = Client { targets: vec![Target::Tcp(server.address)], cpus: client_cpus.clone(), ..base.clone() };
        contestant.server = Some(server);
        let session = Session::open(&client, &Arc::new(options.work.work()?), &contestant.ledger)?;
        session.load(|_| {}).map_err(|words| format!("{}: {words}", contestant.name))?;
    }
    println!("{}", report::text::compare_head(options, &server_cpus, &client_cpus));
    let mut faults = Tally::default();
    for row in rows(options) {
        let columns = measure_row(&row, options, &mut contestants, &server_cpus, &client_cpus, &mut faults)?;
        println!("{}", report::text::compare_row(&row, &columns));
    }
    print!("{}", report::text::faults(&faults));
    Ok(if faults.faults_count() > 0 { 1 } else { 0 })
}

fn measure_row(
    row: &Row,
    options: &Compare,
    contestants: &mut [Contestant],
    server_cpus: &[usize],
    client_cpus: &[usize],
    faults: &mut Tally,
) -> Result<Vec<Column>, String> {
    let work = row.work(options)?;
    let raw = exchange(&work);
    let pace = Pace { depth: row.depth, ..options.load.pace() };
    let mut sessions = Vec::new();
    for contestant in contestants.iter_mut() {
        if contestant.echo {
            let sizes = format!(" --request_bytes {} --reply_bytes {}", raw.request_bytes, raw.reply_bytes);
            contestant.server = None;
            contestant.server = Some(Server::start(&(contestant.command.clone() + &sizes), server_cpus)?);
        }
        let Some(server) = &contestant.server else { continue };
        let client = Client {
            targets: vec![Target::Tcp(server.address)],
            protocol: if contestant.echo { Protocol::Raw } else { options.load.protocol },
            raw: contestant.echo.then_some(raw),
            connections: row.connections,
            cpus: client_cpus.to_vec(),
            ..options.load.client(Vec::new())
        };
        sessions.push(Session::open(&client, &work, &contestant.ledger)?);
    }
    let mut columns: Vec<Column> =
        contestants.iter().map(|contestant| Column { name: contestant.name.clone(), samples: Vec::new() }).collect();
    for _ in 0..options.rounds {
        for ((contestant, session), column) in contestants.iter_mut().zip(&sessions).zip(&mut columns) {
            let Some(server) = &mut contestant.server else { continue };
            let edges = RefCell::new(Vec::new());
            let outcome = session.measure(pace, || edges.borrow_mut().push((Instant::now(), server.cpu_ns())), |_| {});
            if let Some(words) = outcome.failure {
                let end = server.ended().unwrap_or(words);
                return Err(format!("{}: {end}", contestant.name));
            }
            let resident_bytes = server.resident_bytes();
            column.samples.push(sample(&outcome, &edges.borrow(), resident_bytes));
            faults.merge(Tally { commands: Vec::new(), intervals: Vec::new(), ..outcome.tally });
        }
    }
    Ok(columns)
}

fn sample(outcome: &Outcome, edges: &[(Instant, u64)], resident_bytes: u64) -> Sample {
    let tally = &outcome.tally;
    let requests = tally.requests().max(1) as f64;
    let latency = tally.latency();
    let elapsed = tally.elapsed_ns.max(1) as f64;
    // The edges are read by another thread than the one that measures, and may be a little late: use their own distance.
    let cpu_ns = match edges {
        [(begin, before), (end, after), ..] => {
            after.saturating_sub(*before) as f64 / (*end - *begin).as_nanos().max(1) as f64 * elapsed
        }
        _ => 0.0,
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
    }
}

fn contestant(command: &str, options: &Compare) -> Contestant {
    let echo = command == "echo";
    let program = command.split_whitespace().next().unwrap_or(command);
    let name = program.rsplit('/').next().unwrap_or(program).to_owned();
    let command = if echo {
        let own = std::env::current_exe().map_or("loadgen".into(), |path| path.display().to_string());
        format!("{own} echo --port {{port}}")
    } else {
        command.to_owned()
    };
    let ledger = Arc::new(Ledger::new(options.work.keys, crate::writer_name(), options.load.shared));
    Contestant { name, command, echo, server: None, ledger }
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
    let row = |name: &str, connections, depth, multi_get| Row {
        name: name.to_owned(),
        connections,
        depth,
        multi_get,
        gets_only: multi_get > 1,
    };
    if options.table.is_none() {
        let (load, keys) = (&options.load, options.work.multi_get);
        let name = format!("{} connections, {} in flight each", load.connections, load.depth);
        return vec![Row { gets_only: false, ..row(&name, load.connections as usize, load.depth as usize, keys) }];
    }
    vec![
        row("50 connections, 1 in flight each", 50, 1, 1),
        row("50 connections, 16 in flight each", 50, 16, 1),
        row("10 connections, 100 in flight each", 10, 100, 1),
        row("50 connections, 1 in flight each, get with 100 keys", 50, 1, 100),
    ]
}

impl Row {
    fn work(&self, options: &Compare) -> Result<Arc<Work>, String> {
        let mut work = options.work.work()?;
        work.multi_get = self.multi_get;
        if self.gets_only {
            work.mix = Mix::new(&[(Kind::Get, 1.0)]);
        }
        Ok(Arc::new(work))
    }
}
