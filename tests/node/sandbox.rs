//! Nodes under system call filters: where io_uring is forbidden, and under the profile that containers are given.
//!
//! Lives here: filters and what becomes of a node. Not here: other limits of a machine (`process`).

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use libc::{c_long, sock_filter, sock_fprog};

use crate::asking;
use crate::process::{check, output_of};
use crate::server::{Server, command, free_port};

#[test]
fn io_uring_forbidden_is_one_sentence_with_the_remedy() {
    for engine in ["auto", "pump", "streams"] {
        let mut command = command(free_port(), &["--cores", "1", "--io", engine]);
        filtered(
            &mut command,
            vec![
                step(LOAD, 0, 0, 0),
                step(EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
                step(RETURN, 0, 0, EPERM),
                step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
            ],
        );
        let (code, _, errors) = output_of(command);
        assert_eq!(code, Some(2), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains("io_uring is not allowed here") && errors.contains("seccomp"), "{errors}");
    }
}

/// The profile for containers lets a node start, serve over both engines, and end.
#[test]
fn the_profile_for_containers_is_enough() {
    for engine in ["pump", "streams"] {
        let port = free_port();
        let admin_port = free_port();
        let mut node = command(port, &["--cores", "2", "--memory_size", "64", "--io", engine]);
        node.args(["--admin_port", &admin_port.to_string()]);
        filtered(&mut node, allowing(&allowed_calls()));
        let mut server = Server::spawn(node, port);
        let mut client = server.connect();
        client.ask("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
        assert_eq!(client.stat("settings", "pbcache_io"), engine);
        assert_eq!(asking::get(admin_port, "/metrics").status, 200);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait(Duration::from_secs(8)), Some(0));
    }
}

/// The check above could fail: without one call that it needs, no node starts.
#[test]
fn a_profile_without_io_uring_is_not_enough() {
    let without: Vec<c_long> = allowed_calls().into_iter().filter(|&call| call != libc::SYS_io_uring_setup).collect();
    let mut node = command(free_port(), &["--cores", "1"]);
    filtered(&mut node, allowing(&without));
    let (code, _, errors) = output_of(node);
    assert_eq!(code, Some(2), "{errors}");
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Everything fails with EPERM but these calls.
fn allowing(calls: &[c_long]) -> Vec<sock_filter> {
    let allow = |&call: &c_long| [step(EQUAL, 0, 1, call as u32), step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW)];
    let mut program = vec![step(LOAD, 0, 0, 0)];
    program.extend(calls.iter().flat_map(allow));
    program.push(step(RETURN, 0, 0, EPERM));
    program
}

/// Puts the process that `command` starts under a filter.
fn filtered(command: &mut Command, mut program: Vec<sock_filter>) {
    let install = move || {
        let filter = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program lives across the calls.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter))
        }
    };
    // SAFETY: only system calls between fork and exec.
    unsafe { command.pre_exec(install) };
}

/// Numbers of the calls that `tuning/seccomp.json` allows.
fn allowed_calls() -> Vec<c_long> {
    let profile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/seccomp.json")).unwrap();
    let lists = profile.split("\"names\": [").skip(1).map(|rest| rest.split(']').next().unwrap());
    let names: Vec<&str> = lists.flat_map(|list| list.split('"').skip(1).step_by(2)).collect();
    assert!(names.len() > 50);
    let known = |name: &&str| CALLS.iter().chain(OLD_CALLS).find(|(known, _)| known == name);
    let unknown: Vec<_> = names.iter().filter(|name| known(name).is_none() && cfg!(target_arch = "x86_64")).collect();
    assert!(unknown.is_empty(), "this test does not know {unknown:?}");
    names.iter().filter_map(|name| Some(known(name)?.1)).collect()
}

