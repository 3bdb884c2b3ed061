//! Where every connection must be: a model that knows backends by address and nothing of slots, ticks or entries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb::model::{AdminState, Backend, Desired, Protocol, Service};
use xdp_lb::plan::Census;
use xdp_lb::state::{Capacity, MapOp, Maps};
use xdp_lb::template::from_map;
use xdp_lb_common::backend::MAX_MEMBERS;
use xdp_lb_common::hash::{FlowHash, mix};
use xdp_lb_common::parse::Segment;
use xdp_lb_common::ring::{DIRTY, Slot};
use xdp_lb_common::select::{Flow, Tables, choose, look};
use xdp_lb_common::service::ServiceConfig;

use crate::common::agent::Agent;
use crate::common::wanted::{address, backend, desired, vip};
use crate::lens::{Broken, Lens};

/// A table with room for everybody: four entries for each flow of a life.
pub const CAPACITY: Capacity = Capacity {
    services: 8,
    vip_slots: 16,
    port_pages: 16,
    backends: 256,
    ring_slots: 1024,
    flow_sets: 512,
    backend_stats: 64,
    tx_ports: 8,
    server_ids: 64,
    source_ranges: 256,
};

/// A connection or a flow, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Conn {
    pub hash: FlowHash,
    pub service: u16,
    /// Where it must go on going; `None` when its backend died and the next packet decides.
    pub at: Option<IpAddr>,
}

/// A node, its file, its clients, and what went wrong.
pub struct Sim {
    pub agent: Agent,
    pub file: Desired,
    pub broken: Broken,
    pub conns: Vec<Conn>,
    /// Packets that a backend got which was not theirs.
    pub misdirected: Vec<String>,
    /// Packets that went nowhere.
    pub lost: u64,
    pub packets: u64,
    /// Rings at the last look, how often there were more of them, and fewer.
    pub rings: (usize, u32, u32),
    /// What is done is done to this service alone.
    pub only: Option<u16>,
    random: u64,
    who: BTreeMap<u16, (ServiceConfig, BTreeMap<u16, IpAddr>)>,
}

impl Sim {
    pub fn new(services: Vec<Service>, broken: Broken) -> Self {
        Self::with(CAPACITY, services, broken)
    }

    pub fn with(capacity: Capacity, mut services: Vec<Service>, broken: Broken) -> Self {
        for (n, service) in (0u8..).zip(&mut services) {
            service.vips = vec![vip(n)];
        }
        let mut sim = Self {
            agent: Agent::new(capacity),
            file: desired(services),
            broken,
            conns: Vec::new(),
            misdirected: Vec::new(),
            lost: 0,
            packets: 0,
            rings: (0, 0, 0),
            only: None,
            random: 1,
            who: BTreeMap::new(),
        };
        sim.run();
        sim
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random += 1;
        mix(self.random) % below
    }

    pub fn pass(&mut self, seconds: u64) {
        self.agent.now += Duration::from_secs(seconds);
    }

    /// The operator's word on a backend of every service.
    pub fn set(&mut self, n: u8, state: AdminState) {
        self.edit(n, |b| b.state = state);
        if state == AdminState::Down {
            self.died(n);
        }
    }

