//! A server that this client starts itself: its process, its CPUs, what it cost.
//!
//! This file contains `unsafe`: a signal by process id, and affinity between fork and exec.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server. Ended when dropped.
pub struct Server {
    /// How it was started.
    pub command: String,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts a command, with `{port}` replaced by a free port, on the given CPUs (empty: all), and waits until it accepts.
    pub fn start(command: &str, cpus: &[usize]) -> Result<Self, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let words = words(&command.replace("{port}", &port.to_string()))?;
        let Some((program, arguments)) = words.split_first() else { return Err("the command is empty".into()) };
        if !command.contains("{port}") {
            return Err(format!("`{command}` lacks the placeholder {{port}}"));
        }
        let mut process = Command::new(program);
        process.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let cpus = cpus.to_vec();
        // SAFETY: only async-signal-safe calls run between fork and exec.
        unsafe { process.pre_exec(move || die_with_parent().and_then(|()| pin(&cpus))) };
        let child = process.spawn().map_err(|error| format!("cannot start `{program}`: {error}"))?;
        let mut server = Self { command: command.to_owned(), address, child };
        server.await_ready()?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("`{}` ended at once: {status}", self.command));
            }
            match TcpStream::connect_timeout(&self.address, Duration::from_millis(200)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let seconds = START_TIMEOUT.as_secs();
                    return Err(format!("`{}` does not listen on {} after {seconds} s: {error}", self.command, self.address));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// CPU time of all its threads so far, and of the processes that it has started and that still run, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        process_cpu_ns(self.child.id())
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        text.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| format!("`{}` ended: {status}", self.command))
    }
}

impl Drop for Server {
    /// Asks it to end, waits two seconds, then kills it.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: a plain system call; the child is not yet waited for, so that the id is still its own.
            unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        }
        for _ in 0..100 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process and its children. Some servers are a process that watches over another one.
fn process_cpu_ns(process: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let times = tasks.into_iter().flatten().flatten().map(|task| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let own = read("schedstat").split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let children =
            read("children").split_whitespace().filter_map(|child| child.parse().ok()).map(process_cpu_ns).sum::<u64>();
        own + children
    });
    times.sum()
}

/// Lets the kernel end the server if this process is killed.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    // SAFETY: the set is plain data, filled before it is read.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Splits a command line at blanks; single and double quotes keep a word together.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(format!("a quote is not closed in `{line}`")) } else { Ok(words) }
}

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a  'b c' d\"e f\"").expect("closed"), ["a", "b c", "de f"]);
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn the_time_of_a_child_is_counted() {
        // `timeout` passes the signal on, by which the server is ended.
        let server = Server::start("timeout 30 python3 -m http.server --bind 127.0.0.1 {port}", &[]);
        let Ok(server) = server else { panic!("python3 listens") };
        // Its start alone takes tens of milliseconds; that of `timeout`, one or two.
        assert!(server.cpu_ns() > 20_000_000, "{}", server.cpu_ns());
    }

    #[test]
    fn a_server_that_ends_at_once_is_told() {
        let error = Server::start("false {port}", &[]).err().expect("an error");
        assert!(error.contains("ended at once"), "{error}");
        let error = Server::start("/no/such/program {port}", &[]).err().expect("an error");
        assert!(error.contains("cannot start"), "{error}");
    }
}
