//! Tables that a packet may be sent through in thought: everything is read, nothing is written.

use std::cell::{Cell, RefCell};

use xdp_lb_common::{
    affinity, classify,
    flow::WAYS,
    hash::FlowHash,
    parse::Words,
    reason::FlowEvent,
    ring::Slot,
    select::{Set, Tables},
    vip::{PortPage, VipSlot},
};

/// The tables with nothing written to them: the packet is a thought.
pub(super) struct Dry<'a, T> {
    tables: &'a T,
    events: RefCell<Vec<FlowEvent>>,
}

impl<'a, T> Dry<'a, T> {
    pub(super) fn new(tables: &'a T) -> Self {
        Self { tables, events: RefCell::default() }
    }

    /// What the packet path would have counted.
    pub(super) fn events(self) -> Vec<FlowEvent> {
        self.events.into_inner()
    }
}

/// A copy of a flow set, for the packet path to write to.
pub(super) struct SetCopy([Cell<u64>; WAYS]);

impl Set for SetCopy {
    fn load(&self, way: usize) -> u64 {
        self.0[way % WAYS].get()
    }
    fn store(&self, way: usize, entry: u64) {
        self.0[way % WAYS].set(entry);
    }
}

impl<T: Tables> Tables for Dry<'_, T> {
    type Set = SetCopy;

    fn slot(&self, index: u32) -> Option<Slot> {
        self.tables.slot(index)
    }
    fn before(&self, index: u32) -> Option<u16> {
        self.tables.before(index)
    }
    fn is_alive(&self, backend: u32) -> bool {
        self.tables.is_alive(backend)
    }
    fn flow_set(&self, hash: FlowHash) -> Option<SetCopy> {
        let set = self.tables.flow_set(hash)?;
        Some(SetCopy(std::array::from_fn(|way| Cell::new(set.load(way)))))
    }
    fn tick(&self) -> u16 {
        self.tables.tick()
    }
    /// The packet that asks tells more, and goes to the same backend.
    fn sample(&self, _hash: FlowHash) -> bool {
        true
    }
    /// To ask would count the flow. That `new_flow_limit` is reached in this very second is for the counters to say.
    fn admit(&self, _service: u16, limit: u32) -> bool {
        limit > 0
    }
    fn count(&self, event: FlowEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl<T: classify::Tables> classify::Tables for Dry<'_, T> {
    fn vip_bank(&self) -> u32 {
        self.tables.vip_bank()
    }
    fn vip_slots(&self) -> u32 {
        self.tables.vip_slots()
    }
    fn vip_slot(&self, index: u32) -> Option<&VipSlot> {
        self.tables.vip_slot(index)
    }
    fn port_page(&self, index: u32) -> Option<&PortPage> {
        self.tables.port_page(index)
    }
}

impl<T: affinity::Tables> affinity::Tables for Dry<'_, T> {
    fn server_id(&self, index: u32) -> Option<[u64; 2]> {
        self.tables.server_id(index)
    }
    fn admits(&self, service: u16, client: Words) -> bool {
        self.tables.admits(service, client)
    }
}
