//! The binary protocol of memcached.

use super::{Session, Step};
use crate::buffer::Buffer;
use crate::command::{Reply, Value};

/// First byte of every binary request.
pub const REQUEST_MAGIC: u8 = 0x80;

/// What a binary reply must remember of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// The opcode of the request.
    pub opcode: u8,
    /// The opaque of the request, as received.
    pub opaque: u32,
}

pub(super) fn step<'a>(_session: &mut Session, _input: &'a [u8]) -> Step<'a> {
    todo!()
}

pub(super) fn resume<'a>(_session: &mut Session, _head: &'a [u8], _value: Value<'a>) -> Step<'a> {
    todo!()
}

pub(super) fn encode(_head: Head, _key: &[u8], _reply: &Reply<'_>, _output: &mut Buffer) {
    todo!()
}
