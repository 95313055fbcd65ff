//! The classic text protocol of memcached.

use std::sync::Arc;

use super::{Session, Step};
use crate::arena::Body;
use crate::buffer::Buffer;
use crate::command::Reply;

/// What a text reply must remember of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {}

/// The rest of a `get a b c` line that was validated as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {}

pub(super) fn step<'a>(_session: &mut Session, _input: &'a [u8]) -> Step<'a> {
    todo!()
}

pub(super) fn step_keys<'a>(_session: &mut Session, _keys: Keys, _input: &'a [u8]) -> Step<'a> {
    todo!()
}

pub(super) fn resume<'a>(_session: &mut Session, _head: &'a [u8], _body: &'a Arc<Body>, _tail: &'a [u8]) -> Step<'a> {
    todo!()
}

pub(super) fn refuse<'a>(_session: &mut Session, _head: &'a [u8], _rest: usize) -> Step<'a> {
    todo!()
}

pub(super) fn encode(_head: Head, _key: &[u8], _reply: &Reply<'_>, _output: &mut Buffer) {
    todo!()
}
