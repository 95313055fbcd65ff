//! The process itself: background, user, locked memory, core files, process id.
//!
//! Done before any thread starts, in the order in which memcached does it.
//!
//! Lives here: what an init script expects. Not here: limits of rings and descriptors (`preflight`).
//! Unsafe lives here: foreign calls.

use std::ffi::CString;
use std::io;
use std::path::Path;

use super::StartError;
use super::options::Options;

/// Blocks from this size on have pages of their own, in bytes.
const LARGE_BLOCK_BYTES: i32 = 64 << 10;

/// Applies what the options say about the process.
///
/// # Errors
/// One sentence for the first thing that cannot be done.
pub fn prepare(options: &Options) -> Result<(), StartError> {
    give_memory_back();
    if options.core_dumps {
        let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the struct lives across the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const unlimited) })
            .map_err(|error| StartError(format!("option --enable_coredumps cannot be met: {error}.")))?;
    }
    if options.daemon {
        // SAFETY: no thread runs yet; the child goes on alone.
        check(unsafe { libc::daemon(1, 0) }).map_err(|error| StartError(format!("option --daemon cannot be met: {error}.")))?;
    }
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
    Ok(())
}

/// Writes the ports for scripts that ask for them in the environment, as memcached does.
pub fn write_port_file(options: &Options) {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME") else { return };
    let lines: String = options.addresses.iter().map(|address| format!("TCP INET: {}\n", address.port())).collect();
    if let Err(error) = std::fs::write(&path, lines) {
        log::warn!("{} cannot be written: {error}", Path::new(&path).display());
    }
}

/// Removes what `prepare` left in the file system.
pub fn clean_up(options: &Options) {
    for path in options.pidfile.iter().chain(&options.unix_socket) {
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
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
