//! How a node begins: with the table of its file, of a ring that it joins, or of a ring that it founds.
//!
//! ```text
//!   --data_dir has a table   -->  that one: the others are found by it, without any seed
//!   --join                   -->  the table of the first that answers; until one does, the node does not listen
//!   neither                  -->  a ring of its own, of one node, which others may join
//! ```
//!
//! A node that was told to join never founds a ring: a lost seed would make two of one.
//!
//! Lives here: those three ways, and what does not fit together. Not here: the table's life afterwards (`members`).

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::StartError;
use super::exchange::{Answer, Caller, unix_ms};
use super::members;
use super::options::{self, Options};
use crate::membership::codec;
use crate::membership::driver::{self, Start};
use crate::membership::file::Saved;
use crate::membership::table::{Record, RingRecord, State, Table};
use crate::peer::frame::MemberVerb;
use crate::placement::NodeId;

/// How often seeds are asked that do not answer, and how often it is said.
const ASK_PAUSE: Duration = Duration::from_millis(500);
const SAY_PAUSE: Duration = Duration::from_secs(10);

/// What a node begins with.
#[derive(Clone)]
pub struct Begun {
    /// Who it is.
    pub me: NodeId,
    /// With its own record in it.
    pub table: Table,
    /// Whom it was told to join.
    pub seeds: Vec<String>,
}

/// The table that a node begins with. Waits until one of the seeds answers, where there are only seeds.
///
/// # Errors
/// The file is another node's or another cluster's, a seed is no node of this cluster, or nothing could be a ring.
pub fn begin(options: &Options, me: &NodeId, address: &str, caller: &Caller) -> Result<Begun, StartError> {
    let saved = match &options.data_dir {
        Some(folder) => members::read_file(folder)?,
        None => None,
    };
    if let Some(saved) = &saved {
        check_file(options, me, saved)?;
    }
    let seeds: Vec<String> = options.joins.clone();
    let is_lone = |table: &Table| table.records().all(|record| record.id == *me || record.state.is_terminal());
    let (table, founds) = match &saved {
        // A ring of one that was told to join another one has nothing to lose.
        Some(saved) if seeds.is_empty() || !is_lone(&saved.table) => {
            (saved.table.clone(), seeds.is_empty() && is_lone(&saved.table))
        }
        _ if !seeds.is_empty() => {
            let asked = ask_seeds(&seeds, address, caller)?;
            let adopted = match &saved {
                Some(saved) => driver::adopt(&saved.table, me, asked),
                None => Ok(asked),
            };
            (adopted.map_err(|refusal| StartError(format!("--data_dir and --join do not fit together: {refusal}.")))?, false)
        }
        _ => (found(options)?, true),
    };
    check_ring(options, &table)?;
    check_double(me, address, &table, caller)?;
    if !founds && options.redundancy != 1 && options.redundancy != table.ring().redundancy {
        log::warn!("--redundancy is {}, the ring's is {}: that counts", options.redundancy, table.ring().redundancy);
    }
    let start = Start {
        id: me.clone(),
        address: address.into(),
        weight: options.weight.unwrap_or(1),
        zone: options.zone.clone().unwrap_or_default(),
        incarnation: unix_ms().max(saved.map_or(0, |saved| saved.incarnation + 1)),
    };
    let (mut table, now_ms) = (table, unix_ms());
    let mut record = driver::start_record(&table, &start, now_ms);
    if founds {
        if record.is_front {
            return Err(StartError("--weight 0 makes a node that owns nothing: it needs a ring to join; give --join.".into()));
        }
        record = Record { state: State::Normal, is_moving: false, weight: record.weight_next, ..record };
    }
    table.put(record, now_ms).map_err(|refusal| StartError(format!("this node fits into no ring: {refusal}.")))?;
    if let Some(folder) = &options.data_dir {
        // Before anybody hears of it: what it is told from here on must not be forgotten.
        members::save(folder, me, &table).map_err(|error| {
            StartError(format!("the member table cannot be written to --data_dir {}: {error}.", folder.display()))
        })?;
    }
    Ok(Begun { me: me.clone(), table, seeds })
}

/// A ring of its own.
fn found(options: &Options) -> Result<Table, StartError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| StartError(format!("the system gives no random numbers: {error}.")))?;
    Ok(Table::new(RingRecord {
        ring_id: u64::from_le_bytes(random),
        name: options.cluster_name.clone(),
        buckets: options.buckets,
        redundancy: options.redundancy,
        written: Default::default(),
    }))
}

