//! Who is in the ring: a table that every node has, and what follows from it.
//!
//! ```text
//!   table   one record a node, merged by a rule that gives the same whatever comes first     codec   its bytes, bounded
//!   changes which layout serves, which one comes next, whose turn it is: functions of the table
//!   driver  what this node writes next of itself                                             file    the table on disk
//!   gossip  who can be reached by anybody, and records on their way                          seal    the envelope of a datagram
//! ```
//!
//! There is no leader and no vote on an order: placement is a function of the table, so only the table must become the same everywhere, and
//! it does in whatever order its records come. Each change has one driver, the node whose record changes.
//!
//! Lives here: the table and its rules, without I/O. Not here: views of it with links and leases (`cluster`), files and sockets (`node`).

pub mod changes;
pub mod codec;
pub mod driver;
pub mod file;
pub mod gossip;
pub mod seal;
pub mod table;
