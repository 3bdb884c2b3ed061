//! VLAN devices and bonds carry no packets themselves: what is below them does.
//!
//! ```text
//!   eth0.100 --.                          packets leave by eth0, with the tag of VLAN 100
//!              +-> eth0
//!   bond0.7 ---> bond0 -+-> eth1          packets leave by eth1 or eth2, whichever works and is the backend's
//!                       '-> eth2          favourite, with the tag of VLAN 7
//! ```
//!
//! The program runs on `eth0`, on `eth1` and `eth2`: [`carriers`]. Where a backend's packets leave is decided with its
//! next hop: `way_out`.

use std::net::IpAddr;

use super::{Link, Links, UnresolvedReason, ways};

/// Devices above each other that are looked behind. The kernel allows eight.
const DEPTH: usize = 8;

/// Kind of a VLAN device.
const VLAN: &str = "vlan";
/// Kind of a bond.
const BOND: &str = "bond";

/// A VLAN tag: protocol and control information in the order of the wire.
pub type Tag = [u8; 4];

/// The tags that a packet leaves with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tags {
    /// Those it came with.
    #[default]
    AsTheyCame,
    /// None.
    None,
    /// This one alone.
    One(Tag),
}

/// Where the packets of a VLAN device or a bond leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Below {
    /// Index of the interface that carries them.
    pub ifindex: u32,
    /// Tags that they leave with.
    pub tags: Tags,
}

/// Why there is no interface below that could run the program. `Display` is a sentence for people, with the cure in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCarrier {
    /// A VLAN device whose lower interface is in another network namespace.
    #[error(
        "the interface below {0} is not in this network namespace, and packets pass there first: run xdp-lb in that \
         namespace, or bring the interface here"
    )]
    Elsewhere(String),
    /// A bond without members.
    #[error("{0} has no members: `ip link set IFACE master {0}`, or name the interface itself")]
    NoMembers(String),
}

/// The interfaces that carry the packets of the interface called `name`: itself, unless it is a VLAN device or a bond. An
/// interface that does not exist is for who attaches to say.
///
/// # Errors
/// [`NoCarrier`].
pub fn carriers<'a>(name: &'a str, links: &'a Links) -> Result<Vec<&'a str>, NoCarrier> {
    match links.by_name(name) {
        None => Ok(vec![name]),
        Some(link) => {
            let mut all = Vec::new();
            collect(link, links, DEPTH, &mut all)?;
            Ok(all)
        }
    }
}

fn collect<'a>(
    link: &'a Link,
    links: &'a Links,
    depth: usize,
    all: &mut Vec<&'a str>,
) -> Result<(), NoCarrier> {
    match link.kind.as_deref() {
        Some(VLAN) if depth > 0 => {
            let lower = link.lower.and_then(|lower| links.by_index(lower));
            let lower = lower.ok_or_else(|| NoCarrier::Elsewhere(link.name.clone()))?;
            collect(lower, links, depth - 1, all)
        }
        Some(BOND) if depth > 0 => {
            let members: Vec<&Link> = members(link, links).collect();
            if members.is_empty() {
                return Err(NoCarrier::NoMembers(link.name.clone()));
            }
            members.into_iter().try_for_each(|member| collect(member, links, depth - 1, all))
        }
        _ => {
            if !all.contains(&link.name.as_str()) {
                all.push(&link.name);
            }
            Ok(())
        }
    }
}

/// True for a VLAN device.
#[must_use]
pub fn is_vlan(name: &str, links: &Links) -> bool {
    links.by_name(name).is_some_and(|link| link.kind.as_deref() == Some(VLAN))
}

fn members<'a>(bond: &'a Link, links: &'a Links) -> impl Iterator<Item = &'a Link> {
    links.iter().filter(|link| link.controller == Some(bond.index))
}

