//! The process: background, process id, ports in a file, and machines that do not allow what a node needs.
//!
//! Lives here: what an init script sees. Not here: options (`options`), the end of a node (`life`).

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::server::{Client, Server, command, free_port};

/// A path of this test process that nothing else uses.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pbcache-test-{}-{name}", std::process::id()))
}

/// The exit code of a program that ends by itself, and what it says; one that does not is ended, without a code.
pub fn output_of(mut command: Command) -> (Option<i32>, String, String) {
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_daemon_returns_when_it_listens_and_tells_what_is_wrong_in_the_foreground() {
    let (pidfile, port) = (path("daemon.pid"), free_port());
    let options = ["--cores", "1", "-d", "-P", pidfile.to_str().unwrap()];
    let (code, said, errors) = output_of(command(port, &options));
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.starts_with("pbcache listens on "), "{said}");
    let pid: i32 = std::fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap();
    let mut client = Client::new(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    client.ask("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    assert_eq!(client.stat("", "pid"), pid.to_string());

    let second = path("second.pid");
    let (code, said, errors) = output_of(command(port, &["--cores", "1", "-d", "-P", second.to_str().unwrap()]));
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(errors.contains("in use"), "{errors}");
    assert!(!second.exists(), "a node that did not start leaves no process id");

    // SAFETY: a signal to the process that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let start = Instant::now();
    while pidfile.exists() {
        assert!(start.elapsed() < Duration::from_secs(8), "the daemon did not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ports_are_written_for_those_who_ask_in_the_environment() {
    let file = path("ports");
    let mut server = Command::new(env!("CARGO_BIN_EXE_pbcache"));
    server.args(["--cores", "1", "--port", "0", "--ip", "127.0.0.1,::1"]).env("MEMCACHED_PORT_FILENAME", &file);
    let mut child = server.stdout(std::process::Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !file.exists() && start.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let ports: Vec<(&str, u16)> =
        text.lines().map(|line| line.split_once(": ").unwrap()).map(|(family, port)| (family, port.parse().unwrap())).collect();
    assert_eq!(ports.iter().map(|(family, _)| *family).collect::<Vec<_>>(), ["TCP INET", "TCP INET6"]);
    Client::new(std::net::TcpStream::connect(("127.0.0.1", ports[0].1)).unwrap()).ask("mn\r\n", "MN\r\n");
    Client::new(std::net::TcpStream::connect(("::1", ports[1].1)).unwrap()).ask("mn\r\n", "MN\r\n");
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = std::fs::remove_file(file);
}

#[test]
fn too_few_file_descriptors_are_one_sentence_with_the_remedy() {
    let (code, _, errors) = output_of(with_limit(&["--cores", "1", "-c", "5000"], libc::RLIMIT_NOFILE, 1000));
    assert_eq!(code, Some(2), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("open files are limited to 1000, and --conn_limit 5000 needs "), "{errors}");
    assert!(errors.contains("LimitNOFILE"), "{errors}");
}

#[test]
fn too_little_locked_memory_is_one_sentence_with_the_remedy() {
    let (code, _, errors) = output_of(with_limit(&["--cores", "1"], libc::RLIMIT_MEMLOCK, 64 << 10));
    assert_eq!(code, Some(2), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("locked memory is limited to 64 KiB") && errors.contains("LimitMEMLOCK"), "{errors}");
}

#[test]
fn locked_memory_is_asked_for_by_the_core() {
    let (code, _, errors) = output_of(with_limit(&["--cores", "8"], libc::RLIMIT_MEMLOCK, 512 << 10));
    assert_eq!(code, Some(2), "{errors}");
    let sentence = "pbcache: locked memory is limited to 512 KiB, and the rings of --cores 8 need 3840 KiB; ";
    assert!(errors.starts_with(sentence) && errors.lines().count() == 1, "{errors}");
}

#[test]
fn a_supervisor_that_waits_is_told_of_the_start_and_of_the_end() {
    let place = path("notify.sock");
    let _ = std::fs::remove_file(&place);
    let socket = std::os::unix::net::UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let port = free_port();
    let mut node = command(port, &["--cores", "2"]);
    let child = node.env("NOTIFY_SOCKET", &place).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut server = Server { child: child.spawn().unwrap(), port };
    let heard = || {
        let mut text = [0; 64];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    // It says so when every core listens, not before.
    server.connect().ask("mn\r\n", "MN\r\n");
    server.signal(libc::SIGTERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(server.wait(Duration::from_secs(8)), Some(0));
    let _ = std::fs::remove_file(place);
}

#[test]
fn the_machine_is_one_line_at_the_start_or_none() {
    let needs = pbcache::node::host::Needs { cores: 1, connections: 77 };
    let findings = pbcache::node::host::check(&Default::default(), needs);
    let line = pbcache::node::host::hint(&findings, needs);
    let log = log_of(&["--cores", "1", "--conn_limit", "77"]);
    assert_eq!(log.lines().count(), usize::from(line.is_some()), "{log}");
    assert!(line.is_none_or(|line| log.contains(&line) && line.contains("`pbtune --cores 1 --connections 77`")), "{log}");
    assert_eq!(log_of(&["--cores", "1", "--disable_tuning_hint"]), "");
    let log = log_of(&["--cores", "1", "-v", "--conn_limit", "77"]);
    let wanting = findings.iter().filter(|finding| finding.state == pbcache::node::host::State::Wanting);
    assert!(wanting.clone().all(|finding| log.contains(&finding.sentence())), "{log}");
}

#[test]
fn the_end_of_a_node_is_quiet() {
    for engine in ["pump", "streams"] {
        let log = log_of(&["--cores", "2", "-vvv", "--io", engine]);
        assert!(log.contains("draining") && !log.contains("still active"), "{log}");
    }
}

#[test]
fn what_of_the_machine_wants_tuning_is_counted() {
    let server = Server::start(&["--cores", "1"]);
    let wanting: usize = server.connect().stat("settings", "pbcache_tuning_wanting").parse().unwrap();
    let needs = pbcache::node::host::Needs { cores: 1, connections: 1024 };
    let findings = pbcache::node::host::check(&Default::default(), needs);
    assert_eq!(wanting, findings.iter().filter(|finding| finding.state == pbcache::node::host::State::Wanting).count());
}

/// What a node logs from its start to its end.
fn log_of(options: &[&str]) -> String {
    let mut child = command(free_port(), options).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    // SAFETY: a signal to the process that was started above.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let Output { stderr, .. } = child.wait_with_output().unwrap();
    let log = String::from_utf8(stderr).unwrap();
    assert!(line.starts_with("pbcache listens on "), "{line}{log}");
    log
}

#[test]
fn a_ring_that_may_be_meant_otherwise_is_a_sentence() {
    let others = ["--cores", "1", "--ringnode", "127.0.0.9:5,127.0.0.8:5"];
    let log = log_of(&others);
    assert_eq!(log.matches("is not among the 2 of --ringnode").count(), 1, "{log}");
    assert_eq!(log.matches("--redundancy").count(), 0, "{log}");
    let log = log_of(&[&others[..], &["--redundancy", "5"]].concat());
    assert_eq!(log.matches("--redundancy is 5, more than the ring has nodes (3)").count(), 1, "{log}");
    let log = log_of(&[&others[..], &["--redundancy", "3"]].concat());
    assert_eq!(log.matches("--redundancy").count(), 0, "{log}");
}

#[test]
fn a_secret_that_cannot_be_read_is_a_sentence_with_and_without_a_ring() {
    for ring in [&[][..], &["--ringnode", "127.0.0.9:5"]] {
        let options = [&["--cores", "1", "--cluster_secret_file", "/nowhere/secret"], ring].concat();
        let (code, _, errors) = output_of(command(free_port(), &options));
        assert_eq!(code, Some(2), "{errors}");
        assert!(
            errors.ends_with(
                "pbcache: --cluster_secret_file /nowhere/secret cannot be read: No such file or directory (os error 2).\n"
            ),
            "{errors}"
        );
    }
}

#[test]
fn a_unix_socket_alone_is_served_without_tcp() {
    let socket = path("alone.sock");
    let mut server = Command::new(env!("CARGO_BIN_EXE_pbcache"));
    let mut child =
        server.args(["--cores", "3", "-s", socket.to_str().unwrap()]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert!(line.starts_with(&format!("pbcache listens on {} with 3 cores", socket.display())), "{line}");
    for i in 0..10 {
        let mut client = Client { stream: std::os::unix::net::UnixStream::connect(&socket).unwrap() };
        client.ask(format!("set k{i} 0 0 1\r\nx\r\nget k{i}\r\n"), format!("STORED\r\nVALUE k{i} 0 1\r\nx\r\nEND\r\n"));
        assert_eq!(client.stat("settings", "inter"), "NULL");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = std::fs::remove_file(socket);
}

/// A node that has a hard limit and not the privilege to raise it.
fn with_limit(options: &[&str], resource: u32, limit: u64) -> Command {
    let mut command = command(free_port(), options);
    let lower = move || {
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the struct lives across the call; the others take no pointers. Without privileges the drops fail and are needless.
        unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0);
            check(libc::setrlimit(resource, &raw const limits))
        }
    };
    // SAFETY: only system calls between fork and exec.
    unsafe { command.pre_exec(lower) };
    command
}

const CAP_IPC_LOCK: libc::c_ulong = 14;
const CAP_SYS_RESOURCE: libc::c_ulong = 24;

pub fn check(result: i32) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn a_reader_of_the_first_line_that_has_gone_does_not_end_the_node() {
    let port = free_port();
    let mut child = command(port, &["--cores", "1"]).spawn().unwrap();
    drop(child.stdout.take());
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(8), "the node does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut server = Server { child, port };
    server.connect().ask("mn\r\n", "MN\r\n");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait(Duration::from_secs(8)), Some(0));
}
