//! pbcache: a cache node that memcached clients use as they use memcached, one core at a time.
//!
//! # The floors
//!
//! A module imports only from floors below its own, and the strangers of floor 1 never import each other; `tests/tidy.rs` checks it.
//!
//! | floor | modules | what they are |
//! |---|---|---|
//! | 0 words | [`command`], [`key`], [`time`], [`version`], [`limits`], [`metrics`], [`latency`], [`observe`], [`buffer`], [`arena`], [`routing`], [`placement`], [`sync`] | plain types that every floor speaks; which core and which nodes own a key |
//! | 1 strangers | [`protocol`], [`engine`], [`peer`], [`membership`] | sans-io state machines: bytes to commands, commands to replies, words between nodes, who is in the ring |
//! | 2 cluster | [`cluster`] | which nodes hold a key, and what to do while they do not; still pure |
//! | 3 shard | [`shard`] | what one core owns: items, counters, its part of the cluster; still pure |
//! | 4 runtime | [`runtime`] | glommio and io_uring: sockets, queues between the cores, clocks |
//! | 5 node | [`node`] | the control plane: options, start and stop, statistics, the member table, the admin listener |
//!
//! # The way of a GET
//!
//! 1. [`runtime::pump`]: the kernel has put `get k\r\n` into a receive buffer; the completion names the connection.
//! 2. [`runtime::connection`]: the connection gives the bytes to its session, up to 16 requests ahead.
//! 3. [`protocol::Session::step`]: bytes become a [`command::Command`] with its [`key::Key`], hashed once.
//! 4. [`engine::Engine::prepare`]: with several requests at hand, their index lines and items are prefetched.
//! 5. [`shard::Shard::route`]: this core's key, or another's. Another's goes over a [`runtime::mesh`] and comes back as bytes.
//! 6. [`engine::Engine::execute`]: the item is found; the [`command::Reply`] borrows its value.
//! 7. [`protocol::encode`]: the one copy of the value, into the output of the turn.
//! 8. [`runtime::pump`]: one send per connection, all of the turn's sends in one system call, which also waits for more.
//!
//! # The way of a SET
//!
//! The same, with the value borrowed from the receive buffer and copied once, into a segment of the [`arena`]. A value above
//! [`limits::INLINE_VALUE_BYTES_MAX`] is received into memory of its own ([`arena::Body`]) and stays there; a get sends it from where it
//! lies.
//!
//! # In a ring
//!
//! Several nodes, one cache. [`cluster::Turn::place`] says whether a command can be executed here at once; where other nodes have a part in
//! it, [`cluster::Turn::submit`] takes it over: it goes on to the first node of the key's ranking ([`placement`]) that is there, or is
//! coordinated here, and what it wrote is copied ([`peer::frame`]) or kept as a hint ([`cluster::handoff`]) before it is answered.
//! [`runtime::peer_socket`] moves the frames. A lone node has none of this.
//!
//! Who is in the ring is a table that every node has ([`membership::table`]); it spreads by [`node::members`] and [`membership::gossip`], and
//! what follows from it is a [`cluster::view::View`] with two layouts while the ring changes: one that serves, and one that is being filled.
//!
//! # What is absent
//!
//! On the path of a local get there is no lock, no allocation, no log line, no clock reading (one per turn) and no system call
//! of its own. No module below `runtime` knows a socket, a clock or a thread. No byte from a client reaches a panic.

pub mod arena;
pub mod buffer;
pub mod cluster;
pub mod command;
pub mod engine;
pub mod key;
pub mod latency;
pub mod limits;
pub mod membership;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod peer;
pub mod placement;
pub mod protocol;
pub mod routing;
pub mod runtime;
pub mod shard;
pub mod sync;
pub mod time;
pub mod version;

#[cfg(test)]
#[path = "../tests/random/mod.rs"]
mod random;
