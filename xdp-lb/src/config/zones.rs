//! `zone_policy` of a service: reads it, and says what in it is a mistake or seldom meant.

use super::draft::ServiceDraft;
use super::finding::{Findings, Placed};
use super::keys;
use super::leaf;
use super::reader::{Mapping, must_be};
use crate::model::{Share, ZonePolicy};

const SPILL_BELOW: f64 = 0.5;

/// What a service says.
pub(super) fn policy(keys: &Mapping<'_>) -> Option<Placed<ZonePolicy>> {
    let item = keys.get("zone_policy")?;
    let (spot, keys) = (item.spot.clone(), item.mapping(&keys::ZONE_POLICY)?);
    keys.required("prefer", "local").and_then(|item| item.leaf(leaf::choice(&[("local", ())], &[])));
    let some = |text: &str| match leaf::share(text)? {
        Share::NONE => must_be("more than 0%: at 0% no other zone is ever used", text),
        share => Ok(share),
    };
    let spill_below = keys.leaf("spill_below", Share::from_fraction(SPILL_BELOW), some)?;
    Some(Placed { value: ZonePolicy { spill_below }, spot })
}

/// Whether the node and the backends have what a policy needs.
pub(super) fn check(service: &ServiceDraft, zone: Option<&str>, findings: &Findings) {
    let (Some(policy), Some(backends)) = (&service.zone_policy, &service.backends) else { return };
    let spot = &policy.spot;
    let Some(zone) = zone else {
        return findings.error(spot, "needs the zone that this node is in; add `zone` to `node`");
    };
    let is_local = |own: &Option<String>| own.as_deref() == Some(zone);
    let local = backends.items().iter().filter(|b| is_local(&b.value.zone)).count();
    if local == 0 && !backends.items().is_empty() {
        findings.warn(
            spot,
            format!("no backend is in this node's zone {zone}: all take flows as if it were not there"),
        );
    } else if local < backends.items().len() {
        findings.warn(
            spot,
            "edge nodes of other zones choose otherwise: where routers spread one VIP over nodes of several zones, a flow \
             that moves to another node may meet another backend",
        );
    }
}
