//! The network between the nodes: a small proxy for each ordered pair of nodes, whose ways can be cut and slowed.
//!
//! ```text
//!   node i --connects to--> [listener i to j] --connects to--> node j        bytes from i to j pass way (i, j), the answers way (j, i)
//!                            on the address of j                             a cut way holds what comes; healed, it passes on, or the
//!                            from the address of i                           connection is reset
//! ```
//!
//! Each connection has two threads that copy. A cut is silent, as on a network that loses everything: nobody is told, and what was sent
//! arrives when the way is whole again, unless the connection is gone by then.
//!
//! Lives here: bytes between nodes. Not here: when what is cut (`plan`), clients, who talk to the nodes themselves.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Bytes that a way takes at once.
const PIECE_BYTES: usize = 64 << 10;

/// How a way is.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    cut: bool,
    delay: Duration,
    /// Nothing will pass any more: the threads are to end.
    over: bool,
}

/// Where bytes of one direction pass, or wait.
#[derive(Default)]
struct Way {
    condition: Mutex<Condition>,
    changed: Condvar,
}

impl Way {
    /// Waits until bytes may pass. False if they never will.
    fn pass(&self) -> bool {
        let condition = self.condition.lock().unwrap();
        let delay = condition.delay;
        drop(condition);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let condition = self.condition.lock().unwrap();
        let condition = self.changed.wait_while(condition, |condition| condition.cut && !condition.over).unwrap();
        !condition.over
    }

    fn change(&self, with: impl FnOnce(&mut Condition)) {
        with(&mut self.condition.lock().unwrap());
        self.changed.notify_all();
    }
}

/// All ways between some nodes.
pub struct Ways {
    nodes: usize,
    ways: Vec<Arc<Way>>,
    proxies: Vec<Proxy>,
}

/// The listener of one ordered pair.
struct Proxy {
    from: usize,
    to: usize,
    address: SocketAddr,
    over: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// Both ends of a connection that is being copied.
type Connection = (Weak<TcpStream>, Weak<TcpStream>);

impl Ways {
    /// Ways between nodes that will listen at these addresses.
    pub fn new(nodes: &[SocketAddr]) -> std::io::Result<Self> {
        let count = nodes.len();
        let mut ways = Self { nodes: count, ways: (0..count * count).map(|_| Arc::default()).collect(), proxies: Vec::new() };
        for from in 0..count {
            for to in (0..count).filter(|&to| to != from) {
                let listener = TcpListener::bind((nodes[to].ip(), 0))?;
                let proxy =
                    Proxy { from, to, address: listener.local_addr()?, over: Arc::default(), connections: Arc::default() };
                let (over, connections) = (proxy.over.clone(), proxy.connections.clone());
                let (there, back) = (ways.way(from, to).clone(), ways.way(to, from).clone());
                let (source, target) = (nodes[from].ip(), nodes[to]);
                let accept = move || {
                    while let Ok((stream, _)) = listener.accept() {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        // Without one at the other end, this one is closed: as if nobody listened.
                        if let Ok(onward) = connect_from(source, target) {
                            join(stream, onward, (&there, &back), &connections);
                        }
                    }
                };
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn(accept)?;
                ways.proxies.push(proxy);
            }
        }
        Ok(ways)
    }

    /// Where node `from` reaches node `to`.
    pub fn address(&self, from: usize, to: usize) -> SocketAddr {
        self.proxies.iter().find(|proxy| (proxy.from, proxy.to) == (from, to)).unwrap().address
    }

    fn way(&self, from: usize, to: usize) -> &Arc<Way> {
        &self.ways[from * self.nodes + to]
    }

    /// Holds everything that one node sends to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.way(from, to).change(|condition| condition.cut = true);
    }

    /// Delays what one node sends to another.
    pub fn slow(&self, from: usize, to: usize, delay: Duration) {
        self.way(from, to).change(|condition| condition.delay = delay);
    }

    /// Ends all connections between two nodes.
    pub fn end(&self, from: usize, to: usize) {
        let between = |proxy: &&Proxy| [(from, to), (to, from)].contains(&(proxy.from, proxy.to));
        self.proxies.iter().filter(between).for_each(Proxy::reset);
    }

    /// Makes all ways whole again; with `reset`, connections that were cut end instead of passing on what they hold.
    pub fn heal(&self, reset: bool) {
        if reset {
            let cut = |from, to| self.way(from, to).condition.lock().unwrap().cut;
            let hit = self.proxies.iter().filter(|proxy| cut(proxy.from, proxy.to) || cut(proxy.to, proxy.from));
            hit.for_each(Proxy::reset);
        }
        for way in &self.ways {
            way.change(|condition| *condition = Condition { over: condition.over, ..Condition::default() });
        }
    }
}

