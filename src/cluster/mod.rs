//! Nodes that hold each other's items: who is in the ring, what they say to each other, what they keep for one that is away.
//!
//! ```text
//!   members:    who there is, in which view                handshake:  how two of them begin to talk
//!   wire:       frames between them                        hints:      what an absent owner lacks
//! ```
//!
//! Sans-io and without items: bytes and tables alone. What a core does with them, with its items beside it, is in `shard`.
//!
//! Lives here: words and stores of the cluster. Not here: decisions about a request (`shard::coordinator`), sockets (`runtime`).

pub mod handshake;
pub mod hints;
pub mod members;
pub mod wire;