/// Where packets to `address` leave that are routed to `link`; `None` when `link` carries them itself.
///
/// # Errors
/// Nothing below works, or two VLAN devices are above each other.
pub(super) fn way_out(
    address: IpAddr,
    link: &Link,
    links: &Links,
) -> Result<Option<Below>, UnresolvedReason> {
    let (mut at, mut tags) = (link, Tags::AsTheyCame);
    for _ in 0..DEPTH {
        match at.kind.as_deref() {
            Some(VLAN) if tags != Tags::AsTheyCame => {
                return Err(UnresolvedReason::TwoTags { interface: link.name.clone() });
            }
            Some(VLAN) => {
                let lower = at.lower.and_then(|lower| links.by_index(lower));
                let (Some(lower), Some(tag)) = (lower, at.vlan) else {
                    return Err(UnresolvedReason::Elsewhere { interface: at.name.clone() });
                };
                (at, tags) = (lower, Tags::One(tag));
            }
            Some(BOND) => {
                let working = members(at, links).filter(|member| member.usable() && !member.backup);
                let down = || UnresolvedReason::NoMember { interface: at.name.clone() };
                at = ways::favourite(address, working).ok_or_else(down)?;
            }
            _ => break,
        }
    }
    if !at.usable() {
        return Err(UnresolvedReason::LinkDown { interface: at.name.clone() });
    }
    Ok((at.index != link.index).then_some(Below { ifindex: at.index, tags }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: Tag = [0x81, 0, 0, 7];

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link { kind: kind.map(Into::into), ..Link::card(index, name) }
    }

    fn vlan(index: u32, name: &str, lower: u32) -> Link {
        Link { lower: Some(lower), vlan: Some(SEVEN), ..link(index, name, Some(VLAN)) }
    }

    fn member(index: u32, name: &str, bond: u32) -> Link {
        Link { controller: Some(bond), ..link(index, name, None) }
    }

    fn node() -> Vec<Link> {
        vec![
            link(2, "eth0", None),
            vlan(3, "eth0.7", 2),
            link(4, "bond0", Some(BOND)),
            member(5, "eth1", 4),
            member(6, "eth2", 4),
            vlan(7, "bond0.7", 4),
            vlan(8, "eth0.7.9", 3),
            link(9, "bond1", Some(BOND)),
            vlan(10, "gone.7", 99),
            Link { controller: Some(12), ..link(11, "port", None) },
            link(12, "br0", Some("bridge")),
        ]
    }

    fn links(change: impl Fn(&mut Link)) -> Links {
        let mut all = node();
        all.iter_mut().for_each(change);
        all.into_iter().collect()
    }

    #[test]
    fn the_program_runs_below_vlan_devices_and_bonds() {
        let links = links(|_| ());
        let on = |name: &'static str| carriers(name, &links).map(|all| all.join(" "));
        assert_eq!(on("eth0").unwrap(), "eth0");
        assert_eq!(on("eth0.7").unwrap(), "eth0");
        assert_eq!(on("eth0.7.9").unwrap(), "eth0");
        assert_eq!(on("bond0").unwrap(), "eth1 eth2");
        assert_eq!(on("bond0.7").unwrap(), "eth1 eth2");
        assert_eq!(on("br0").unwrap(), "br0", "a bridge's ports are not all the same network");
        assert_eq!(on("nothing").unwrap(), "nothing");
        let said = on("gone.7").unwrap_err().to_string();
        assert!(said.contains("gone.7") && said.contains("run xdp-lb in that namespace"), "{said}");
        assert!(on("bond1").unwrap_err().to_string().contains("ip link set IFACE master bond1"));
    }

    fn out(name: &str, links: &Links, backend: u8) -> Result<Option<Below>, UnresolvedReason> {
        way_out(IpAddr::from([10, 1, 2, backend]), links.by_name(name).unwrap(), links)
    }

    #[test]
    fn packets_leave_below_with_the_tag_of_the_vlan() {
        let links = links(|_| ());
        assert_eq!(out("eth0", &links, 1), Ok(None));
        assert_eq!(out("br0", &links, 1), Ok(None));
        let tagged = Below { ifindex: 2, tags: Tags::One(SEVEN) };
        assert_eq!(out("eth0.7", &links, 1), Ok(Some(tagged)));
        assert_eq!(
            out("eth0.7.9", &links, 1),
            Err(UnresolvedReason::TwoTags { interface: "eth0.7.9".into() })
        );
        assert_eq!(out("gone.7", &links, 1), Err(UnresolvedReason::Elsewhere { interface: "gone.7".into() }));
        let by_vlan = out("bond0.7", &links, 1).unwrap().unwrap();
        let by_bond = out("bond0", &links, 1).unwrap().unwrap();
        assert_eq!((by_vlan.ifindex, by_vlan.tags), (by_bond.ifindex, Tags::One(SEVEN)));
        assert_eq!(by_bond.tags, Tags::AsTheyCame);
    }

    #[test]
    fn backends_spread_over_a_bond_and_leave_a_member_that_fails_alone() {
        let both = links(|_| ());
        let member = |links: &Links, backend| out("bond0", links, backend).unwrap().unwrap().ifindex;
        let before: Vec<u32> = (0..100).map(|backend| member(&both, backend)).collect();
        let first = before.iter().filter(|&&index| index == 5).count();
        assert!((30..=70).contains(&first), "{first} of 100 leave by eth1");
        for broken in [
            links(|l| l.carrier &= l.name != "eth1"),
            links(|l| l.up &= l.name != "eth1"),
            links(|l| l.backup |= l.name == "eth1"),
        ] {
            assert!((0..100).all(|backend| member(&broken, backend) == 6));
        }
        let one = links(|l| l.carrier &= l.name != "eth2");
        let stay = (0..100).filter(|&b| before[usize::from(b)] == 5).all(|b| member(&one, b) == 5);
        assert!(stay, "who used the other member stays");
        let none = links(|l| l.carrier &= !l.name.starts_with("eth"));
        assert_eq!(out("bond0", &none, 1), Err(UnresolvedReason::NoMember { interface: "bond0".into() }));
        assert_eq!(out("eth0.7", &none, 1), Err(UnresolvedReason::LinkDown { interface: "eth0".into() }));
    }
}
