//! Words between nodes: how two of them begin to talk, and the frames that they exchange.
//!
//! ```text
//!   handshake:  who are you?  -->  frames, in both directions:  stream (bytes to frames)  -->  frame (typed, with checked numbers)
//! ```
//!
//! Sans-io and without items: bytes alone. What a core does with them, with its items beside it, is in `cluster`.
//!
//! Lives here: the language of nodes. Not here: decisions about a request (`cluster`), sockets (`runtime::peer_socket`).

pub mod frame;
pub mod handshake;
pub mod stream;
