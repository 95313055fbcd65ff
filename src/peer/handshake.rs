//! How two nodes begin to talk: who they are, whether they belong together, and that both know the secret.
//!
//! ```text
//!   connecting                                   accepting
//!     magic | hello: identity, nonce      --->
//!                                         <---   answer: identity, nonce                                   or a sentence why not
//!     proof: mac("connect", hello, answer) --->
//!                                         <---   ready: mac("accept", hello, answer)                       or a sentence why not
//!   each: length u32 | code u8 | payload
//! ```
//!
//! The macs are keyed with what is derived from the secret, over fresh random numbers of both sides: a handshake that was listened to
//! proves nothing the next time. Who calls proves first: a stranger who calls gets nothing to guess the secret by. Without a secret the
//! macs are zeros, and the caller is believed only if it calls from the address of a node of the table (`Local::is_known`). What follows
//! is not encrypted.
//!
//! Lives here: both sides as state machines over bytes, and the reasons to refuse. Not here: sockets, random numbers, links.

use super::frame::{FrameError, Reader};
use crate::limits::{PEER_CLOCK_SKEW_MS_MAX, PEER_HANDSHAKE_BYTES_MAX};

/// What a peer sends first. No memcached client begins like this: its first byte is neither text nor binary.
pub const MAGIC: [u8; 8] = [0xb5, b'p', b'b', b'c', b'a', b'c', b'h', b'e'];
/// Version of everything between two nodes.
pub const PROTOCOL: u16 = 4;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;

const MAC_BYTES: usize = 32;
const OK: u8 = 1;
const NO: u8 = 0;

/// Who a node is, as it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Nodes of other clusters are refused.
    pub cluster: String,
    /// Its id.
    pub id: String,
    /// Drawn at its start: another one means that it has lost its memory.
    pub incarnation: u64,
    /// Digest of its member table.
    pub view: u64,
    /// Buckets of its ring; 0 for an operator, who has none.
    pub buckets: u32,
    /// Copies of every item, where an explicit list of nodes says so; 0 where the member table does.
    pub redundancy: u8,
    /// Its cores.
    pub cores: u16,
    /// Its clock.
    pub unix_ms: u64,
    /// The core that is connected to, of the accepting side.
    pub target_core: u16,
}

/// What a side needs of its own.
#[derive(Clone, Debug)]
pub struct Local {
    /// Who this is.
    pub identity: Identity,
    /// Derived from the secret, if there is one.
    pub key: Option<[u8; 32]>,
    /// Fresh random bytes.
    pub nonce: [u8; NONCE_BYTES],
    /// The other side is at an address of a node of the table. Counts where there is no secret.
    pub is_known: bool,
}

/// Where a handshake stands after some bytes.
#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed.
    Wait,
    /// It is done: this is the other side.
    Done(Identity),
}

/// The key of the macs.
pub fn key_of(secret: &[u8]) -> [u8; 32] {
    blake3::derive_key("pbcache peer handshake 1", secret)
}

/// The connecting side.
#[derive(Debug)]
pub struct Connecting {
    local: Local,
    hello: Vec<u8>,
    /// Who answered, and how, while `ready` is awaited.
    answered: Option<(Vec<u8>, Identity)>,
}

/// The accepting side.
#[derive(Debug)]
pub struct Accepting {
    local: Local,
    /// Hello, answer and who said hello, while the proof is awaited.
    answered: Option<(Vec<u8>, Vec<u8>, Identity)>,
    begun: bool,
}

impl Connecting {
    /// Begins: the first bytes go to `output`.
    pub fn new(local: Local, output: &mut Vec<u8>) -> Self {
        let mut hello = Vec::new();
        write_identity(&local.identity, &local.nonce, &mut hello);
        output.extend_from_slice(&MAGIC);
        put(OK, &hello, output);
        Self { local, hello, answered: None }
    }

    /// Takes what is complete from the front of `input`; what must be sent goes to `output`.
    ///
    /// # Errors
    /// A sentence why the two do not belong together.
    pub fn feed(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Progress, String> {
        while let Some(payload) = take(input)? {
            if let Some((answer, peer)) = self.answered.take() {
                if !is_mac(&payload, mac_of(self.local.key, b"accept", &self.hello, &answer)) {
                    return Err(wrong_secret(&peer.id));
                }
                return Ok(Progress::Done(peer));
            }
            let peer = read_identity(&payload).map_err(|_| garbled())?;
            check(&self.local.identity, &peer)?;
            put(OK, mac_of(self.local.key, b"connect", &self.hello, &payload).as_bytes(), output);
            self.answered = Some((payload, peer));
        }
        Ok(Progress::Wait)
    }
}

impl Accepting {
    /// Waits for a hello.
    pub fn new(local: Local) -> Self {
        Self { local, answered: None, begun: false }
    }

