//! What a cluster lets a backend's node take off, beside what the file says. Called by whoever feeds the reconciler.
//!
//! As with services beside the file's ([`super::beside`]), the file comes first, and what does not fit is left out and
//! told. The same content gives the same outcome on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xdp_lb_common::decap::MAX_SOURCES;

use crate::model::Desired;

/// What a cluster names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Inner destinations, and whether the host itself is to have them.
    pub vips: BTreeMap<IpAddr, OnHost>,
    /// Outer sources: network address and prefix length.
    pub sources: BTreeSet<(IpAddr, u8)>,
}

/// Whether the host itself is to have a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHost {
    /// On `lo`.
    Yes,
    /// No: somebody translates before it would matter.
    No,
}

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// VIPs beyond `limits.vips`.
    pub vips: Vec<IpAddr>,
    /// Sources beyond what the kernel half compares with.
    pub sources: Vec<(IpAddr, u8)>,
}

/// The file's state with what the cluster names, where the file has a backend side.
#[must_use]
pub fn accept(file: &Desired, cluster: &Accepted) -> (Desired, LeftOut) {
    let (mut desired, mut left) = (file.clone(), LeftOut::default());
    let Some(decap) = &mut desired.decap else { return (desired, left) };
    let mut taken: BTreeSet<IpAddr> =
        file.vips.iter().map(|vip| vip.address).chain(decap.vips.iter().copied()).collect();
    for (&vip, &on_host) in &cluster.vips {
        if !taken.contains(&vip) && taken.len() >= file.limits.vips as usize {
            left.vips.push(vip);
            continue;
        }
        taken.insert(vip);
        decap.vips.push(vip);
        if decap.vip_on_lo && on_host == OnHost::Yes {
            decap.on_lo.push(vip);
        }
    }
    for list in [&mut decap.vips, &mut decap.on_lo] {
        list.sort_unstable();
        list.dedup();
    }
    for &source in &cluster.sources {
        if decap.allow_sources.iter().any(|&wide| covers(wide, source)) {
            continue;
        }
        let of_family = decap.allow_sources.iter().filter(|(a, _)| a.is_ipv4() == source.0.is_ipv4());
        if of_family.count() < MAX_SOURCES {
            decap.allow_sources.push(source);
        } else {
            left.sources.push(source);
        }
    }
    decap.allow_sources.sort_unstable();
    (desired, left)
}

/// Whether all of `narrow` is in `wide`.
fn covers(wide: (IpAddr, u8), narrow: (IpAddr, u8)) -> bool {
    let same = |a: u128, b: u128, bits: u32| {
        let rest = bits - u32::from(wide.1);
        wide.1 <= narrow.1 && a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (wide.0, narrow.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Decap;

    fn file(more: &str) -> Desired {
        let text =
            format!("version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}] {more} }}\nkubernetes: {{}}\n");
        crate::config::parse(&text).unwrap_or_else(|e| panic!("{e:?}")).desired
    }

    fn cluster(vips: &[(&str, OnHost)], sources: &[&str]) -> Accepted {
        Accepted {
            vips: vips.iter().map(|(vip, on)| (vip.parse().unwrap(), *on)).collect(),
            sources: sources.iter().map(|text| crate::config::values::prefix(text).unwrap()).collect(),
        }
    }

    fn decap(file: &Desired, cluster: &Accepted) -> (Decap, LeftOut) {
        let (desired, left) = accept(file, cluster);
        (desired.decap.unwrap(), left)
    }

    fn shown(decap: &Decap) -> (Vec<String>, Vec<String>, Vec<String>) {
        let all = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect();
        let sources = decap.allow_sources.iter().map(|(a, length)| format!("{a}/{length}")).collect();
        (all(&decap.vips), all(&decap.on_lo), sources)
    }

    #[test]
    fn nothing_is_accepted_before_the_cluster_is_known() {
        let (decap, left) = decap(&file(""), &Accepted::default());
        assert_eq!((shown(&decap), left), (Default::default(), LeftOut::default()));
    }

    #[test]
    fn the_cluster_stands_beside_the_file() {
        let file = file(", vips: 203.0.113.1, allow_sources: [172.16.0.0/16]");
        let vips = [("203.0.113.10", OnHost::No), ("203.0.113.1", OnHost::No), ("203.0.113.11", OnHost::Yes)];
        let (decap, left) = decap(&file, &cluster(&vips, &["172.16.3.0/24", "10.0.0.1/32", "fd00::1/128"]));
        let text = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let wanted = (
            text(&["203.0.113.1", "203.0.113.10", "203.0.113.11"]),
            text(&["203.0.113.1", "203.0.113.11"]),
            text(&["10.0.0.1/32", "172.16.0.0/16", "fd00::1/128"]),
        );
        assert_eq!((shown(&decap), left), (wanted, LeftOut::default()));
    }

    #[test]
    fn nothing_is_put_on_lo_where_the_file_does_not_want_it() {
        let (decap, _) = decap(&file(", vip_on_lo: false"), &cluster(&[("203.0.113.10", OnHost::Yes)], &[]));
        assert!(decap.on_lo.is_empty() && decap.vips.len() == 1);
    }

    #[test]
    fn what_does_not_fit_is_told_and_the_rest_stays() {
        let mut file = file("");
        file.limits.vips = 1;
        let vips = [("203.0.113.10", OnHost::No), ("203.0.113.11", OnHost::No)];
        let sources: Vec<String> = (0..=MAX_SOURCES).map(|n| format!("10.0.1.{n}/32")).collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).chain(["fd00::1/128"]).collect();
        let (decap, left) = decap(&file, &cluster(&vips, &sources));
        assert_eq!(
            (decap.vips.len(), decap.allow_sources.len()),
            (1, MAX_SOURCES + 1),
            "each family has its own"
        );
        let wanted = LeftOut {
            vips: vec!["203.0.113.11".parse().unwrap()],
            sources: vec![("10.0.1.32".parse().unwrap(), 32)],
        };
        assert_eq!(left, wanted);
    }

    #[test]
    fn a_prefix_of_length_0_covers_its_family() {
        let all = |text: &str| crate::config::values::prefix(text).unwrap();
        assert!(covers(all("0.0.0.0/0"), all("10.0.0.1/32")) && covers(all("::/0"), all("fd00::1/128")));
        assert!(
            !covers(all("0.0.0.0/0"), all("fd00::1/128")) && !covers(all("10.0.0.1/32"), all("10.0.0.0/31"))
        );
    }
}
