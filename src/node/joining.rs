//! How a node begins: with the table of its file, of a ring that it joins, or of a ring that it founds.
//!
//! ```text
//!   --data_dir has a table   -->  that one: the others are found by it, without any seed
//!   --join                   -->  the table of the first that answers; until one does, the node does not listen
//!   --join and --ringnode    -->  the same, or the list if none of them answers at once: on all that were given it, the same table
//!   neither                  -->  a ring of its own, of one node, which others may join
//! ```
//!
//! A node that was told to join never founds a ring: a lost seed would make two of one.
//!
//! Lives here: those three ways, and what does not fit together. Not here: the table's life afterwards (`members`).

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::StartError;
use super::exchange::{Answer, Caller, NO_NODE};
use super::members;
use super::options::{self, Options};
use crate::cluster::view::Entry;
use crate::key;
use crate::membership::codec;
use crate::membership::driver::{self, Start};
use crate::membership::file::Saved;
use crate::membership::table::{Record, RingRecord, State, Table, Written};
use crate::peer::frame::MemberVerb;
use crate::placement::NodeId;
use crate::runtime::clock::unix_ms;

/// How often seeds are asked that do not answer, and how often it is said.
const ASK_PAUSE: Duration = Duration::from_millis(500);
const SAY_PAUSE: Duration = Duration::from_secs(10);
/// How often all seeds may show that they are no nodes, before the node gives up: one that ends closes its connections, too.
const STRANGE_MAX: u32 = 5;

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
pub fn begin(
    options: &Options,
    me: &NodeId,
    (address, listed): (&str, &[Entry]),
    caller: &Caller,
) -> Result<Begun, StartError> {
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
            let asked = match listed {
                [] => ask_seeds(&seeds, options, address, caller)?,
                _ => match ask_once(&seeds, options, address, caller) {
                    Ok(table) => table,
                    Err(Unasked::Refused(sentence)) => return Err(StartError(sentence)),
                    Err(Unasked::Strange(_) | Unasked::Away(_) | Unasked::Nobody) => found_listed(options, listed)?,
                },
            };
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

/// The ring of a list of nodes: the same table on all that were given the list, older than all that they write.
fn found_listed(options: &Options, listed: &[Entry]) -> Result<Table, StartError> {
    let mut ids: Vec<&str> = listed.iter().map(|entry| entry.id.as_str()).collect();
    ids.sort_unstable();
    let ring_id = key::routing_hash(format!("{} {}", options.cluster_name, ids.join(" ")).as_bytes());
    let mut table = found(options)?;
    table = Table::new(RingRecord { ring_id, ..table.ring().clone() });
    for entry in listed {
        let weight = entry.weight.max(1);
        let record = Record {
            id: entry.id.clone(),
            epoch: 1,
            state: State::Normal,
            is_moving: false,
            is_front: entry.weight == 0,
            written: Written::default(),
            asked: Written::default(),
            weight,
            weight_next: weight,
            zone: entry.zone.clone(),
            address: entry.address.clone(),
            incarnation: 0,
        };
        table.put(record, unix_ms()).map_err(|refusal| StartError(format!("--ringnode {}: {refusal}.", entry.id)))?;
    }
    Ok(table)
}

/// Why no seed has given its table.
enum Unasked {
    /// A node has said why it does not, or this one is not to join it: a sentence.
    Refused(String),
    /// What listens there is no node, as far as it shows: a sentence.
    Strange(String),
    /// It cannot be reached.
    Away(String),
    /// There is no other node among the seeds.
    Nobody,
}

/// The table of the first seed that answers. Waits for one.
fn ask_seeds(seeds: &[String], options: &Options, own: &str, caller: &Caller) -> Result<Table, StartError> {
    let (mut said, mut strange): (Option<Instant>, u32) = (None, 0);
    loop {
        let trouble = match ask_once(seeds, options, own, caller) {
            Ok(table) => return Ok(table),
            Err(Unasked::Refused(sentence)) => return Err(StartError(sentence)),
            Err(Unasked::Nobody) => {
                return Err(StartError(format!("--join names only this node itself ({own}); name another one.")));
            }
            Err(Unasked::Strange(sentence)) if strange + 1 >= STRANGE_MAX => return Err(StartError(sentence)),
            Err(Unasked::Strange(sentence)) => {
                strange += 1;
                sentence
            }
            Err(Unasked::Away(trouble)) => {
                strange = 0;
                trouble
            }
        };
        if said.is_none_or(|said| said.elapsed() >= SAY_PAUSE) {
            log::warn!("no node of --join answers so far ({trouble}); this node waits for one, and does not listen before");
            said = Some(Instant::now());
        }
        thread::sleep(ASK_PAUSE);
    }
}

/// Asks each seed once. What is worth waiting for counts before what is not.
fn ask_once(seeds: &[String], options: &Options, own: &str, caller: &Caller) -> Result<Table, Unasked> {
    let mut worst = Unasked::Nobody;
    for seed in seeds.iter().filter(|seed| *seed != own && !is_own(seed, options)) {
        let unasked = match caller.ask(seed, MemberVerb::Compare, b"") {
            Ok(Answer::Table(bytes)) => match codec::decode(&bytes, unix_ms()) {
                Ok(table) => return Ok(table),
                Err(refusal) => Unasked::Refused(format!("--join {seed}: its member table is refused: {refusal}.")),
            },
            Ok(Answer::Refused(why)) if why.ends_with("ask again") => Unasked::Away(format!("{seed}: {why}")),
            Ok(Answer::Refused(why)) => Unasked::Refused(format!("--join {seed} refuses: {why}.")),
            Ok(Answer::Text(_)) => Unasked::Away(format!("{seed} answers something else")),
            // What two nodes say that do not belong together does not become better by waiting.
            Err(why) if why.ends_with('.') => {
                Unasked::Refused(format!("--join: {}", why.split_once(": ").map_or(why.as_str(), |(_, why)| why)))
            }
            Err(why) if why.ends_with(NO_NODE) => Unasked::Strange(format!("--join {why}; name a node of the ring.")),
            Err(why) => Unasked::Away(why),
        };
        worst = match (worst, unasked) {
            (Unasked::Nobody, unasked) | (Unasked::Refused(_) | Unasked::Strange(_), unasked @ Unasked::Away(_)) => unasked,
            (worst, _) => worst,
        };
    }
    Err(worst)
}

/// Whether a seed is this node under another name.
fn is_own(seed: &str, options: &Options) -> bool {
    let Ok(mut places) = seed.to_socket_addrs() else { return false };
    let listens = |place: SocketAddr| {
        let ip = place.ip().to_canonical();
        let is_local = || UdpSocket::bind((ip, 0)).is_ok();
        options
            .addresses
            .iter()
            .any(|own| own.port() == place.port() && (own.ip() == ip || (own.ip().is_unspecified() && is_local())))
    };
    places.all(listens)
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
