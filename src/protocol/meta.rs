//! The meta commands of the text protocol: mg, ms, md, ma, mn, me.

use super::{Session, Step};
use crate::buffer::Buffer;
use crate::command::{Reply, Value};

/// What a meta reply must remember of its request beside the flag words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {}

/// Steps over a meta command; `line_bytes` is the length of its first line with the line end.
#[allow(dead_code)]
pub(super) fn step<'a>(_session: &mut Session, _input: &'a [u8], _line_bytes: usize) -> Step<'a> {
    todo!()
}

/// The step of a large `ms` whose value has arrived or was dropped; `head` is its line, `tail` what came behind the value.
pub(super) fn resume<'a>(_session: &mut Session, _head: &'a [u8], _value: Value<'a>, _tail: &'a [u8]) -> Step<'a> {
    todo!()
}

pub(super) fn encode(_head: Head, _words: &[u8], _key: &[u8], _reply: &Reply<'_>, _output: &mut Buffer) {
    todo!()
}
