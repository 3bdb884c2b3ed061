//! When slots changed: what the maps do not say, kept by whoever writes them.
//!
//! A dirty slot may become clean when its last change is a `flow_timeout` ago ([`crate::slots`]). Whoever changes rings
//! notes every operation here. Seconds are enough, and a ring whose slots never changed costs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use xdp_lb_common::service::ServiceConfig;

use crate::state::{MapOp, Observed, Place};

/// Times of changes, in whole seconds on the clock of whoever notes them.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// By the first slot of a ring, then by slot; 0 for unknown.
    rings: BTreeMap<u32, Vec<u32>>,
}

impl Times {
    /// Takes down an operation that is carried out `now`; `observed` is from before the plan that it belongs to.
    pub fn note(&mut self, op: &MapOp, observed: &Observed, now: Duration) {
        match op {
            MapOp::PutRing { base, .. } => _ = self.rings.remove(base),
            MapOp::CopyRing { from, base, .. } => {
                let times = self.rings.get(from).cloned().unwrap_or_default();
                self.rings.insert(*base, times);
            }
            MapOp::SetSlots { base, changes } => {
                let times = self.rings.entry(*base).or_default();
                let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
                for change in changes {
                    let slot = change.slot as usize;
                    if times.len() <= slot {
                        times.resize(slot + 1, 0);
                    }
                    times[slot] = now;
                }
            }
            MapOp::SetService { id, config } => self.join(*id, config, observed),
            _ => {}
        }
    }

    /// When a slot of the ring that begins at `base` last changed; `None` when that was before anything was noted.
    #[must_use]
    pub fn changed(&self, base: u32, slot: u32) -> Option<Duration> {
        let seconds = *self.rings.get(&base)?.get(slot as usize)?;
        (seconds != 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Forgets rings that are gone.
    pub fn keep(&mut self, observed: &Observed) {
        let there = |base: u32| observed.rings.keys().any(|place| place.slot_base == base);
        self.rings.retain(|&base, _| there(base));
    }

    /// A service that goes over to another ring brings along when the slots of its own changed.
    fn join(&mut self, id: u16, config: &ServiceConfig, observed: &Observed) {
        let Some(service) = observed.services.get(&id) else { return };
        let (old, new) = (Place::of(service.config()), Place::of(config));
        if old == new || !observed.rings.contains_key(&new) {
            return;
        }
        let Some(brought) = self.rings.get(&old.slot_base).cloned() else { return };
        let times = self.rings.entry(new.slot_base).or_default();
        times.resize(times.len().max(brought.len()), 0);
        times.iter_mut().zip(brought).for_each(|(time, brought)| *time = brought.max(*time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryMaps;
    use crate::state::{Capacity, Maps as _, SlotChange};
    use bytemuck::Zeroable as _;
    use xdp_lb_common::control::Control;
    use xdp_lb_common::service::Service;

    const NOW: Duration = Duration::from_secs(7);
    const LATER: Duration = Duration::from_secs(9);

    fn change(base: u32, slot: u32) -> MapOp {
        MapOp::SetSlots { base, changes: vec![SlotChange { slot, before: None, now: 0 }] }
    }

    /// Two services on rings of their own, at 0 and at 4.
    fn observed() -> Observed {
        let capacity = Capacity {
            services: 4,
            vip_slots: 2,
            port_pages: 1,
            backends: 4,
            ring_slots: 16,
            flow_sets: 1,
            backend_stats: 1,
            tx_ports: 1,
            server_ids: 1,
            source_ranges: 1,
        };
        let mut maps = MemoryMaps::new(capacity, Control::default());
        for id in [1, 2] {
            let config = config(id);
            let entry = Box::new(Service { used: 1, configs: [config; 2], ..Service::zeroed() });
            maps.apply(&MapOp::PutService { id, entry }).unwrap();
        }
        maps.observe()
    }

    fn config(ring: u16) -> ServiceConfig {
        let base = u32::from(ring - 1) * 4;
        ServiceConfig { slot_base: base, table_size: 3, backend_base: base, ..ServiceConfig::default() }
    }

    #[test]
    fn a_copy_is_as_old_as_what_it_is_a_copy_of() {
        let (mut times, observed) = (Times::default(), observed());
        times.note(&change(0, 1), &observed, NOW);
        times.note(&MapOp::CopyRing { from: 0, base: 8, len: 3 }, &observed, LATER);
        assert_eq!([0, 1, 2].map(|slot| times.changed(8, slot)), [None, Some(NOW), None]);
        times.note(&change(8, 1), &observed, LATER);
        assert_eq!((times.changed(0, 1), times.changed(8, 1)), (Some(NOW), Some(LATER)));
        times.note(&MapOp::PutRing { base: 8, slots: vec![0; 3] }, &observed, LATER);
        assert_eq!(times.changed(8, 1), None);
        times.keep(&observed);
        assert_eq!(times.changed(0, 1), Some(NOW));
    }

    #[test]
    fn rings_that_join_are_as_young_as_the_younger() {
        let (mut times, observed) = (Times::default(), observed());
        times.note(&change(0, 0), &observed, NOW);
        times.note(&change(0, 1), &observed, LATER);
        times.note(&change(4, 0), &observed, LATER);
        times.note(&change(4, 2), &observed, NOW);
        times.note(&MapOp::SetService { id: 2, config: config(2) }, &observed, LATER);
        assert_eq!(times.changed(0, 2), None, "a service that stays brings nothing");
        times.note(&MapOp::SetService { id: 2, config: config(1) }, &observed, LATER);
        assert_eq!([0, 1, 2].map(|slot| times.changed(0, slot)), [Some(LATER), Some(LATER), Some(NOW)]);
    }
}