    /// Services in scope.
    fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        let only = self.only;
        let services = (1u16..).zip(&mut self.file.services);
        services.filter(move |(id, _)| only.is_none_or(|only| only == *id)).map(|(_, service)| service)
    }

    /// All services get the backends of service `id`.
    pub fn unify(&mut self, id: u16) {
        let backends = self.file.services[usize::from(id) - 1].backends.clone();
        for (other, service) in (1u16..).zip(&mut self.file.services) {
            let down = |b: &&Backend| b.state == AdminState::Down;
            let died: Vec<IpAddr> = backends.iter().filter(down).map(|b| b.address).collect();
            service.backends = backends.clone();
            for conn in self.conns.iter_mut().filter(|c| c.service == other) {
                conn.at = conn.at.filter(|at| !died.contains(at));
            }
        }
    }

    pub fn edit(&mut self, n: u8, edit: impl Fn(&mut Backend)) {
        for service in self.services() {
            service.backends.iter_mut().filter(|b| b.address == address(n)).for_each(&edit);
        }
    }

    pub fn remove(&mut self, n: u8) {
        self.services().for_each(|s| s.backends.retain(|b| b.address != address(n)));
    }

    pub fn add(&mut self, n: u8) {
        for service in self.services() {
            if service.backends.iter().all(|b| b.address != address(n)) {
                service.backends.push(backend(n));
                service.backends.sort_by_key(|b| b.address);
            }
        }
    }

    fn died(&mut self, n: u8) {
        let only = self.only;
        let mine = |c: &&mut Conn| only.is_none_or(|only| c.service == only);
        self.conns.iter_mut().filter(mine).filter(|c| c.at == Some(address(n))).for_each(|c| c.at = None);
    }

    /// Plans and carries out.
    pub fn run(&mut self) {
        self.run_part(usize::MAX);
    }

    /// The same, and the agent dies after so many operations.
    pub fn run_part(&mut self, operations: usize) {
        if self.broken == Broken::Quarantine {
            self.agent.census = Census::default();
        }
        let mut plan = self.agent.plan(&self.file).unwrap();
        for op in &mut plan.ops {
            if let (MapOp::SetSlots { changes, .. }, Broken::DirtyBit) = (op, self.broken) {
                changes.iter_mut().for_each(|c| c.now &= !DIRTY);
            }
        }
        if operations < plan.ops.len() {
            plan.ops.truncate(operations);
            let observed = self.agent.maps.observe();
            plan.ops.iter().for_each(|op| self.agent.step(op, &observed).unwrap());
            self.agent.restart();
        } else {
            self.agent.carry_out(&plan).unwrap();
        }
        if self.broken == Broken::Window {
            self.agent.windows.values_mut().for_each(|opened| *opened = 0);
            let plan = self.agent.plan(&self.file).unwrap();
            self.agent.carry_out(&plan).unwrap();
        }
        self.learn();
    }

    /// One scan of the flow table with everything that follows.
    pub fn survey(&mut self) {
        let found = self.agent.survey();
        if self.broken == Broken::Cleaning {
            let o = self.agent.maps.observe();
            for &service in found.dirty_slots.keys() {
                let base = o.services[&service].config().slot_base;
                for (index, &word) in (base..).zip(&o.ring(service).unwrap().slots.now) {
                    if word & DIRTY != 0 {
                        self.agent.maps.clean(index, word);
                    }
                }
            }
        }
    }

    fn learn(&mut self) {
        let o = self.agent.maps.observe();
        let (rings, more, fewer) = self.rings;
        let there = o.rings.len();
        self.rings = (there, more + u32::from(there > rings), fewer + u32::from(there < rings));
        let who =
            |id: &u16| o.ring(*id).unwrap().members.iter().map(|(&l, m)| (l, from_map(m.address))).collect();
        self.who = o.services.iter().map(|(id, s)| (*id, (*s.config(), who(id)))).collect();
    }

    /// Where a packet goes that nobody keeps an account of.
    pub fn send(&mut self, hash: FlowHash, service: u16, segment: Segment) -> Option<IpAddr> {
        self.packets += 1;
        let (config, who) = &self.who[&service];
        let lens = Lens { cpu: self.agent.cpu(), broken: self.broken };
        let looked = look(&lens, config, hash, segment != Segment::Datagram, false)?;
        let choice = choose(&lens, &Flow { service, config, hash, segment })?;
        // An ICMP error that comes just before a packet of its flow goes where that goes; nobody sends one about a SYN
        // that is not yet here.
        if segment != Segment::Syn {
            assert_eq!(looked.backend, choice.backend, "{segment:?}: {looked:?}, {choice:?}");
        }
        let to = who.get(&choice.backend).copied();
        assert!(choice.backend >= MAX_MEMBERS as u16 || to.is_some(), "{choice:?} of service {service}");
        self.lost += u64::from(to.is_none());
        to
    }

    /// The backend that the slot alone names.
    pub fn slot_of(&self, conn: &Conn) -> Option<IpAddr> {
        let (_, who) = &self.who[&conn.service];
        who.get(&self.slot(conn)?.backend()).copied()
    }

    /// Whether the flow's slot is dirty.
    pub fn is_dirty(&self, conn: &Conn) -> bool {
        self.slot(conn).is_some_and(Slot::is_dirty)
    }

    fn slot(&self, conn: &Conn) -> Option<Slot> {
        let (config, _) = &self.who[&conn.service];
        self.agent.cpu().slot(config.slot_base + conn.hash.slot(config.table_size))
    }

    /// A new connection or flow of a service; two packets, so that it is confirmed.
    pub fn open(&mut self, service: u16) -> usize {
        let hash = FlowHash(mix(self.random(u64::MAX)));
        let (first, second) = match self.protocol(service) {
            Protocol::Tcp => (Segment::Syn, Segment::Ack),
            Protocol::Udp => (Segment::Datagram, Segment::Datagram),
        };
        let at = self.send(hash, service, first);
        self.conns.push(Conn { hash, service, at });
        let conn = self.conns.len() - 1;
        self.packet(conn, second);
        conn
    }

    /// A packet of a connection; who gets it is held against who must.
    pub fn packet(&mut self, conn: usize, segment: Segment) {
        let Conn { hash, service, at } = self.conns[conn];
        let to = self.send(hash, service, segment);
        match at {
            Some(at) if Some(at) != to => {
                let now = self.agent.now.as_secs();
                self.misdirected.push(format!("{segment:?} of {conn} ({service}): {at} -> {to:?} at {now}"));
                self.conns[conn].at = to;
            }
            Some(_) => {}
            None => self.reborn(conn, to),
        }
    }

    /// Data, or a datagram.
    pub fn data(&mut self, conn: usize) {
        let segment = match self.protocol(self.conns[conn].service) {
            Protocol::Tcp => Segment::Data,
            Protocol::Udp => Segment::Datagram,
        };
        self.packet(conn, segment);
    }

    /// After a death a datagram's flow goes on elsewhere, a TCP client connects anew from another port.
    fn reborn(&mut self, conn: usize, to: Option<IpAddr>) {
        let service = self.conns[conn].service;
        if self.protocol(service) == Protocol::Udp {
            self.conns[conn].at = to;
            return;
        }
        let opened = self.open(service);
        self.conns.swap_remove(conn);
        debug_assert!(opened >= conn);
    }

    fn protocol(&self, service: u16) -> Protocol {
        self.file.services[usize::from(service) - 1].protocol
    }
}
