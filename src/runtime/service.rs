//! As what connections are served: who may come, and how many at once.
//!
//! ```text
//!   listener of clients --> a newcomer --> Clients (--conn_limit) --first byte of a node--> Nodes (as many as come)
//!                                             | full, in a ring
//!                                             v
//!                                          Unproven (256): the first byte must be a node's
//! ```
//!
//! Each service has its own limit and its own list of addresses, so that clients cannot take the places of nodes, nor nodes those of
//! clients. A door with another way in (TLS, its own port) is one more service.
//!
//! Lives here: the services of a node and their counts. Not here: sockets (`listener`), what is spoken (`connection`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};

use ipnet::IpNet;

use crate::limits;

/// As what a connection is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceId {
    /// A client, or not known to be a node so far.
    #[default]
    Clients,
    /// One too many for clients: it must show with its first byte that it is a node.
    Unproven,
    /// Another node of the ring.
    Nodes,
}

/// One service: whom it admits, how many, and how many there are.
#[derive(Debug)]
pub struct Service {
    admitted: Arc<[IpNet]>,
    most: u32,
    open: AtomicU32,
}

impl Service {
    /// A service for at most so many connections from these networks; none listed admits all.
    pub fn new(admitted: Arc<[IpNet]>, most: u32) -> Self {
        Self { admitted, most, open: AtomicU32::new(0) }
    }

    /// Whether an address may come in.
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.admitted.is_empty() || self.admitted.iter().any(|network| network.contains(&address))
    }

    /// Connections that are open.
    pub fn open(&self) -> u32 {
        self.open.load(Acquire)
    }

    /// Most connections at once.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Counts one more, if there is room.
    fn enter(&self) -> bool {
        let has_room = self.open.fetch_add(1, AcqRel) < self.most;
        if !has_room {
            self.leave();
        }
        has_room
    }

    fn leave(&self) {
        self.open.fetch_sub(1, AcqRel);
    }
}

/// The services of a node, shared by its cores.
#[derive(Debug)]
pub struct Services {
    /// Of clients.
    pub clients: Service,
    /// See `ServiceId::Unproven`; counts for nothing on a lone node.
    pub unproven: Service,
    /// This node is in a ring.
    has_nodes: AtomicBool,
    /// Of other nodes: a few from each, which no number of clients keeps out.
    pub nodes: Service,
}

impl Services {
    /// Those of a node with so many clients at most from these networks, in a ring or alone.
    pub fn new(admitted: Arc<[IpNet]>, clients_max: u32, is_ring: bool) -> Self {
        Self {
            unproven: Service::new(admitted.clone(), limits::PEER_UNPROVEN_MAX),
            has_nodes: AtomicBool::new(is_ring),
            nodes: Service::new(admitted.clone(), u32::MAX),
            clients: Service::new(admitted, clients_max),
        }
    }

    /// Counts a newcomer in as what there is room for; `None` where there is none.
    pub fn enter(&self) -> Option<ServiceId> {
        if self.clients.enter() {
            return Some(ServiceId::Clients);
        }
        (self.has_nodes.load(Acquire) && self.unproven.enter()).then_some(ServiceId::Unproven)
    }

    /// This node is in a ring from now on.
    pub fn open_to_nodes(&self) {
        self.has_nodes.store(true, Release);
    }

    /// A connection has shown that it is a node's.
    pub fn prove(&self, before: ServiceId) -> ServiceId {
        self.nodes.open.fetch_add(1, AcqRel);
        self.leave(before);
        ServiceId::Nodes
    }

    /// A connection has ended.
    pub fn leave(&self, service: ServiceId) {
        match service {
            ServiceId::Clients => self.clients.leave(),
            ServiceId::Nodes => self.nodes.leave(),
            ServiceId::Unproven => self.unproven.leave(),
        }
    }

    /// Connections of all services.
    pub fn open(&self) -> u32 {
        self.clients.open() + self.nodes.open() + self.unproven.open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_networks_are_admitted() {
        let networks: Vec<IpNet> = ["127.0.0.0/8", "10.1.0.0/16", "::1/128"].iter().map(|text| text.parse().unwrap()).collect();
        let service = Service::new(networks.into(), 1);
        for (address, expected) in [
            ("127.0.0.1", true),
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("::2", false),
            ("::ffff:127.0.0.1", true),
        ] {
            assert_eq!(service.admits(address.parse().unwrap()), expected, "{address}");
        }
        assert!(Service::new(Arc::new([]), 1).admits("8.8.8.8".parse().unwrap()), "nothing listed admits all");
    }

    #[test]
    fn clients_and_nodes_do_not_take_each_others_places() {
        for is_ring in [false, true] {
            let services = Services::new(Arc::new([]), 2, is_ring);
            assert_eq!((services.enter(), services.enter()), (Some(ServiceId::Clients), Some(ServiceId::Clients)));
            let third = services.enter();
            assert_eq!(third, is_ring.then_some(ServiceId::Unproven));
            let Some(third) = third else { continue };
            let node = services.prove(third);
            assert_eq!((services.open(), services.clients.open(), services.nodes.open()), (3, 2, 1));
            services.leave(node);
            services.leave(ServiceId::Clients);
            assert_eq!(services.enter(), Some(ServiceId::Clients));
            for _ in 0..limits::PEER_UNPROVEN_MAX {
                assert_eq!(services.enter(), Some(ServiceId::Unproven));
            }
            assert_eq!(services.enter(), None);
            assert_eq!(services.open(), 2 + limits::PEER_UNPROVEN_MAX);
        }
    }
}