/// The table of the first seed that answers.
fn ask_seeds(seeds: &[String], own: &str, caller: &Caller) -> Result<Table, StartError> {
    let mut said: Option<Instant> = None;
    loop {
        let mut trouble = String::new();
        for seed in seeds.iter().filter(|seed| *seed != own) {
            match caller.ask(seed, MemberVerb::Compare, b"") {
                Ok(Answer::Table(bytes)) => {
                    let table = codec::decode(&bytes, unix_ms());
                    return table
                        .map_err(|refusal| StartError(format!("--join {seed}: its member table is refused: {refusal}.")));
                }
                Ok(Answer::Refused(why)) => return Err(StartError(format!("--join {seed} refuses: {why}."))),
                Ok(Answer::Text(_)) => trouble = format!("{seed} answers something else"),
                Err(why) => trouble = why,
            }
        }
        if trouble.is_empty() {
            return Err(StartError(format!("--join names only this node itself ({own}); name another one.")));
        }
        // What two nodes say who do not belong together does not become better by waiting.
        if let Some(why) = trouble.split_once(": ").map(|(_, why)| why).filter(|why| why.ends_with('.')) {
            return Err(StartError(format!("--join: {why}")));
        }
        if said.is_none_or(|said| said.elapsed() >= SAY_PAUSE) {
            log::warn!("no node of --join answers so far ({trouble}); this node waits for one, and does not listen before");
            said = Some(Instant::now());
        }
        thread::sleep(ASK_PAUSE);
    }
}

fn check_file(options: &Options, me: &NodeId, saved: &Saved) -> Result<(), StartError> {
    if saved.id != *me {
        return Err(StartError(format!(
            "--data_dir is that of the node {}, and this is {me}; give --node_id {}, or another folder.",
            saved.id, saved.id
        )));
    }
    let name = &saved.table.ring().name;
    if *name != options.cluster_name {
        return Err(StartError(format!(
            "--data_dir is of the cluster {name}, --cluster_name is {}; let them agree, or give another folder.",
            options.cluster_name
        )));
    }
    Ok(())
}

/// Two processes with one id would take each other's place without end.
fn check_double(me: &NodeId, address: &str, table: &Table, caller: &Caller) -> Result<(), StartError> {
    let Some(before) = table.get(me.as_str()).filter(|before| before.address != address) else { return Ok(()) };
    match caller.ask(&before.address, MemberVerb::Compare, b"") {
        Err(why) if why.contains("two nodes have the id") => Err(StartError(format!(
            "the node {me} is running at {}; give this one another --node_id or --data_dir, or end that one.",
            before.address
        ))),
        _ => Ok(()),
    }
}

fn check_ring(options: &Options, table: &Table) -> Result<(), StartError> {
    let ring = table.ring();
    if ring.name != options.cluster_name {
        return Err(StartError(format!("the ring is the cluster {}; give --cluster_name {}.", ring.name, ring.name)));
    }
    if ring.buckets != options.buckets {
        return Err(StartError(format!(
            "the ring has --buckets {}, this node {}; they must be equal.",
            ring.buckets, options.buckets
        )));
    }
    Ok(())
}

/// Where others reach this node: `--advertise`, the address that it listens on, or the one from which it reaches others.
pub fn own_address(options: &Options) -> Result<String, StartError> {
    let listening = options
        .addresses
        .first()
        .ok_or_else(|| StartError("a node of a ring needs a TCP port; give --port or --ip.".into()))?;
    if let Some(advertise) = &options.advertise {
        return Ok(options::with_port(advertise, listening.port()));
    }
    if !listening.ip().is_unspecified() {
        return Ok(listening.to_string());
    }
    let target = options.joins.first().map_or(ELSEWHERE, String::as_str);
    let from = |target: &str| {
        let socket = UdpSocket::bind(SocketAddr::new(listening.ip(), 0)).ok()?;
        // Connecting a UDP socket sends nothing: the system only chooses the way.
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let ip = from(target).unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    Ok(SocketAddr::new(ip.to_canonical(), listening.port()).to_string())
}

/// An address of RFC 5737: nobody has it, and the way to it is the way to everywhere.
const ELSEWHERE: &str = "192.0.2.1:9";
