//! The process itself: background, user, locked memory, core files, process id.
//!
//! ```text
//!   limits -> core files -> background -> user -> locked memory -> process id -> Node::start -> Parent::release
//! ```
//!
//! All before any thread starts.
//!
//! Lives here: what an init script expects. Not here: limits of rings and descriptors (`preflight`).
//! Unsafe lives here: foreign calls.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use super::options::Options;
use super::{StartError, preflight};
use crate::limits;

/// Blocks from this size on have pages of their own, in bytes.
const LARGE_BLOCK_BYTES: i32 = limits::HEAP_MAPPED_BYTES as i32;

/// Who waits in the foreground until a node that goes on in the background listens.
#[must_use]
pub struct Parent(Option<OwnedFd>);

/// Applies what the options say about the process. Limits come first, because only the first user may raise them.
///
/// With `--daemon`, the process that was started stays until [`Parent::release`] or until the background one has ended, and tells
/// by its exit code which of them came: a port in use is told in the foreground.
///
/// # Errors
/// One sentence for the first thing that cannot be done.
pub fn prepare(options: &Options) -> Result<Parent, StartError> {
    give_memory_back();
    preflight::raise_limits(options.cores, options.conn_limit).map_err(StartError)?;
    if options.core_dumps {
        raise_core_limit().map_err(|error| StartError(format!("option --enable_coredumps cannot be met: {error}.")))?;
    }
    let parent = match options.daemon {
        true => go_on_in_background().map_err(|error| StartError(format!("option --daemon cannot be met: {error}.")))?,
        false => Parent(None),
    };
    if let Some(user) = &options.user {
        become_user(user)?;
    }
    if options.lock_memory {
        // Only what is touched: the reserved address space is larger than memory.
        // SAFETY: no pointers.
        check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })
            .map_err(|error| StartError(format!("option --lock_memory cannot be met: {error}; raise `ulimit -l`.")))?;
    }
    if let Some(path) = &options.pidfile {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| StartError(format!("option --pidfile: {} cannot be written: {error}.", path.display())))?;
    }
    Ok(parent)
}

impl Parent {
    /// Says that the node listens; unless it is to log, the background process lets go of the terminal.
    pub fn release(self, options: &Options) {
        let Some(pipe) = self.0 else { return };
        if options.verbosity == 0
            && let Ok(null) = File::options().read(true).write(true).open("/dev/null")
        {
            for descriptor in 0..3 {
                // SAFETY: no pointers; the three descriptors are those of the standard streams.
                unsafe { libc::dup2(null.as_raw_fd(), descriptor) };
            }
        }
        // A parent that was killed needs no answer.
        let _ = File::from(pipe).write_all(b"1");
    }
}

/// Goes on as a child in a session of its own. The parent never returns from here.
fn go_on_in_background() -> io::Result<Parent> {
    let mut ends = [0; 2];
    // SAFETY: the array lives across the call.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just opened and belong to nobody else.
    let [reader, writer] = ends.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) });
    // SAFETY: no other thread runs yet, so the child may use everything.
    let child = unsafe { libc::fork() };
    check(child)?;
    if child > 0 {
        drop(writer);
        let listens = File::from(reader).read(&mut [0]).is_ok_and(|count| count == 1);
        std::process::exit(if listens { 0 } else { super::NOT_STARTED.into() });
    }
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() })?;
    Ok(Parent(Some(writer)))
}

/// Core files of any size, or of the size that the hard limit allows, as in memcached.
fn raise_core_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the struct lives across the calls.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) == 0 {
            return Ok(());
        }
        check(libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const limit))
    }
}

/// Writes the ports for scripts that ask for them in the environment (`MEMCACHED_PORT_FILENAME`), as memcached does: whole or not
/// at all, so that a script that waits for the file reads every line.
pub fn write_port_file(options: &Options) {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME").map(PathBuf::from) else { return };
    let family = |address: &SocketAddr| if address.is_ipv6() { "INET6" } else { "INET" };
    let lines: String =
        options.addresses.iter().map(|address| format!("TCP {}: {}\n", family(address), address.port())).collect();
    let mut draft = path.clone().into_os_string();
    draft.push(".lck");
    if let Err(error) = std::fs::write(&draft, lines).and_then(|()| std::fs::rename(&draft, &path)) {
        log::warn!("{} cannot be written: {error}", path.display());
    }
}

/// Removes what `prepare` left in the file system.
pub fn clean_up(options: &Options) {
    for path in options.pidfile.iter().chain(&options.unix_socket) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the file with the process id of a node that did not start. A unix socket may be another node's and stays.
pub fn clean_up_unstarted(options: &Options) {
    if let Some(path) = &options.pidfile {
        let _ = std::fs::remove_file(path);
    }
}

/// Lets the allocator give large blocks back to the system when they are freed, whatever their history: requests that are held
/// for a moment would otherwise stay in the process's memory.
fn give_memory_back() {
    // SAFETY: no pointers; before any thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES);
    }
}

fn become_user(user: &str) -> Result<(), StartError> {
    // SAFETY: no pointers.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    let unknown = || StartError(format!("option --user: there is no user '{user}'."));
    let name = CString::new(user).map_err(|_| unknown())?;
    // SAFETY: a C string; the answer is read before any other call of the family.
    let (uid, gid) = unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        if entry.is_null() {
            return Err(unknown());
        }
        ((*entry).pw_uid, (*entry).pw_gid)
    };
    // SAFETY: no pointers kept; groups first, because the user may not change them afterwards.
    let done = unsafe { check(libc::initgroups(name.as_ptr(), gid)).and_then(|()| check(libc::setgid(gid))) };
    // SAFETY: no pointers.
    done.and_then(|()| check(unsafe { libc::setuid(uid) }))
        .map_err(|error| StartError(format!("option --user: cannot become '{user}': {error}.")))
}

fn check(result: i32) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
