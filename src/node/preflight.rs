//! What the machine must allow before a core is started: each lack is one sentence with its remedy.
//!
//! Lives here: io_uring, locked memory, descriptors, CPUs. Not here: options, what runs later.
//! Unsafe lives here: foreign calls that read and set limits.

use std::io;

use crate::runtime::Engine;
use crate::runtime::ring::Ring;

use super::options::EngineChoice;

/// Locked memory that glommio asks for per executor, in bytes.
const MEMLOCK_BYTES_PER_CORE: u64 = 512 << 10;
/// Descriptors of a node beside its connections: rings, eventfds and listeners of a core, and some.
const FILES_PER_CORE: u64 = 16;
const FILES_BESIDE: u64 = 32;

/// Which I/O the cores will use.
///
/// # Errors
/// One sentence, when io_uring is not allowed at all or the pump was asked for and the kernel lacks what it needs.
pub fn choose_engine(choice: EngineChoice) -> Result<Engine, String> {
    let probe = probe_ring();
    match (choice, probe) {
        (_, Err(error)) if error.raw_os_error() == Some(libc::EPERM) || error.raw_os_error() == Some(libc::ENOSYS) => {
            Err(forbidden())
        }
        (EngineChoice::Streams, _) => Ok(Engine::Streams),
        (_, Ok(())) => Ok(Engine::Pump),
        (EngineChoice::Auto, Err(error)) => {
            log::warn!("the kernel lacks what --engine pump needs ({error}); serving with stock glommio streams");
            Ok(Engine::Streams)
        }
        (EngineChoice::Pump, Err(error)) => Err(format!(
            "--engine pump needs multishot receives, buffer rings and DEFER_TASKRUN, that is Linux 6.1 or later ({error}); use --engine streams."
        )),
    }
}

/// Makes a ring and throws it away, on a thread of its own because a ring belongs to its thread.
fn probe_ring() -> io::Result<()> {
    std::thread::spawn(|| Ring::new().map(drop)).join().unwrap_or_else(|_| Err(io::Error::other("the probe failed")))
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
    let memlock = MEMLOCK_BYTES_PER_CORE;
    if let Err(hard) = raise(libc::RLIMIT_MEMLOCK, memlock) {
        return Err(format!(
            "locked memory is limited to {} KiB, and every core needs {} KiB for its rings; raise it with `ulimit -l` or LimitMEMLOCK=infinity.",
            hard >> 10,
            memlock >> 10
        ));
    }
    let files = connections as u64 + cores as u64 * FILES_PER_CORE + FILES_BESIDE;
    if let Err(hard) = raise(libc::RLIMIT_NOFILE, files) {
        return Err(format!(
            "open files are limited to {hard}, and --conn_limit {connections} needs {files}; raise it with `ulimit -n` or LimitNOFILE, or lower --conn_limit."
        ));
    }
    Ok(())
}

/// Raises a soft limit to at least `needed`; as root the hard one too. `Err` holds the hard limit that is in the way.
fn raise(resource: libc::__rlimit_resource_t, needed: u64) -> Result<(), u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives across the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 || limit.rlim_cur >= needed {
        return Ok(());
    }
    let hard = limit.rlim_max;
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
