//! Commands as they travel to the node that executes them.
//!
//! ```text
//!   meta of an EXECUTE: verb | framing of the reply | key | words;  value: what to store
//! ```
//!
//! Lives here: verbs, `Execute`. Not here: the frame around them (`frame`), several in one (`batch`), what is done with them (`cluster`).

use super::{FrameError, Reader};
use crate::command::{Arithmetic, Command, Delete, Get, Store, StoreMode, Value, Verb};
use crate::key::{Encoding, Key};
use crate::limits::KEY_BYTES_MAX;
use crate::time::Exptime;

/// Bytes of a framing that travels: see `protocol::Head::to_bytes`.
pub const FRAMING_BYTES: usize = 8;
/// What an `Execute` says.
#[derive(Clone, Copy, Debug)]
pub struct Execute<'a> {
    /// The command.
    pub command: Command<'a>,
    /// How to write the reply.
    pub framing: [u8; FRAMING_BYTES],
    /// Words that the reply repeats.
    pub words: &'a [u8],
}

/// Writes the meta of an `Execute`.
pub fn write_execute(command: &Command<'_>, framing: [u8; FRAMING_BYTES], words: &[u8], output: &mut Vec<u8>) {
    write_verb(&command.verb, output);
    output.extend_from_slice(&framing);
    let dropped = if let Value::Dropped { bytes } = command.value { bytes as u64 + 1 } else { 0 };
    output.extend_from_slice(&dropped.to_le_bytes());
    output.push(command.key.encoding as u8);
    output.extend_from_slice(&(command.key.bytes.len() as u16).to_le_bytes());
    output.extend_from_slice(command.key.bytes);
    output.extend_from_slice(&(words.len() as u16).to_le_bytes());
    output.extend_from_slice(words);
}

/// Reads the meta of an `Execute`.
pub fn read_execute<'a>(meta: &'a [u8], value: Value<'a>) -> Result<Execute<'a>, FrameError> {
    let mut reader = Reader(meta);
    let verb = read_verb(&mut reader)?;
    let mut framing = [0; FRAMING_BYTES];
    framing.copy_from_slice(reader.take(FRAMING_BYTES)?);
    let dropped = reader.u64()?;
    let encoding = Encoding::from_byte(reader.u8()?).ok_or(FrameError("a key in no encoding"))?;
    let key_bytes = usize::from(reader.u16()?);
    let key = reader.take(key_bytes)?;
    let words_bytes = usize::from(reader.u16()?);
    let words = reader.take(words_bytes)?;
    reader.end()?;
    let key = match encoding {
        Encoding::Base64 => Key::from_base64(key).ok_or(FrameError("a key that is no base64"))?,
        Encoding::Percent => Key::from_percent(key).ok_or(FrameError("a key with a percent sign that means nothing"))?,
        Encoding::Plain if (1..=KEY_BYTES_MAX).contains(&key.len()) => Key::new(key),
        Encoding::Plain => return Err(FrameError("a key of no length that a key has")),
    };
    let value = match dropped {
        0 => value,
        bytes => Value::Dropped { bytes: usize::try_from(bytes - 1).unwrap_or(usize::MAX) },
    };
    Ok(Execute { command: Command { key, verb, value }, framing, words })
}

fn write_verb(verb: &Verb, output: &mut Vec<u8>) {
    fn exptime(exptime: Option<Exptime>, output: &mut Vec<u8>) {
        output.push(u8::from(exptime.is_some()));
        output.extend_from_slice(&exptime.map_or(0, |exptime| exptime.0).to_le_bytes());
    }
    fn number(number: Option<u64>, output: &mut Vec<u8>) {
        output.push(u8::from(number.is_some()));
        output.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
    }
    let bits = |flags: &[bool]| flags.iter().rev().fold(0u8, |bits, &flag| bits << 1 | u8::from(flag));
    match verb {
        Verb::Get(get) if *get == Get::default() => output.push(0),
        Verb::Get(get) => {
            output.extend_from_slice(&[1, bits(&[get.meta, get.peek, get.remaining_before, get.recache_before])]);
            exptime(get.touch, output);
            exptime(get.vivify, output);
            exptime(get.recache, output);
            number(get.cas_new, output);
        }
        Verb::Store(store) => {
            output.extend_from_slice(&[2, store.mode as u8, bits(&[store.invalidate, store.remove_on_failure])]);
            output.extend_from_slice(&store.client_flags.to_le_bytes());
            exptime(Some(store.exptime), output);
            number(store.compare, output);
            number(store.cas_new, output);
            exptime(store.vivify, output);
        }
        Verb::Delete(delete) => {
            output.extend_from_slice(&[3, bits(&[delete.invalidate, delete.drop_value])]);
            number(delete.compare, output);
            number(delete.cas_new, output);
            exptime(delete.touch, output);
        }
        Verb::Arithmetic(arithmetic) => {
            let flags = bits(&[arithmetic.decrement, arithmetic.meta, arithmetic.remaining_before]);
            output.extend_from_slice(&[4, flags]);
            output.extend_from_slice(&arithmetic.delta.to_le_bytes());
            output.extend_from_slice(&arithmetic.initial.to_le_bytes());
            number(arithmetic.compare, output);
            number(arithmetic.cas_new, output);
            exptime(arithmetic.vivify, output);
            exptime(arithmetic.touch, output);
        }
        Verb::Touch(time) => {
            output.push(5);
            exptime(Some(*time), output);
        }
        Verb::Inspect => output.push(6),
    }
}