/// Calls of every architecture.
const CALLS: &[(&str, c_long)] = &[
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("membarrier", libc::SYS_membarrier),
    ("eventfd2", libc::SYS_eventfd2),
    ("epoll_create1", libc::SYS_epoll_create1),
    ("epoll_ctl", libc::SYS_epoll_ctl),
    ("epoll_pwait", libc::SYS_epoll_pwait),
    ("socket", libc::SYS_socket),
    ("bind", libc::SYS_bind),
    ("listen", libc::SYS_listen),
    ("accept", libc::SYS_accept),
    ("accept4", libc::SYS_accept4),
    ("connect", libc::SYS_connect),
    ("shutdown", libc::SYS_shutdown),
    ("setsockopt", libc::SYS_setsockopt),
    ("getsockopt", libc::SYS_getsockopt),
    ("getsockname", libc::SYS_getsockname),
    ("getpeername", libc::SYS_getpeername),
    ("sendto", libc::SYS_sendto),
    ("recvfrom", libc::SYS_recvfrom),
    ("sendmsg", libc::SYS_sendmsg),
    ("recvmsg", libc::SYS_recvmsg),
    ("ppoll", libc::SYS_ppoll),
    ("mmap", libc::SYS_mmap),
    ("munmap", libc::SYS_munmap),
    ("mremap", libc::SYS_mremap),
    ("mprotect", libc::SYS_mprotect),
    ("madvise", libc::SYS_madvise),
    ("brk", libc::SYS_brk),
    ("mlock", libc::SYS_mlock),
    ("mlockall", libc::SYS_mlockall),
    ("munlock", libc::SYS_munlock),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("exit", libc::SYS_exit),
    ("exit_group", libc::SYS_exit_group),
    ("futex", libc::SYS_futex),
    ("gettid", libc::SYS_gettid),
    ("getpid", libc::SYS_getpid),
    ("set_tid_address", libc::SYS_set_tid_address),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("rseq", libc::SYS_rseq),
    ("prctl", libc::SYS_prctl),
    ("prlimit64", libc::SYS_prlimit64),
    ("sched_yield", libc::SYS_sched_yield),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("getcpu", libc::SYS_getcpu),
    ("clock_gettime", libc::SYS_clock_gettime),
    ("clock_getres", libc::SYS_clock_getres),
    ("clock_nanosleep", libc::SYS_clock_nanosleep),
    ("nanosleep", libc::SYS_nanosleep),
    ("gettimeofday", libc::SYS_gettimeofday),
    ("restart_syscall", libc::SYS_restart_syscall),
    ("getrusage", libc::SYS_getrusage),
    ("sysinfo", libc::SYS_sysinfo),
    ("uname", libc::SYS_uname),
    ("getrandom", libc::SYS_getrandom),
    ("rt_sigaction", libc::SYS_rt_sigaction),
    ("rt_sigprocmask", libc::SYS_rt_sigprocmask),
    ("rt_sigreturn", libc::SYS_rt_sigreturn),
    ("rt_sigtimedwait", libc::SYS_rt_sigtimedwait),
    ("sigaltstack", libc::SYS_sigaltstack),
    ("tgkill", libc::SYS_tgkill),
    ("execve", libc::SYS_execve),
    ("faccessat", libc::SYS_faccessat),
    ("faccessat2", libc::SYS_faccessat2),
    ("openat", libc::SYS_openat),
    ("close", libc::SYS_close),
    ("read", libc::SYS_read),
    ("pread64", libc::SYS_pread64),
    ("readv", libc::SYS_readv),
    ("write", libc::SYS_write),
    ("writev", libc::SYS_writev),
    ("pwrite64", libc::SYS_pwrite64),
    ("lseek", libc::SYS_lseek),
    ("fstat", libc::SYS_fstat),
    ("newfstatat", libc::SYS_newfstatat),
    ("statx", libc::SYS_statx),
    ("readlinkat", libc::SYS_readlinkat),
    ("getdents64", libc::SYS_getdents64),
    ("getcwd", libc::SYS_getcwd),
    ("fcntl", libc::SYS_fcntl),
    ("ioctl", libc::SYS_ioctl),
    ("pipe2", libc::SYS_pipe2),
    ("dup", libc::SYS_dup),
    ("dup3", libc::SYS_dup3),
    ("unlinkat", libc::SYS_unlinkat),
    ("renameat", libc::SYS_renameat),
    ("renameat2", libc::SYS_renameat2),
    ("fchmod", libc::SYS_fchmod),
    ("fchmodat", libc::SYS_fchmodat),
    ("getuid", libc::SYS_getuid),
    ("geteuid", libc::SYS_geteuid),
    ("getgid", libc::SYS_getgid),
    ("getegid", libc::SYS_getegid),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("setgroups", libc::SYS_setgroups),
    ("setsid", libc::SYS_setsid),
    ("wait4", libc::SYS_wait4),
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(&str, c_long)] = &[
    ("poll", libc::SYS_poll),
    ("epoll_wait", libc::SYS_epoll_wait),
    ("arch_prctl", libc::SYS_arch_prctl),
    ("access", libc::SYS_access),
    ("open", libc::SYS_open),
    ("stat", libc::SYS_stat),
    ("lstat", libc::SYS_lstat),
    ("readlink", libc::SYS_readlink),
    ("dup2", libc::SYS_dup2),
    ("unlink", libc::SYS_unlink),
    ("rename", libc::SYS_rename),
    ("chmod", libc::SYS_chmod),
    ("fork", libc::SYS_fork),
];

#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(&str, c_long)] = &[];
