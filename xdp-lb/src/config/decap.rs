//! Reads the backend side's section. Called by [`super::sections`].

use std::net::IpAddr;

use super::draft::{DecapDraft, GUE_PORT, Kind};
use super::finding::Placed;
use super::keys;
use super::leaf;
use super::reader::{Item, must_be};
use super::sections::{addresses, interfaces};

/// Reads the section. `None` if it is no mapping.
pub(super) fn read(item: &Item<'_>) -> Option<DecapDraft> {
    let keys = item.mapping(&keys::DECAP)?;
    let accept: Option<Vec<Kind>> = keys.get("accept").map(|item| {
        let kind =
            |item: &Item<'_>| item.leaf(leaf::choice(&[("ipip", Kind::Ipip), ("gue", Kind::Gue)], &[]));
        item.one_or_more().iter().filter_map(kind).collect()
    });
    let accepts = |kind| accept.as_ref().map_or(kind == Kind::Ipip, |kinds| kinds.contains(&kind));
    let gue_port = keys.leaf("gue_port", GUE_PORT, leaf::number(1..=u16::MAX)).unwrap_or_default();
    keys.leaf("mss", (), |text| match text {
        "off" => Ok(()),
        "auto" => Err("`auto` is not supported yet; use off".to_owned()),
        _ => must_be("off", text),
    });
    let allow_sources = keys.required("allow_sources", "[172.16.0.0/16]").map(|item| allow_sources(&item));
    let vips = keys.required("vips", "[203.0.113.10]").map(|item| addresses(&item));
    Some(DecapDraft {
        spot: keys.spot.clone(),
        interfaces: keys.get("interfaces").map(|item| interfaces(&item, &keys::DECAP_INTERFACE)),
        ipip: accepts(Kind::Ipip),
        gue: accepts(Kind::Gue).then_some(gue_port),
        allow_sources: allow_sources.unwrap_or_default(),
        vips: vips.unwrap_or_default(),
        vip_on_lo: keys.leaf("vip_on_lo", true, leaf::boolean).unwrap_or_default(),
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