fn read_verb(reader: &mut Reader<'_>) -> Result<Verb, FrameError> {
    Ok(match reader.u8()? {
        0 => Verb::Get(Get::default()),
        1 => {
            let bits = reader.u8()?;
            Verb::Get(Get {
                meta: bits & 1 != 0,
                peek: bits & 2 != 0,
                remaining_before: bits & 4 != 0,
                recache_before: bits & 8 != 0,
                touch: reader.exptime()?,
                vivify: reader.exptime()?,
                recache: reader.exptime()?,
                cas_new: reader.number()?,
            })
        }
        2 => {
            let modes = [StoreMode::Set, StoreMode::Add, StoreMode::Replace, StoreMode::Append, StoreMode::Prepend];
            let (mode, bits) = (reader.u8()?, reader.u8()?);
            Verb::Store(Store {
                mode: modes.into_iter().find(|known| *known as u8 == mode).ok_or(FrameError("an unknown kind of store"))?,
                invalidate: bits & 1 != 0,
                remove_on_failure: bits & 2 != 0,
                client_flags: reader.u32()?,
                exptime: reader.exptime()?.unwrap_or_default(),
                compare: reader.number()?,
                cas_new: reader.number()?,
                vivify: reader.exptime()?,
            })
        }
        3 => {
            let bits = reader.u8()?;
            Verb::Delete(Delete {
                invalidate: bits & 1 != 0,
                drop_value: bits & 2 != 0,
                compare: reader.number()?,
                cas_new: reader.number()?,
                touch: reader.exptime()?,
            })
        }
        4 => {
            let bits = reader.u8()?;
            Verb::Arithmetic(Arithmetic {
                decrement: bits & 1 != 0,
                meta: bits & 2 != 0,
                remaining_before: bits & 4 != 0,
                delta: reader.u64()?,
                initial: reader.u64()?,
                compare: reader.number()?,
                cas_new: reader.number()?,
                vivify: reader.exptime()?,
                touch: reader.exptime()?,
            })
        }
        5 => Verb::Touch(reader.exptime()?.unwrap_or_default()),
        6 => Verb::Inspect,
        _ => return Err(FrameError("an unknown verb")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verbs() -> Vec<Verb> {
        let exptime = Some(Exptime(-1));
        vec![
            Verb::Get(Get::default()),
            Verb::Get(Get {
                touch: exptime,
                vivify: Some(Exptime(5)),
                recache: Some(Exptime(30)),
                cas_new: Some(9),
                meta: true,
                ..Get::default()
            }),
            Verb::Get(Get { peek: true, remaining_before: true, recache_before: true, ..Get::default() }),
            Verb::Store(Store { mode: StoreMode::Prepend, client_flags: 7, exptime: Exptime(100), ..Store::default() }),
            Verb::Store(Store {
                compare: Some(3),
                cas_new: Some(4),
                invalidate: true,
                vivify: exptime,
                remove_on_failure: true,
                ..Store::default()
            }),
            Verb::Delete(Delete { compare: Some(0), cas_new: Some(2), invalidate: true, touch: exptime, drop_value: true }),
            Verb::Arithmetic(Arithmetic {
                delta: u64::MAX,
                decrement: true,
                initial: 5,
                vivify: exptime,
                ..Arithmetic::default()
            }),
            Verb::Arithmetic(Arithmetic {
                compare: Some(1),
                cas_new: Some(2),
                touch: exptime,
                meta: true,
                remaining_before: true,
                ..Arithmetic::default()
            }),
            Verb::Touch(Exptime(77)),
            Verb::Inspect,
        ]
    }

    #[test]
    fn every_verb_arrives_as_it_was_sent() {
        for verb in verbs() {
            let command = Command { key: Key::new(b"some key"), verb, value: Value::Bytes(b"value") };
            let mut meta = Vec::new();
            write_execute(&command, [1, 2, 3, 4, 5, 6, 7, 8], b"v t Oabc", &mut meta);
            let read = read_execute(&meta, Value::Bytes(b"value")).unwrap();
            assert_eq!(read.command.verb, verb);
            assert_eq!(
                (read.command.key.bytes, read.words, read.framing),
                (&b"some key"[..], &b"v t Oabc"[..], [1, 2, 3, 4, 5, 6, 7, 8])
            );
            for end in 0..meta.len() {
                assert!(read_execute(&meta[..end], Value::EMPTY).is_err(), "{verb:?} cut at {end}");
            }
        }
    }
}
