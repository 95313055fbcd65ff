//! Connections that this core makes: its links to cores of other nodes.
//!
//! ```text
//!   Core::attend_nodes --> link, address --> socket, CONNECT --> completion: hello, receive | link failed
//! ```
//!
//! Lives here: making and closing those sockets. Not here: what is said over them (`peer_socket`), the sockets of clients (`pump`).
//! Unsafe lives here: a submission points to an address that is kept until its completion.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::{Pump, Socket};
use crate::cluster::links::LinkId;
use crate::observe::events::CloseReason;
use crate::runtime::sys;
use crate::runtime::uring::{Kind, Mark};

impl Pump {
    /// Does for other nodes what this turn asks for: connects and closes links, delivers answers.
    pub(super) fn attend_nodes(&mut self) {
        if self.core.context.shard.cluster.is_none() {
            return;
        }
        self.core.attend_nodes();
        for id in std::mem::take(&mut self.core.bridge.hang_up) {
            self.close_now(id, CloseReason::Error);
        }
        for (link, address) in std::mem::take(&mut self.core.bridge.dial) {
            if let Err(error) = self.dial(link, address) {
                self.core.link_failed(link, &error.to_string());
            }
        }
    }

    /// Begins to connect a link.
    fn dial(&mut self, link: LinkId, address: SocketAddr) -> io::Result<()> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        self.bind_source(&socket, address)?;
        let Some(id) = self.core.open_link(link) else { return Ok(()) };
        let generation = self.core.connections[id as usize].generation;
        let socket = Socket { outgoing: true, ..Socket::new(socket.into(), generation, self.core.context.second()) };
        let fd = socket.fd.as_raw_fd();
        self.core.connections[id as usize].descriptor = fd;
        self.seat(id, socket);
        let address = Box::new(SockAddr::from(address));
        let mark = Mark::new(Kind::Connect, generation, id);
        let entry = opcode::Connect::new(types::Fd(fd), address.as_ptr().cast(), address.len()).build().user_data(mark.0);
        // SAFETY: the address is boxed, and kept until the completion has come.
        unsafe { self.uring.push(&entry) };
        self.connecting.push((mark, address));
        Ok(())
    }

    /// Calls from the address that this node listens on: the others know it by that.
    fn bind_source(&self, socket: &socket2::Socket, target: SocketAddr) -> io::Result<()> {
        let source = self.core.context.peer_setup.as_ref().and_then(|setup| setup.source);
        let fits = |source: &IpAddr| {
            source.is_ipv4() == target.is_ipv4() && source.is_loopback() == target.ip().to_canonical().is_loopback()
        };
        let Some(source) = source.filter(fits) else { return Ok(()) };
        // A port is chosen when the socket connects, from those that are free for this target.
        sys::choose_port_late(socket.as_raw_fd());
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))
    }

    pub(super) fn handle_connect(&mut self, mark: Mark, result: i32) {
        self.connecting.retain(|(connect, _)| *connect != mark);
        let id = mark.index();
        let live = self.sockets.get(id as usize).and_then(Option::as_ref).is_some_and(|socket| mark.is_of(socket.generation));
        if !live {
            return;
        }
        if result < 0 {
            return self.close_now(id, CloseReason::Error);
        }
        self.core.link_connected(id);
        self.arm_receive(id);
    }
}
