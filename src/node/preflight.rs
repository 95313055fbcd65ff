//! What the machine must allow before a core is started: each lack is one sentence with its remedy.
//!
//! Lives here: io_uring, locked memory, descriptors, CPUs. Not here: options, what runs later.
//! Unsafe lives here: foreign calls that read and set limits.

use std::io;

use crate::runtime::IoBackend;
use crate::runtime::uring::Uring;

use super::options::IoChoice;

/// Limit on locked memory below which glommio starts no executor, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Locked memory of a core's rings, in bytes. Measured on Linux 6.18, 1 to 4 cores: 444 KiB each and 223 KiB for the probe, which
/// the kernel takes back late.
const MEMLOCK_BYTES_PER_CORE: u64 = 448 << 10;
/// See [`MEMLOCK_BYTES_PER_CORE`].
const MEMLOCK_BYTES_BESIDE: u64 = 256 << 10;
/// Descriptors of a node beside its connections: rings, doorbell and listeners of a core, and some.
const FILES_PER_CORE: u64 = 16;
const FILES_BESIDE: u64 = 32;

/// Which I/O the cores will use.
///
/// # Errors
/// One sentence, when io_uring is not allowed at all or the pump was asked for and the kernel lacks what it needs.
pub fn choose_io(choice: IoChoice) -> Result<IoBackend, String> {
    let probe = probe_ring();
    match (choice, probe) {
        (_, Err(error)) if error.raw_os_error() == Some(libc::EPERM) || error.raw_os_error() == Some(libc::ENOSYS) => {
            Err(forbidden())
        }
        (IoChoice::Streams, _) => Ok(IoBackend::Streams),
        (_, Err(error)) if error.raw_os_error() == Some(libc::ENOMEM) => Err(start_failure(&error)),
        (_, Ok(())) => Ok(IoBackend::Pump),
        (IoChoice::Auto, Err(error)) => {
            log::warn!("the kernel lacks what --io pump needs ({error}); serving with stock glommio streams");
            Ok(IoBackend::Streams)
        }
        (IoChoice::Pump, Err(error)) => Err(format!(
            "--io pump needs multishot receives, buffer rings and DEFER_TASKRUN, that is Linux 6.1 or later ({error}); use --io streams."
        )),
    }
}

/// Makes a ring and throws it away, on a thread of its own because a ring belongs to its thread.
fn probe_ring() -> io::Result<()> {
    std::thread::spawn(|| Uring::new().map(drop)).join().unwrap_or_else(|_| Err(io::Error::other("the probe failed")))
}

fn forbidden() -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        "1" | "2" => "io_uring is disabled on this machine; allow it with `sysctl kernel.io_uring_disabled=0`.".into(),
        _ => "io_uring is not allowed here, most often by a container's seccomp profile; run with a profile that allows \
              io_uring_setup, io_uring_enter and io_uring_register."
            .into(),
    }
}

/// Raises the limits on locked memory and open files as far as they are needed.
///
/// # Errors
/// One sentence, when the hard limit is too low.
pub fn raise_limits(cores: u16, connections: u32) -> Result<(), String> {
    // Where nothing is counted, glommio still looks at the limit.
    let memlock = if may_lock_memory() { MEMLOCK_BYTES_MIN } else { memlock_bytes(cores) };
    raise(libc::RLIMIT_MEMLOCK, memlock).map_err(|_| too_little_locked_memory(cores))?;
    let files = connections as u64 + cores as u64 * FILES_PER_CORE + FILES_BESIDE;
    if let Err(hard) = raise(libc::RLIMIT_NOFILE, files) {
        return Err(format!(
            "open files are limited to {hard}, and --conn_limit {connections} needs {files}; raise it with `ulimit -n` or LimitNOFILE, or lower --conn_limit."
        ));
    }
    Ok(())
}

/// Why a core did not start, in a sentence with the remedy where one is known.
pub fn start_failure(error: &io::Error) -> String {
    // The limit is the user's, not the process's.
    let remedy = match error.raw_os_error() {
        Some(libc::ENOMEM) if !may_lock_memory() => {
            "; other processes of this user may have used up the locked memory: raise `ulimit -l` or LimitMEMLOCK"
        }
        _ => "",
    };
    format!("a core cannot start: {error}{remedy}.")
}

/// Whether this process has CAP_IPC_LOCK: then the kernel counts none of its locked memory.
fn may_lock_memory() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| (mask >> CAP_IPC_LOCK) & 1 == 1)
}

/// capabilities(7).
const CAP_IPC_LOCK: u32 = 14;

fn memlock_bytes(cores: u16) -> u64 {
    MEMLOCK_BYTES_MIN.max(cores as u64 * MEMLOCK_BYTES_PER_CORE + MEMLOCK_BYTES_BESIDE)
}

fn too_little_locked_memory(cores: u16) -> String {
    let hard = limit_of(libc::RLIMIT_MEMLOCK).map_or(0, |(_, hard)| hard);
    format!(
        "locked memory is limited to {} KiB, and the rings of --cores {cores} need {} KiB; raise it with `ulimit -l` or LimitMEMLOCK=infinity.",
        hard >> 10,
        memlock_bytes(cores) >> 10
    )
}

/// The soft and the hard limit.
/// Most descriptors that this process may have; 0 where that cannot be told.
pub fn descriptors_max() -> u64 {
    limit_of(libc::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> Option<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives across the call.
    (unsafe { libc::getrlimit(resource, &raw mut limit) } == 0).then_some((limit.rlim_cur, limit.rlim_max))
}

/// Raises a soft limit to at least `needed`; as root the hard one too. `Err` holds the hard limit that is in the way.
fn raise(resource: libc::__rlimit_resource_t, needed: u64) -> Result<(), u64> {
    let Some((soft, hard)) = limit_of(resource) else { return Ok(()) };
    if soft >= needed {
        return Ok(());
    }
    for wanted in
        [libc::rlimit { rlim_cur: needed.min(hard), rlim_max: hard }, libc::rlimit { rlim_cur: needed, rlim_max: needed }]
    {
        // SAFETY: the struct lives across the call.
        if wanted.rlim_cur >= needed && unsafe { libc::setrlimit(resource, &raw const wanted) } == 0 {
            return Ok(());
        }
    }
    Err(hard)
}

/// The CPU of each core, or none of them pinned when there are more cores than CPUs that this process may use.
pub fn assign_cpus(cores: u16) -> Vec<Option<usize>> {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    if cores as usize > cpus.len() {
        log::warn!("{cores} cores share {} CPUs: nothing is pinned, and throughput is that of the CPUs", cpus.len());
        return vec![None; cores as usize];
    }
    cpus.iter().take(cores as usize).map(|cpu| Some(cpu.id)).collect()
}

/// CPUs that this process may use.
pub fn cpus_count() -> usize {
    core_affinity::get_core_ids().map_or(1, |cpus| cpus.len().max(1))
}
