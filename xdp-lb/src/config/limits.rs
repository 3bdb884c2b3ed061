//! Reads `limits`, and `metrics`, one key of which is another name of a limit. Called by [`super::sections`].

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::draft::LimitsDraft;
use super::finding::Placed;
use super::keys;
use super::leaf;
use super::reader::Mapping;
use crate::model::{Limits, Metrics};

/// Pairs with counters of their own.
const PAIRS: RangeInclusive<u32> = 0..=1 << 20;

/// Reads both sections. `None` after a mistake in either.
pub(super) fn read(file: &Mapping<'_>) -> Option<LimitsDraft> {
    let default = Limits::default();
    let metrics = file.section("metrics", &keys::METRICS);
    let keys = file.section("limits", &keys::LIMITS)?;
    let mut spots = HashMap::new();
    let mut size = |key, default, range| {
        let Placed { value, spot } = keys.placed(key, default, leaf::number(range))?;
        spots.insert(key, spot);
        Some(value)
    };
    let services = size("services", default.services, 1..=16_383);
    let vips = size("vips", default.vips, 1..=1 << 20);
    let backends = size("backends", default.backends, 1..=1 << 20);
    let ring_slots = size("ring_slots", default.ring_slots, 1..=1 << 28);
    let port_pages = size("port_pages", default.port_pages, 1..=1 << 20);
    let server_ids = size("server_ids", default.server_ids, 1..=1 << 20);
    let source_ranges = size("source_ranges", default.source_ranges, 1..=1 << 24);
    let pod_ports = size("pod_ports", default.pod_ports, 1..=1 << 20);
    let pod_flows = size("pod_flows", default.pod_flows, 1024..=1 << 24);
    let fragments = keys.leaf("fragments", default.fragments, leaf::table_entries);
    let metrics = metrics?;
    let listen = match metrics.get("listen") {
        Some(item) => item.leaf(leaf::listener).map(Some),
        None => Some(None),
    };
    let pairs = pairs(&keys, &metrics, default.backend_stats)?;
    spots.insert("backend_stats", pairs.spot);
    let value = Limits {
        services: services?,
        vips: vips?,
        backends: backends?,
        ring_slots: ring_slots?,
        port_pages: port_pages?,
        fragments: fragments?,
        backend_stats: pairs.value,
        server_ids: server_ids?,
        source_ranges: source_ranges?,
        pod_ports: pod_ports?,
        pod_flows: pod_flows?,
    };
    Some(LimitsDraft { value, spots, metrics: Metrics { listen: listen? } })
}

/// The one limit with two names: both may be written if they agree.
fn pairs(limits: &Mapping<'_>, metrics: &Mapping<'_>, default: u32) -> Option<Placed<u32>> {
    let Some(series) = metrics.get("per_backend") else {
        return limits.placed("backend_stats", default, leaf::number(PAIRS));
    };
    let series = series.placed(leaf::number(PAIRS));
    let Some(stats) = limits.get("backend_stats") else {
        return series;
    };
    let (stats, series) = (stats.placed(leaf::number(PAIRS))?, series?);
    if stats.value != series.value {
        let (a, b) = (stats.value, series.value);
        let message = format!("is {a} but metrics.per_backend is {b}; they are one limit, give one of them");
        limits.findings.error(&stats.spot, message);
    }
    Some(stats)
}
