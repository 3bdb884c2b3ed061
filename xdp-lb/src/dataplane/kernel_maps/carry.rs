//! From maps of other sizes: what is carried over, so that a program on new maps sends every flow where the old one did.
//!
//! Services, members, rings and counters keep their places, so flow entries, which name them, stay true. The VIP table, whose
//! places depend on its size, and everything else that the configuration alone decides, the next plan writes.
//!
//! A flow entry knows its tag and its set. In a table with fewer sets two sets become one; in one with more, a set's
//! entries go to every set that they may be in: one of the copies is found, the others expire.

use std::io;
use std::mem::offset_of;

use bytemuck::Pod;
use xdp_lb_common::{
    backend::BACKEND_USED,
    control::Control,
    flow::FlowEntry,
    names::{BACKEND_STATS, BACKENDS, PORTS, RINGS, SERVICES},
    service::{Service, ServiceConfig},
    stats::NO_STATS,
};

use super::{KernelMaps, PerCpu, PoisonError};
use crate::{
    dataplane::{errors, mapped::Mapped},
    peers::exceptions::{Placement, Refusal},
    state::{Capacity, Maps as _, Place},
};

/// A size that is too small for what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Map.
    pub map: &'static str,
    /// Elements that are needed.
    pub needed: u64,
    /// Elements that there would be.
    pub wanted: u64,
}

/// What became of the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Flows that are remembered in the new table and were not before.
    pub flows: u64,
    /// Flows for which their set has no free way.
    pub lost: u64,
}

impl KernelMaps {
    /// Whether what is in use finds room at the same places in maps of these sizes.
    ///
    /// # Errors
    /// The first map that is too small.
    pub fn fit(&self, into: &Capacity) -> Result<(), TooSmall> {
        let observed = self.observe();
        let block = |place: &Place| observed.rings.get(place).map_or(0, |ring| u64::from(ring.block));
        let members = observed.rings.keys().map(|place| u64::from(place.backend_base) + block(place));
        let slots =
            observed.rings.keys().map(|place| u64::from(place.slot_base) + u64::from(place.table_size));
        let counted = observed.services.values().map(Service::config).filter(|c| c.stats_base != NO_STATS);
        let stats =
            counted.map(|config: &ServiceConfig| u64::from(config.stats_base) + block(&Place::of(config)));
        let services = observed.services.keys().map(|&id| u64::from(id) + 1);
        // A service's port slices keep their pages.
        let pages = observed.pages.keys().map(|&page| u64::from(page) + 1);
        let needs = [
            (SERVICES, services.max(), into.services),
            (PORTS, pages.max(), into.port_pages),
            (BACKENDS, members.max(), into.backends),
            (RINGS, slots.max(), into.ring_slots),
            (BACKEND_STATS, stats.max(), into.backend_stats),
        ];
        for (map, needed, wanted) in needs {
            if let Some(needed) = needed.filter(|&needed| needed > wanted.into()) {
                return Err(TooSmall { map, needed, wanted: wanted.into() });
            }
        }
        Ok(())
    }

    /// Writes everything but flows and what the next plan decides into `to`, which no packet reads yet.
    ///
    /// # Errors
    /// When `to` was opened to read.
    pub fn carry_over(&self, to: &Self) -> io::Result<()> {
        copy(&self.ports, &to.ports)?;
        copy(&self.services, &to.services)?;
        copy(&self.rings, &to.rings)?;
        copy(&self.rings_before, &to.rings_before)?;
        copy(&self.path_mtus, &to.path_mtus)?;
        copy(&self.sources, &to.sources)?;
        for index in 0..self.backends.len().min(to.backends.len()) {
            if let Some(backend) = self.backends.read(index)
                && (backend.state & BACKEND_USED != 0 || backend.block_len != 0)
            {
                to.backends.write(index, &backend)?;
            }
        }
        counters(&self.counters, &to.counters)?;
        counters(&self.service_stats, &to.service_stats)?;
        counters(&self.backend_stats, &to.backend_stats)?;
        let Control { generation, decap_bank, mss, .. } = self.control();
        to.control.store_u32(0, offset_of!(Control, decap_bank), decap_bank)?;
        to.control.store_u32(0, offset_of!(Control, mss), mss)?;
        to.control.store_u32(0, offset_of!(Control, generation), generation)
    }

    /// Remembers in `to` what is remembered here and not there.
    ///
    /// # Errors
    /// When the clock cannot be read, or `to` was opened to read.
    pub fn carry_flows(&self, to: &Self) -> io::Result<Carried> {
        self.carry_pod_flows(to)?;
        let tick = to.tick()?;
        let mut carried = Carried::default();
        let (ours, theirs) = (self.flows.len(), to.flows.len());
        for (set, ways) in self.flow_sets() {
            let live = ways.entries.into_iter().map(FlowEntry).filter(|entry| !entry.is_free(tick));
            for entry in live {
                let sets = (set & (theirs - 1)..theirs).step_by(ours as usize);
                let mut done = Ok(());
                for set in sets {
                    done = done.and(to.remember(Placement { set, entry }, tick)?);
                }
                match done {
                    Ok(()) => carried.flows += 1,
                    Err(Refusal::Full) => carried.lost += 1,
                    Err(_) => {}
                }
            }
        }
        Ok(carried)
    }

    /// The same of pods' flows: until a client speaks again, answers would leave from the pod's own address.
    fn carry_pod_flows(&self, to: &Self) -> io::Result<()> {
        /// `BPF_NOEXIST`.
        const IF_NEW: u64 = 1;
        let ours = self.pod_flows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut theirs = to.pod_flows.lock().unwrap_or_else(PoisonError::into_inner);
        // One that goes while it is read is not there any more.
        for (flow, peer) in ours.iter().filter_map(Result::ok) {
            match theirs.insert(flow, peer, IF_NEW).map_err(errors::map) {
                Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn copy<T: Pod>(from: &Mapped<T>, to: &Mapped<T>) -> io::Result<()> {
    (0..from.len().min(to.len()))
        .filter_map(|i| Some((i, from.read(i)?)))
        .try_for_each(|(i, v)| to.write(i, &v))
}

/// Counters of each CPU and element; the CPUs are the same.
fn counters<T: Pod>(from: &PerCpu<T>, to: &PerCpu<T>) -> io::Result<()> {
    for element in 0..from.len.min(to.len) {
        for (from_index, to_index) in from.indices(element)?.zip(to.indices(element)?) {
            if let Some(value) = from.all.read(from_index) {
                to.all.write(to_index, &value)?;
            }
        }
    }
    Ok(())
}