impl Proxy {
    /// Ends all connections.
    fn reset(&self) {
        for (one, other) in self.connections.lock().unwrap().drain(..) {
            for stream in [one, other].iter().filter_map(Weak::upgrade) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.ways.iter().for_each(|way| way.change(|condition| condition.over = true));
        for proxy in &self.proxies {
            proxy.over.store(true, Ordering::Relaxed);
            proxy.reset();
            // Wakes the thread that accepts.
            let _ = TcpStream::connect_timeout(&proxy.address, Duration::from_millis(200));
        }
    }
}

fn connect_from(source: IpAddr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&target.into(), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// Copies between two ends until one of them is done.
fn join(near: TcpStream, far: TcpStream, (there, back): (&Arc<Way>, &Arc<Way>), connections: &Mutex<Vec<Connection>>) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near, far) = (Arc::new(near), Arc::new(far));
    let mut connections = connections.lock().unwrap();
    connections.retain(|(one, _)| one.strong_count() > 0);
    connections.push((Arc::downgrade(&near), Arc::downgrade(&far)));
    for (source, target, way) in [(near.clone(), far.clone(), there.clone()), (far, near, back.clone())] {
        let run = move || {
            copy(&source, &target, &way);
            let _ = (target.shutdown(Shutdown::Both), source.shutdown(Shutdown::Both));
        };
        if std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).is_err() {
            return;
        }
    }
}

/// Copies one direction. Its end, too, passes only when the way lets it.
fn copy(mut source: &TcpStream, mut target: &TcpStream, way: &Way) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = source.read(&mut piece).unwrap_or(0);
        if !way.pass() || count == 0 || target.write_all(&piece[..count]).is_err() {
            return;
        }
    }
}

/// Stack of a thread that only copies.
const STACK_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Two listeners, of which the second is node 1, and the ways between them.
    fn pair() -> (TcpListener, Ways) {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (zero, one) = (listen(), listen());
        let ways = Ways::new(&[zero.local_addr().unwrap(), one.local_addr().unwrap()]).unwrap();
        (one, ways)
    }

    /// Both ends of a connection over which something has passed: it is known to the proxy.
    fn ends(one: &TcpListener, ways: &Ways) -> (TcpStream, TcpStream) {
        let mut near = TcpStream::connect(ways.address(0, 1)).unwrap();
        let (far, _) = one.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        near.write_all(b"first").unwrap();
        expect(&far, b"first");
        (near, far)
    }

    fn expect(mut stream: &TcpStream, text: &[u8]) {
        let mut bytes = vec![0; text.len()];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, text);
    }

    fn silent(mut stream: &TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let silent = stream.read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }

    #[test]
    fn each_direction_is_cut_by_itself_and_nothing_is_lost() {
        let (one, ways) = pair();
        let (mut near, mut far) = ends(&one, &ways);
        near.write_all(b"hello").unwrap();
        expect(&far, b"hello");
        ways.cut(0, 1);
        near.write_all(b"held").unwrap();
        far.write_all(b"answer").unwrap();
        expect(&near, b"answer");
        assert!(silent(&far));
        ways.heal(false);
        expect(&far, b"held");
        // The end of a connection is held as well.
        ways.cut(1, 0);
        drop(far);
        assert!(silent(&near));
        ways.heal(false);
        assert_eq!(near.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_cut_may_end_in_a_reset_and_new_connections_are_whole() {
        let (one, ways) = pair();
        let (mut near, mut far) = ends(&one, &ways);
        ways.cut(0, 1);
        near.write_all(b"never").unwrap();
        ways.heal(true);
        assert!(matches!(near.read(&mut [0; 1]), Ok(0) | Err(_)));
        assert!(matches!(far.read(&mut [0; 1]), Ok(0) | Err(_)));
        let (mut near, far) = ends(&one, &ways);
        near.write_all(b"again").unwrap();
        expect(&far, b"again");
    }

    #[test]
    fn a_slow_way_takes_its_time() {
        let (one, ways) = pair();
        let (mut near, far) = ends(&one, &ways);
        ways.slow(0, 1, Duration::from_millis(80));
        let begun = Instant::now();
        near.write_all(b"late").unwrap();
        expect(&far, b"late");
        assert!(begun.elapsed() >= Duration::from_millis(80));
    }

    #[test]
    fn a_node_that_is_not_there_closes_the_connection() {
        let (one, ways) = pair();
        drop(one);
        let mut near = TcpStream::connect(ways.address(0, 1)).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(near.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}
