//! Reads the backend side's section. Called by [`super::sections`].

use std::net::IpAddr;

use super::draft::{DecapDraft, GUE_PORT, Kind};
use super::finding::Placed;
use super::keys;
use super::leaf;
use super::reader::Item;
use super::sections::{addresses, interfaces};
use crate::model::Mss;

/// Reads the section. `None` if it is no mapping. With a cluster, that names sources and VIPs.
pub(super) fn read(item: &Item<'_>, has_cluster: bool) -> Option<DecapDraft> {
    let keys = item.mapping(&keys::DECAP)?;
    let accept: Option<Vec<Kind>> = keys.get("accept").map(|item| {
        let kind =
            |item: &Item<'_>| item.leaf(leaf::choice(&[("ipip", Kind::Ipip), ("gue", Kind::Gue)], &[]));
        item.one_or_more().iter().filter_map(kind).collect()
    });
    let accepts = |kind| accept.as_ref().map_or(kind == Kind::Ipip, |kinds| kinds.contains(&kind));
    let gue_port = keys.leaf("gue_port", GUE_PORT, leaf::number(1..=u16::MAX)).unwrap_or_default();
    let mss = keys.leaf("mss", Mss::Auto, leaf::choice(&[("auto", Mss::Auto), ("off", Mss::Off)], &[]));
    let needed = |key, example| if has_cluster { keys.get(key) } else { keys.required(key, example) };
    let allow_sources = needed("allow_sources", "[172.16.0.0/16]").map(|item| allow_sources(&item));
    let vips = needed("vips", "[203.0.113.10]").map(|item| addresses(&item));
    Some(DecapDraft {
        spot: keys.spot.clone(),
        interfaces: keys.get("interfaces").map(|item| interfaces(&item, &keys::DECAP_INTERFACE)),
        ipip: accepts(Kind::Ipip),
        gue: accepts(Kind::Gue).then_some(gue_port),
        allow_sources: allow_sources.unwrap_or_default(),
        vips: vips.unwrap_or_default(),
        vip_on_lo: keys.leaf("vip_on_lo", true, leaf::boolean).unwrap_or_default(),
        mss: mss.unwrap_or_default(),
    })
}

fn allow_sources(item: &Item<'_>) -> Vec<Placed<(IpAddr, u8)>> {
    if item.list_is_empty() {
        item.fail(
            "is empty, which would let nobody in; name the balancers' encap sources, as in [172.16.0.0/16]",
        );
        return Vec::new();
    }
    let mut sources: Vec<Placed<(IpAddr, u8)>> = Vec::new();
    for source in item.one_or_more().iter().filter_map(|item| item.placed(leaf::prefix)) {
        match sources.iter().find(|other| other.value == source.value) {
            Some(first) => {
                item.findings.error(&source.spot, format!("is listed twice, first as {}", first.spot.path))
            }
            None => sources.push(source),
        }
    }
    sources
}
