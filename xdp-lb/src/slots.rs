//! The life of a slot of a live ring: what is stored when its backend changes, and when it is clean again.
//!
//! ```text
//!            target changes: before = old backend
//!   clean A ------------------------------------> dirty B, before A --. target changes:
//!      ^                                             |    ^-----------' `before` stays while it is alive
//!      '------------- settled(): nobody is left -----'
//! ```
//!
//! Pure decisions: the one task that writes maps calls them and does the stores; the flow-table model in
//! the tests runs on them too. See DESIGN, "Dirty slots".

use std::time::Duration;

use xdp_lb_common::ring::{NO_BACKEND, Slot};

/// A slot as the ring holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The slot itself.
    pub now: Slot,
    /// Ring-local backend from before the change; read by packets, and meaningful, only while `now` is dirty.
    pub before: u16,
}

/// The stores that change a slot.
///
/// Order matters: `before` first, then `now`, the latter with release ordering. A packet that sees the
/// dirty bit then also sees whom the slot belonged to. The other way round a dirty slot would for a moment
/// show the `before` of an earlier change, and a connection would move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWrite {
    /// First store, if any.
    pub before: Option<u16>,
    /// Second store.
    pub now: Slot,
}

impl SlotWrite {
    /// The slot after both stores.
    #[must_use]
    pub fn applied_to(self, held: Held) -> Held {
        Held { now: self.now, before: self.before.unwrap_or(held.before) }
    }
}

/// What to store so that the slot belongs to `target`, a ring-local backend or [`NO_BACKEND`]; `None` when
/// it does already (a dirty slot then stays dirty, with its `before`).
///
/// `alive` says of a ring-local backend whether packets have been going to it **up to this store**: its
/// `BACKEND_ALIVE` bit in the map, before the plan at hand sets it for one that returns. `before` is to be
/// the backend that an unknown segment of an old connection goes to, and while `before` is dead that is `now`:
/// such a slot changes as if it had been cleaned, and the outcome does not depend on whether a scan
/// came by in the meantime.
///
/// The new target of a dirty slot may be its `before`: flows that began in between are remembered,
/// and the slot stays dirty for them.
#[must_use]
pub fn retarget(held: Held, target: u16, alive: impl Fn(u16) -> bool) -> Option<SlotWrite> {
    let now = held.now.backend();
    if now == target {
        return None;
    }
    if held.now.is_dirty() && alive(held.before) {
        return Some(SlotWrite { before: None, now: Slot::dirty(target) });
    }
    if now != NO_BACKEND {
        // Also when the target is nobody: connections older than the change still find their backend.
        return Some(SlotWrite { before: Some(now), now: Slot::dirty(target) });
    }
    // The slot belonged to nobody, so there is no older backend to protect: every packet that was not of a
    // remembered flow was dropped. A clean slot has no remembered flow worth a lookup either (or it would
    // not have been clean). A dirty one may: it stays dirty, and `before` names the target, so that unknown
    // packets need not care and NO_BACKEND never stands in `before`.
    Some(if held.now.is_dirty() {
        SlotWrite { before: Some(target), now: Slot::dirty(target) }
    } else {
        SlotWrite { before: None, now: Slot::clean(target) }
    })
}

/// What is known about a dirty slot when a scan of the flow table has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The scan saw a live entry of this slot that names another backend than `now`, and an alive one.
    pub differs: bool,
    /// `before` may still get packets: false when it is down, gone, or past its drain's `max`.
    pub before_alive: bool,
    /// When the slot last changed. Unknown after a restart: take the restart.
    pub changed: Duration,
    /// When the scan read its first set, on the same clock. Entries of a change within the scan were not all seen.
    pub scan_started: Duration,
    /// After so long an unknown flow is a forgotten one: the longest `flow_timeout` among the ring's services.
    pub flow_timeout: Duration,
}

