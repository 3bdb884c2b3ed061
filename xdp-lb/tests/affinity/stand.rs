//! A node with one service, and packets to it.

use std::net::IpAddr;
use std::time::Duration;

use xdp_lb::memory::{Packet, Sent};
use xdp_lb::model::{AdminState, Affinity, Desired, Protocol, ServerIdBytes, Service};
use xdp_lb::state::{Capacity, Maps};
use xdp_lb::template::from_map;
use xdp_lb_common::affinity::Named;
use xdp_lb_common::parse::{Segment, UDP};
use xdp_lb_common::reason::{DropReason, FlowEvent};
use xdp_lb_common::server_id::ServerId;

use crate::common::agent::Agent;
use crate::common::wanted::{address, desired, service, vip};

const CAPACITY: Capacity = Capacity {
    services: 8,
    vip_slots: 16,
    port_pages: 64,
    backends: 256,
    ring_slots: 1024,
    flow_sets: 64,
    backend_stats: 64,
    tx_ports: 8,
    server_ids: 64,
    source_ranges: 64,
};

/// A service's backends 1 to 5 and their ids.
pub fn with_ids(affinity: Affinity) -> Service {
    let mut service = Service { affinity, ..service("rtc", Protocol::Udp, 1..=5) };
    for backend in &mut service.backends {
        backend.server_id = (1..=5).find(|&n| address(n) == backend.address).map(id_bytes);
    }
    service
}

/// The id of backend `n`.
pub fn id_bytes(n: u8) -> ServerIdBytes {
    ServerIdBytes::new(&[b's', b'0' + n]).unwrap()
}

/// A packet that names backend `n`.
pub fn naming(n: u8) -> Named {
    Named::Server(id_bytes(n).id)
}

/// A packet that names nobody who is there.
pub const STRANGER: Named = Named::Server(ServerId(0xffff));

/// The node.
pub struct Stand {
    pub agent: Agent,
    pub file: Desired,
}

impl Stand {
    pub fn new(service: Service) -> Self {
        let mut stand = Self { agent: Agent::new(CAPACITY), file: desired(vec![service]) };
        stand.agent.allow_moves = true;
        stand.run();
        stand
    }

    pub fn run(&mut self) {
        let file = self.file.clone();
        self.agent.run(&file);
    }

    pub fn service(&mut self) -> &mut Service {
        &mut self.file.services[0]
    }

    /// The operator's word on a backend.
    pub fn set(&mut self, n: u8, state: AdminState) {
        self.service().backends.iter_mut().filter(|b| b.address == address(n)).for_each(|b| b.state = state);
        self.run();
    }

    pub fn remove(&mut self, n: u8) {
        self.service().backends.retain(|b| b.address != address(n));
        self.run();
    }

    pub fn pass(&mut self, time: Duration) {
        self.agent.now += time;
    }

    /// Where a datagram from `client` to the service's port goes.
    pub fn send(&self, client: u16, named: Named) -> IpAddr {
        self.send_to(client, 443, named).unwrap_or_else(|reason| panic!("dropped: {reason:?}"))
    }

    pub fn send_to(&self, client: u16, port: u16, named: Named) -> Result<IpAddr, DropReason> {
        let packet = Packet {
            source: ([198, 51, 100, 7].into(), client),
            destination: (vip(0), port),
            protocol: UDP,
            segment: Segment::Datagram,
            named,
        };
        match self.agent.cpu().send(&packet) {
            Sent::To { service, choice, .. } => {
                let observed = self.agent.maps.observe();
                Ok(from_map(observed.ring(service).unwrap().members[&choice.backend].address))
            }
            Sent::Dropped(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub fn events(&self, event: FlowEvent) -> u64 {
        self.agent.maps.events(event)
    }
}
