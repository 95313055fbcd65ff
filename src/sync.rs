//! The atomics of what cores share without a lock, in one place, so that the model checker can put its own there.
//!
//! ```text
//!   a build                      std's
//!   tests with `--cfg loom`      loom's: a test named `model_...` runs once for every order of their effects that the language allows
//! ```
//!
//! Used by the stacks of free units (`arena`), the links (`runtime::mesh::queue`) and the sleep of a core (`runtime::context`). Counters, which
//! order nothing, go on using std.
//!
//! Lives here: which atomics. Not here: the structures and their models, which stand beside them.

#[cfg(not(all(loom, test)))]
pub use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(all(loom, test))]
pub use loom::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
