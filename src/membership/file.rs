//! The table on disk: what a node knows when it starts and nobody answers.
//!
//! ```text
//!   "pbcache members 1\n" | own id | incarnation u64 | table bytes u32 | table | digest of all before it u64
//! ```
//!
//! Lives here: the bytes of the file and what is wrong with it. Not here: writing it whole or not at all (`node::members`).

use super::codec::{self, Reader};
use super::table::{Refusal, Table};
use crate::placement::NodeId;

/// What the file begins with.
const MAGIC: &[u8] = b"pbcache members 1\n";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Whose file it is.
    pub id: NodeId,
    /// Of the life that wrote it.
    pub incarnation: u64,
    /// What was known then.
    pub table: Table,
}

/// The bytes of the file.
pub fn encode(saved: &Saved) -> Vec<u8> {
    let table = codec::encode(&saved.table);
    let mut output = MAGIC.to_vec();
    codec::put_text(saved.id.as_str(), &mut output);
    output.extend_from_slice(&saved.incarnation.to_le_bytes());
    output.extend_from_slice(&(table.len() as u32).to_le_bytes());
    output.extend_from_slice(&table);
    output.extend_from_slice(&codec::digest(&output).to_le_bytes());
    output
}

/// What these bytes say.
///
/// # Errors
/// They are torn, or no such file; or what they say cannot be.
pub fn decode(bytes: &[u8], now_ms: u64) -> Result<Saved, Refusal> {
    let torn = || Refusal::Garbled("the file is torn");
    let (body, digest) = bytes.split_last_chunk::<8>().ok_or_else(torn)?;
    if !body.starts_with(MAGIC) {
        return Err(Refusal::Garbled("it is no table of members"));
    }
    if codec::digest(body) != u64::from_le_bytes(*digest) {
        return Err(torn());
    }
    let mut reader = Reader(&body[MAGIC.len()..]);
    let id = NodeId::new(reader.text()?).map_err(|_| Refusal::Garbled("an id that is none"))?;
    let incarnation = reader.u64()?;
    let length = reader.take(4)?.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
    let table = codec::decode(reader.take(length)?, now_ms)?;
    if reader.0.is_empty() { Ok(Saved { id, incarnation, table }) } else { Err(torn()) }
}

#[cfg(test)]
mod tests {
    use super::super::table::State;
    use super::super::table::tests::{NOW_MS, record, table};
    use super::*;

    #[test]
    fn a_file_comes_back_and_a_torn_one_is_refused() {
        let table = table(&[record("a", State::Normal, NOW_MS), record("b", State::Removed, NOW_MS)]);
        let saved = Saved { id: NodeId::new("a").unwrap(), incarnation: 99, table };
        let bytes = encode(&saved);
        assert_eq!(decode(&bytes, NOW_MS), Ok(saved));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], NOW_MS).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert!(decode(&broken, NOW_MS).is_err(), "byte {at}");
        }
        assert_eq!(decode(b"something else entirely", NOW_MS), Err(Refusal::Garbled("it is no table of members")));
    }
}
