//! Reads the backend side's section. Called by [`super::sections`].

use std::net::IpAddr;

use super::draft::{DecapDraft, GUE_PORT, Kind, TranslateDraft};
use super::finding::Placed;
use super::keys;
use super::leaf;
use super::reader::Item;
use super::sections::{addresses, interfaces};
use crate::model::{Mss, Protocol};

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
    let translated = keys.get("translate");
    // Where every VIP is a pod's, the node itself needs none; a node without pods has an empty list.
    let vips = if translated.is_some() { keys.get("vips") } else { needed("vips", "[203.0.113.10]") };
    let vips = vips.map(|item| addresses(&item));
    let translate = translated.and_then(|item| item.list()).unwrap_or_default();
    Some(DecapDraft {
        spot: keys.spot.clone(),
        interfaces: keys.get("interfaces").map(|item| interfaces(&item, &keys::DECAP_INTERFACE)),
        ipip: accepts(Kind::Ipip),
        gue: accepts(Kind::Gue).then_some(gue_port),
        allow_sources: allow_sources.unwrap_or_default(),
        vips: vips.unwrap_or_default(),
        vip_on_lo: keys.leaf("vip_on_lo", true, leaf::boolean).unwrap_or_default(),
        mss: mss.unwrap_or_default(),
        translate: translate.iter().filter_map(read_translate).collect(),
    })
}

/// One entry; `None` after a mistake.
fn read_translate(item: &Item<'_>) -> Option<TranslateDraft> {
    let keys = item.mapping(&keys::DECAP_TRANSLATE)?;
    let vip = keys.required("vip", "203.0.113.10").and_then(|item| item.placed(leaf::host_address));
    let protocol = leaf::choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], &[]);
    let protocol = keys.required("protocol", "tcp").and_then(|item| item.leaf(protocol));
    let port = keys.required("port", "80").and_then(|item| item.leaf(leaf::number(1..=u16::MAX)));
    let target = keys.leaf("target_port", port.unwrap_or_default(), leaf::number(1..=u16::MAX));
    let pods = keys.required("pods", "[10.244.1.7]").map(|item| addresses(&item));
    let (vip, pods) = (vip?, pods?);
    for pod in pods.iter().filter(|pod| pod.value.is_ipv4() != vip.value.is_ipv4()) {
        let message = format!(
            "{} is of another family than the VIP {}; a tunnel to a pod carries packets of the pod's own family",
            pod.value, vip.value
        );
        item.findings.error(&pod.spot, message);
    }
    Some(TranslateDraft { vip, protocol: protocol?, port: port?, target: target?, pods })
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