    /// As for [`Connecting::feed`]. On an error, the sentence is in `output` for the other side too.
    ///
    /// # Errors
    /// A sentence why the two do not belong together.
    pub fn feed(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Progress, String> {
        let result = self.advance(input, output);
        if let Err(reason) = &result {
            put(NO, reason.as_bytes(), output);
        }
        result
    }

    fn advance(&mut self, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Progress, String> {
        if !self.begun {
            if input.len() < MAGIC.len() {
                return if MAGIC.starts_with(input) { Ok(Progress::Wait) } else { Err(garbled()) };
            }
            if input[..MAGIC.len()] != MAGIC {
                return Err(garbled());
            }
            input.drain(..MAGIC.len());
            self.begun = true;
        }
        while let Some(payload) = take(input)? {
            if let Some((hello, answer, peer)) = self.answered.take() {
                if !is_mac(&payload, mac_of(self.local.key, b"connect", &hello, &answer)) {
                    return Err(wrong_secret(&peer.id));
                }
                put(OK, mac_of(self.local.key, b"accept", &hello, &answer).as_bytes(), output);
                return Ok(Progress::Done(peer));
            }
            let peer = read_identity(&payload).map_err(|_| garbled())?;
            check(&self.local.identity, &peer)?;
            if self.local.key.is_none() && !self.local.is_known {
                return Err(stranger(&self.local.identity.id, &peer.id));
            }
            let mut answer = Vec::new();
            write_identity(&self.local.identity, &self.local.nonce, &mut answer);
            put(OK, &answer, output);
            self.answered = Some((payload, answer, peer));
        }
        Ok(Progress::Wait)
    }
}

/// Whether two nodes belong together, or the sentence why not.
fn check(local: &Identity, peer: &Identity) -> Result<(), String> {
    let (a, b) = (&local.id, &peer.id);
    if local.cluster != peer.cluster {
        return Err(format!("{a} belongs to the cluster {}, {b} to {}; check --ringnode.", local.cluster, peer.cluster));
    }
    if a == b && local.incarnation != peer.incarnation {
        return Err(format!("two nodes have the id {a}; give one of them another --node_id or --advertise."));
    }
    if local.buckets != peer.buckets && local.buckets != 0 && peer.buckets != 0 {
        return Err(format!("{a} has --buckets {}, {b} has {}; they must be equal.", local.buckets, peer.buckets));
    }
    let has_list = |identity: &Identity| identity.redundancy != 0;
    if has_list(local) != has_list(peer) && local.buckets != 0 && peer.buckets != 0 {
        let (list, table) = if has_list(local) { (a, b) } else { (b, a) };
        return Err(format!(
            "{list} has an explicit list of nodes (--ringnode), {table} joins rings (--join); start both alike."
        ));
    }
    if has_list(local) && has_list(peer) && local.redundancy != peer.redundancy {
        return Err(format!("{a} has --redundancy {}, {b} has {}; they must be equal.", local.redundancy, peer.redundancy));
    }
    let skew_ms = local.unix_ms.abs_diff(peer.unix_ms);
    if skew_ms > PEER_CLOCK_SKEW_MS_MAX {
        return Err(format!(
            "the clocks of {a} and {b} differ by {} s; set them (at most {} s).",
            skew_ms / 1000,
            PEER_CLOCK_SKEW_MS_MAX / 1000
        ));
    }
    Ok(())
}

fn wrong_secret(id: &str) -> String {
    format!("{id} does not know the secret of this cluster; give all nodes the same --cluster_secret_file.")
}

fn stranger(own: &str, id: &str) -> String {
    format!(
        "{id} does not call {own} from the address of a --ringnode; list it on all nodes, or give all the same --cluster_secret_file."
    )
}

fn garbled() -> String {
    format!("what came is no handshake of protocol {PROTOCOL}; run the same version of pbcache on all nodes.")
}

fn mac_of(key: Option<[u8; 32]>, role: &[u8], hello: &[u8], answer: &[u8]) -> blake3::Hash {
    let Some(key) = key else { return blake3::Hash::from_bytes([0; MAC_BYTES]) };
    let mut hasher = blake3::Hasher::new_keyed(&key);
    for part in [role, hello, answer] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

/// Whether this is that mac. `blake3::Hash` compares in constant time: how much of a guess was right shows in nothing.
fn is_mac(payload: &[u8], mac: blake3::Hash) -> bool {
    <[u8; MAC_BYTES]>::try_from(payload).is_ok_and(|payload| blake3::Hash::from_bytes(payload) == mac)
}

fn put(code: u8, payload: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
    output.push(code);
    output.extend_from_slice(payload);
}

/// The next message, if it is all there. A refusal of the other side is an error with its sentence.
fn take(input: &mut Vec<u8>) -> Result<Option<Vec<u8>>, String> {
    let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if !(1..=PEER_HANDSHAKE_BYTES_MAX).contains(&length) {
        return Err(garbled());
    }
    if input.len() < 4 + length {
        return Ok(None);
    }
    let (code, payload) = (input[4], input[5..4 + length].to_vec());
    input.drain(..4 + length);
    match code {
        OK => Ok(Some(payload)),
        _ => Err(String::from_utf8_lossy(&payload).chars().filter(|character| !character.is_control()).collect()),
    }
}

fn write_identity(identity: &Identity, nonce: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(&PROTOCOL.to_le_bytes());
    output.extend_from_slice(nonce);
    for text in [&identity.cluster, &identity.id] {
        output.extend_from_slice(&(text.len() as u16).to_le_bytes());
        output.extend_from_slice(text.as_bytes());
    }
    output.extend_from_slice(&identity.incarnation.to_le_bytes());
    output.extend_from_slice(&identity.view.to_le_bytes());
    output.extend_from_slice(&identity.unix_ms.to_le_bytes());
    output.extend_from_slice(&identity.buckets.to_le_bytes());
    output.extend_from_slice(&identity.cores.to_le_bytes());
    output.extend_from_slice(&identity.target_core.to_le_bytes());
    output.push(identity.redundancy);
}

fn read_identity(payload: &[u8]) -> Result<Identity, FrameError> {
    let mut reader = Reader(payload);
    if reader.u16()? != PROTOCOL {
        return Err(FrameError("another version"));
    }
    reader.take(NONCE_BYTES)?;
    let mut text = || {
        let bytes = usize::from(reader.u16()?);
        let text = std::str::from_utf8(reader.take(bytes)?).map_err(|_| FrameError("a name that is no text"))?;
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 255;
        if printable { Ok(text.to_string()) } else { Err(FrameError("a name that cannot be shown")) }
    };
    let (cluster, id) = (text()?, text()?);
    let (incarnation, view, unix_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (buckets, cores, target_core) = (reader.u32()?, reader.u16()?, reader.u16()?);
    let redundancy = reader.u8()?;
    reader.end()?;
    if cores == 0 {
        return Err(FrameError("a node without cores"));
    }
    Ok(Identity { cluster, id, incarnation, view, buckets, redundancy, cores, unix_ms, target_core })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(id: &str, secret: Option<&str>) -> Local {
        let identity = Identity {
            cluster: "test".into(),
            id: id.into(),
            incarnation: id.len() as u64,
            view: 1,
            buckets: 100,
            redundancy: 2,
            cores: 4,
            unix_ms: 1_000_000,
            target_core: 1,
        };
        let key = secret.map(|secret| key_of(secret.as_bytes()));
        Local { identity, key, nonce: [id.len() as u8; NONCE_BYTES], is_known: true }
    }

    /// Both ends, bytes passed in pieces of `step`; what each side came to.
    fn meet(a: Local, b: Local, step: usize) -> (Result<Identity, String>, Result<Identity, String>) {
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        let mut connecting = Connecting::new(a, &mut to_b);
        let mut accepting = Accepting::new(b);
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        let (mut done_a, mut done_b) = (None, None);
        for _ in 0..4000 {
            let count = step.min(to_b.len());
            at_b.extend(to_b.drain(..count));
            if done_b.is_none() {
                done_b = finished(accepting.feed(&mut at_b, &mut to_a));
            }
            let count = step.min(to_a.len());
            at_a.extend(to_a.drain(..count));
            if done_a.is_none() {
                done_a = finished(connecting.feed(&mut at_a, &mut to_b));
            }
        }
        let unfinished = || Err("unfinished".into());
        (done_a.unwrap_or_else(unfinished), done_b.unwrap_or_else(unfinished))
    }

    fn finished(progress: Result<Progress, String>) -> Option<Result<Identity, String>> {
        match progress {
            Ok(Progress::Wait) => None,
            Ok(Progress::Done(identity)) => Some(Ok(identity)),
            Err(reason) => Some(Err(reason)),
        }
    }

    #[test]
    fn equals_meet_however_the_bytes_are_cut() {
        for secret in [None, Some("swordfish")] {
            for step in [1, 2, 7, 1000] {
                let (a, b) = meet(local("a", secret), local("bb", secret), step);
                assert_eq!((a.unwrap().id.as_str(), b.unwrap().id.as_str()), ("bb", "a"));
            }
        }
    }

    #[test]
    fn what_differs_is_named_to_both() {
        let change = |change: fn(&mut Identity)| {
            let mut b = local("bb", None);
            change(&mut b.identity);
            meet(local("a", None), b, 100)
        };
        type Change = fn(&mut Identity);
        let cases: [(Change, &str); 5] = [
            (|b| b.buckets = 5, "--buckets 5"),
            (|b| b.redundancy = 1, "--redundancy"),
            (|b| b.cluster = "other".into(), "cluster"),
            (|b| b.unix_ms += 61_000, "differ by 61 s"),
            (|b| b.id = "a".into(), "two nodes have the id a"),
        ];
        for (make, part) in cases {
            let (a, b) = change(make);
            let (a, b) = (a.unwrap_err(), b.unwrap_err());
            assert_eq!(a, b);
            assert!(a.contains(part), "{a}");
        }
    }

    #[test]
    fn a_stranger_cannot_pose_as_a_peer() {
        for (a, b) in [(None, Some("s")), (Some("s"), None), (Some("s"), Some("t"))] {
            let (a, b) = meet(local("a", a), local("bb", b), 100);
            assert!(a.is_err() && b.is_err());
        }
    }

    #[test]
    fn without_a_secret_only_addresses_of_the_table_are_believed() {
        let unknown = |secret| Local { is_known: false, ..local("bb", secret) };
        let (a, b) = meet(local("a", None), unknown(None), 100);
        assert!(a.is_err());
        assert!(b.unwrap_err().contains("--cluster_secret_file"));
        let (a, b) = meet(local("a", Some("s")), unknown(Some("s")), 100);
        assert!(a.is_ok() && b.is_ok(), "who knows the secret may call from anywhere");
    }

    /// Symptom: whoever said hello got a mac, by which a weak secret is guessed at leisure. Cause: the accepting side proved first. Cure: it
    /// says nothing that depends on the secret before the caller has.
    #[test]
    fn who_calls_gets_nothing_that_depends_on_the_secret() {
        let answer_of = |secret: &str| {
            let (mut hello, mut answer) = (Vec::new(), Vec::new());
            Connecting::new(local("a", None), &mut hello);
            Accepting::new(local("bb", Some(secret))).feed(&mut hello, &mut answer).unwrap();
            answer
        };
        assert_eq!(answer_of("one secret"), answer_of("another one"));
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        let mut connecting = Connecting::new(local("a", None), &mut to_b);
        let mut accepting = Accepting::new(local("bb", Some("s")));
        accepting.feed(&mut to_b, &mut to_a).unwrap();
        connecting.feed(&mut to_a, &mut to_b).unwrap();
        assert!(accepting.feed(&mut to_b, &mut to_a).unwrap_err().contains("secret"));
        assert_eq!(to_a[4], NO, "a sentence, and no mac");
    }

    #[test]
    fn a_replayed_handshake_fails() {
        // Listened to: everything that the connecting side said.
        let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
        let mut connecting = Connecting::new(local("a", Some("s")), &mut to_b);
        let mut said = to_b.clone();
        let mut accepting = Accepting::new(local("bb", Some("s")));
        assert!(matches!(accepting.feed(&mut to_b, &mut to_a), Ok(Progress::Wait)));
        let mut proof = Vec::new();
        connecting.feed(&mut to_a, &mut proof).unwrap();
        said.extend_from_slice(&proof);
        // Said again to the same node, which has drawn another nonce.
        let mut again = Accepting::new(Local { nonce: [77; NONCE_BYTES], ..local("bb", Some("s")) });
        assert!(again.feed(&mut said.clone(), &mut Vec::new()).unwrap_err().contains("secret"));
        let mut same = Accepting::new(local("bb", Some("s")));
        assert!(matches!(same.feed(&mut said, &mut Vec::new()), Ok(Progress::Done(_))), "the check can succeed");
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut valid = Vec::new();
        Connecting::new(local("a", None), &mut valid);
        for at in 0..valid.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut broken = valid.clone();
                broken[at] ^= flip;
                let _ = Accepting::new(local("bb", None)).feed(&mut broken, &mut Vec::new());
            }
            let mut cut = valid[..at].to_vec();
            assert!(matches!(Accepting::new(local("bb", None)).feed(&mut cut, &mut Vec::new()), Ok(Progress::Wait)));
        }
    }
}
