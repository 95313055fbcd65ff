//! pbcache: a cache node that memcached clients use as they use memcached.
//!
//! # The floors
//! - words: [`command`], [`key`], [`time`], [`limits`], [`arena`], [`buffer`]: plain types that every floor speaks
//! - cores: [`protocol`], [`engine`]: sans-io state machines that never import each other
//! - [`shard`]: what one core owns; composes the cores, still pure
//! - [`runtime`]: glommio and io_uring
//! - [`node`]: control plane

pub mod arena;
pub mod buffer;
pub mod command;
pub mod engine;
pub mod key;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod runtime;
pub mod shard;
pub mod time;