/// Whether a dirty slot may become clean, by one store of [`Slot::clean`] of its backend. A clean slot
/// has nothing to settle: false.
///
/// The scan must have begun an RCU grace period after the slot's last change: add it to `changed`.
#[must_use]
pub fn settled(held: Held, evidence: Evidence) -> bool {
    let Evidence { differs, before_alive, changed, scan_started, flow_timeout } = evidence;
    let Some(age) = scan_started.checked_sub(changed) else { return false };
    // Where `before` is `now` again, unknown flows go there whether the slot is clean or not.
    let nobody_older = !before_alive || held.before == held.now.backend() || age >= flow_timeout;
    held.now.is_dirty() && !differs && nobody_older
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = 0;
    const B: u16 = 1;
    const C: u16 = 2;
    const STALE: u16 = 99;

    fn clean(now: u16) -> Held {
        Held { now: Slot::clean(now), before: STALE }
    }

    fn dirty(now: u16, before: u16) -> Held {
        Held { now: Slot::dirty(now), before }
    }

    /// Name, slot, target, alive, slot afterwards (`None`: untouched).
    type Row = (&'static str, Held, u16, &'static [u16], Option<Held>);

    #[test]
    fn transitions() {
        let rows: &[Row] = &[
            ("clean, same target", clean(A), A, &[A], None),
            ("clean, new target", clean(A), B, &[A, B], Some(dirty(B, A))),
            ("clean, its backend died", clean(A), B, &[B], Some(dirty(B, A))),
            ("clean, nobody left to take it", clean(A), NO_BACKEND, &[A], Some(dirty(NO_BACKEND, A))),
            ("nobody's, first backend", clean(NO_BACKEND), A, &[A], Some(Held { ..clean(A) })),
            ("nobody's, nobody", clean(NO_BACKEND), NO_BACKEND, &[], None),
            ("dirty, same target", dirty(B, A), B, &[A, B], None),
            ("dirty, third backend", dirty(B, A), C, &[A, B, C], Some(dirty(C, A))),
            ("dirty, back again", dirty(B, A), A, &[A, B], Some(dirty(A, A))),
            ("dirty, nobody", dirty(B, A), NO_BACKEND, &[A], Some(dirty(NO_BACKEND, A))),
            ("dirty, before died: now is the older one", dirty(B, A), C, &[B, C], Some(dirty(C, B))),
            ("dirty, before died and returns", dirty(B, A), A, &[B], Some(dirty(A, B))),
            ("dirty nobody, before drains", dirty(NO_BACKEND, A), B, &[A, B], Some(dirty(B, A))),
            ("dirty nobody, before died", dirty(NO_BACKEND, A), B, &[B], Some(dirty(B, B))),
        ];
        for &(name, held, target, alive, want) in rows {
            let got = retarget(held, target, |b| alive.contains(&b)).map(|write| write.applied_to(held));
            assert_eq!(got, want, "{name}");
        }
    }

    /// Whatever happens, `before` never names nobody in a dirty slot: the packet path may index with it.
    #[test]
    fn before_of_a_dirty_slot_is_a_backend() {
        for start in [clean(A), clean(NO_BACKEND)] {
            for path in 0..4u32.pow(6) {
                let mut held = start;
                for step in 0..6 {
                    let target = [A, B, C, NO_BACKEND][(path / 4u32.pow(step) % 4) as usize];
                    if let Some(write) = retarget(held, target, |b| b == C) {
                        held = write.applied_to(held);
                    }
                    assert!(!held.now.is_dirty() || held.before <= C, "{held:?}");
                }
            }
        }
    }

    #[test]
    fn a_dirty_slot_settles_when_nobody_is_left() {
        let seconds = Duration::from_secs;
        let wait = Evidence {
            differs: false,
            before_alive: true,
            changed: seconds(100),
            scan_started: seconds(110),
            flow_timeout: seconds(60),
        };
        let slot = dirty(B, A);
        assert!(!settled(slot, wait), "idle connections of an alive `before`");
        assert!(settled(slot, Evidence { before_alive: false, ..wait }), "before is down, gone or past max");
        assert!(settled(slot, Evidence { scan_started: seconds(160), ..wait }), "flow_timeout has passed");
        assert!(!settled(slot, Evidence { scan_started: seconds(159), ..wait }), "not yet");
        assert!(settled(dirty(A, A), wait), "back at its backend");
        assert!(!settled(dirty(A, A), Evidence { differs: true, ..wait }), "but flows from in between");
        assert!(
            !settled(slot, Evidence { differs: true, before_alive: false, ..wait }),
            "remembered elsewhere"
        );
        assert!(!settled(clean(B), Evidence { before_alive: false, ..wait }), "nothing to do");
        let raced = Evidence { before_alive: false, changed: seconds(111), ..wait };
        assert!(!settled(slot, raced), "changed after the scan began");
    }
}
