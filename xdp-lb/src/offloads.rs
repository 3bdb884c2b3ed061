//! What a network card, a driver or the other end of a veth does to packets that an XDP balancer cannot undo.
//!
//! Pure: `dataplane::ethtool` reads a [`Card`], the agent and `status` say what [`findings`] makes of it. Every finding
//! says what is, on what, and what to do.

use std::collections::BTreeSet;

use crate::nexthop::{Link, Links};

/// What `ethtool -i` and `ethtool -k` tell of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Name of the driver; empty for a device without one.
    pub driver: String,
    /// Features that are on, by the names that the kernel gives them (`rx-gro`, not `generic-receive-offload`).
    pub features: BTreeSet<String>,
}

impl Card {
    fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// In this network namespace.
    Here(String, Card),
    /// In another one, where we cannot look.
    Elsewhere,
}

/// An interface that runs the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port<'a> {
    /// Its name.
    pub name: &'a str,
    /// The program runs in the driver.
    pub native: bool,
    /// The card, as it is with the program on it: drivers and the kernel switch some things off by themselves.
    pub card: Card,
    /// VLAN devices on top of it, by name.
    pub vlans: Vec<&'a str>,
    /// For a veth.
    pub peer: Option<Peer>,
}

/// The VLAN devices on top of `index`, or of the bond that it is a member of, by name.
#[must_use]
pub fn vlans_on(index: u32, links: &Links) -> Vec<&str> {
    let above = links.by_index(index).and_then(|link| link.controller);
    let on = |link: &&Link| {
        link.kind.as_deref() == Some("vlan")
            && link.lower.is_some_and(|lower| lower == index || above == Some(lower))
    };
    links.iter().filter(on).map(|link| link.name.as_str()).collect()
}

/// Something that breaks packets, or may. `Display` is a sentence for people, with the cure in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Tags are in the card's descriptor, not in the packet.
    #[error(
        "{interface} takes VLAN tags off before XDP sees them ({feature} is on), and {reason}: packets to VIPs that come \
         with a tag go on without it, into the wrong network: ethtool -K {interface} {switch} off"
    )]
    HiddenTags {
        /// Interface.
        interface: String,
        /// Feature.
        feature: &'static str,
        /// Name of its switch.
        switch: &'static str,
        /// Why tagged packets are to be expected.
        reason: String,
    },
    /// The card makes one packet of many.
    #[error(
        "{interface} joins received packets in hardware ({feature} is on): what is joined does not fit a tunnel, and \
         TCP to VIPs crawls: ethtool -K {interface} {feature} off"
    )]
    HardwareJoins {
        /// Interface.
        interface: String,
        /// Feature.
        feature: &'static str,
    },
    /// The kernel makes one packet of many, before a program in generic mode.
    #[error(
        "{interface} runs the program in generic mode, behind GRO, which joins TCP segments to packets that do not fit a \
         tunnel: TCP to VIPs crawls: ethtool -K {interface} gro off, or `mode: native` where the driver can"
    )]
    GroBeforeGeneric {
        /// Interface.
        interface: String,
    },
    /// The other end of a veth leaves checksums open.
    #[error(
        "{peer}, the other end of {interface}, leaves checksums to hardware that is not there (tx-checksumming is on): \
         backends drop what it sends to VIPs: ethtool -K {peer} tx off"
    )]
    PartialChecksums {
        /// Interface.
        interface: String,
        /// The other end.
        peer: String,
    },
    /// The other end of a veth may leave checksums open.
    #[error(
        "{interface} is one end of a veth, whose other end is in another network namespace: unless tx-checksumming is \
         off there, backends drop what its own programs send to VIPs: ethtool -K PEER tx off, in that namespace"
    )]
    PerhapsPartialChecksums {
        /// Interface.
        interface: String,
    },
}

impl Finding {
    /// Whether packets break for certain, as far as one can see from here.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::PerhapsPartialChecksums { .. })
    }
}

/// All that is to be said of an interface that runs the program.
#[must_use]
pub fn findings(port: &Port) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(hidden_tags(port));
    // In generic mode the kernel switches these off when the program comes, and GRO stays.
    for feature in ["rx-lro", "rx-gro-hw"] {
        if port.card.has(feature) {
            all.push(Finding::HardwareJoins { interface: port.name.into(), feature });
        }
    }
    if !port.native && port.card.has("rx-gro") {
        all.push(Finding::GroBeforeGeneric { interface: port.name.into() });
    }
    all.extend(checksums(port));
    all
}

/// Tags hide where the card parses them; that matters where tagged packets come in: there are VLAN devices, or nothing
/// in the card filters them. A veth parses nothing: it hands on what its peer has put aside.
fn hidden_tags(port: &Port) -> Option<Finding> {
    let parses = [("rx-vlan-hw-parse", "rxvlan"), ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse")];
    let (feature, switch) = parses.into_iter().find(|(feature, _)| port.card.has(feature))?;
    let is_veth = port.card.driver == "veth";
    let reason = if let [first, ..] = port.vlans[..] {
        format!("{first} is on top of it")
    } else if !is_veth && !port.card.has("rx-vlan-filter") {
        "its filter lets all VLANs in".to_owned()
    } else {
        return None;
    };
    Some(Finding::HiddenTags { interface: port.name.into(), feature, switch, reason })
}

/// In generic mode the kernel keeps track of what a checksum lacks; native mode sees the packet's bytes alone.
fn checksums(port: &Port) -> Option<Finding> {
    const OPEN: [&str; 3] = ["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"];
    let interface = port.name.to_owned();
    match port.peer.as_ref().filter(|_| port.native)? {
        Peer::Here(peer, card) if OPEN.iter().any(|feature| card.has(feature)) => {
            Some(Finding::PartialChecksums { interface, peer: peer.clone() })
        }
        Peer::Here(..) => None,
        Peer::Elsewhere => Some(Finding::PerhapsPartialChecksums { interface }),
    }
}

/// Whether packets of this length take more than a page, as drivers give it to XDP.
#[must_use]
pub const fn needs_frags(mtu: u32) -> bool {
    mtu > ONE_PAGE
}

/// What may keep a driver from taking the program in native mode, each with its cure. Drivers say no in one word.
#[must_use]
pub fn obstacles(interface: &str, card: &Card, mtu: u32) -> Vec<String> {
    let mut all = Vec::new();
    if needs_frags(mtu) {
        all.push(format!(
            "its MTU of {mtu} is too large for packets in one page, and packets in several (xdp.frags) take Linux 5.18, a \
             driver that makes them, and an agent that has been started with this MTU: ip link set dev {interface} mtu \
             {ONE_PAGE}, or less"
        ));
    }
    for feature in ["rx-lro", "rx-gro-hw"] {
        if card.has(feature) {
            all.push(format!("{feature} is on: ethtool -K {interface} {feature} off"));
        }
    }
    if card.driver == "virtio_net" {
        all.push(
            "virtio_net wants control of its offloads or none, and often a queue pair more for each CPU: give the machine \
             more queues, or have the hypervisor offer ctrl_guest_offloads (QEMU's default) or leave guest_tso4, \
             guest_tso6, guest_ecn, guest_ufo and guest_csum out"
                .to_owned(),
        );
    }
    all
}

/// Longest packet that a page of 4096 bytes holds with what XDP (256) and the kernel (320) want beside it, an Ethernet
/// header and two tags. Some drivers want less: 3046 (half of a block of two pages).
const ONE_PAGE: u32 = 4096 - 256 - 320 - 14 - 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn card(driver: &str, features: &[&str]) -> Card {
        Card { driver: driver.into(), features: features.iter().map(|f| (*f).to_owned()).collect() }
    }

    fn port<'a>(driver: &str, features: &[&str]) -> Port<'a> {
        Port { name: "eth0", native: true, card: card(driver, features), vlans: vec![], peer: None }
    }

    fn texts(port: &Port) -> Vec<String> {
        findings(port).iter().map(ToString::to_string).collect()
    }

    const FILTER: &str = "rx-vlan-filter";
    const PARSE: &str = "rx-vlan-hw-parse";

    #[test]
    fn an_ordinary_card_gives_nothing_to_say() {
        assert_eq!(findings(&port("mlx5_core", &[PARSE, FILTER, "rx-gro", "rx-checksum"])), []);
    }

    #[test]
    fn hidden_tags_matter_where_tags_come_in() {
        let with = |driver, features, vlans| Port { vlans, ..port(driver, features) };
        let said = |port: &Port| texts(port).pop().unwrap_or_default();
        let above = said(&with("mlx5_core", &[PARSE, FILTER], vec!["eth0.100"]));
        assert!(above.contains("eth0.100 is on top of it"), "{above}");
        assert!(above.ends_with("ethtool -K eth0 rxvlan off"), "{above}");
        let open = said(&with("mlx5_core", &[PARSE], vec![]));
        assert!(open.contains("its filter lets all VLANs in"), "{open}");
        let stag = said(&with("ice", &["rx-vlan-stag-hw-parse", FILTER], vec!["eth0.100"]));
        assert!(stag.ends_with("ethtool -K eth0 rx-vlan-stag-hw-parse off"), "{stag}");
        assert_eq!(said(&with("mlx5_core", &[FILTER], vec!["eth0.100"])), "");
        assert_eq!(said(&with("veth", &[PARSE], vec![])), "");
        assert_ne!(said(&with("veth", &[PARSE], vec!["eth0.100"])), "");
    }

    #[test]
    fn joined_packets_by_hardware_and_before_generic_mode() {
        for feature in ["rx-lro", "rx-gro-hw"] {
            assert_eq!(
                findings(&port("bnxt_en", &[feature])),
                [Finding::HardwareJoins { interface: "eth0".into(), feature }]
            );
        }
        let gro = Finding::GroBeforeGeneric { interface: "eth0".into() };
        assert_eq!(findings(&Port { native: false, ..port("e1000e", &["rx-gro"]) }), [gro]);
        assert_eq!(findings(&port("e1000e", &["rx-gro"])), [], "native comes before GRO");
    }

    #[test]
    fn checksums_that_a_veth_leaves_open() {
        let with = |native, peer| Port { native, peer: Some(peer), ..port("veth", &[]) };
        let here = |features: &[&str]| Peer::Here("p0".into(), card("veth", features));
        let open = Finding::PartialChecksums { interface: "eth0".into(), peer: "p0".into() };
        assert!(open.is_certain() && open.to_string().ends_with("ethtool -K p0 tx off"));
        assert_eq!(findings(&with(true, here(&["tx-checksum-ip-generic"]))), [open]);
        assert_eq!(findings(&with(true, here(&["tx-checksum-sctp"]))), []);
        assert_eq!(findings(&with(false, here(&["tx-checksum-ip-generic"]))), []);
        let perhaps = findings(&with(true, Peer::Elsewhere));
        assert_eq!(perhaps, [Finding::PerhapsPartialChecksums { interface: "eth0".into() }]);
        assert!(!perhaps[0].is_certain());
    }

    #[test]
    fn obstacles_are_named_with_their_cure() {
        assert_eq!(obstacles("eth0", &card("ixgbe", &["rx-gro"]), 1500), Vec::<String>::new());
        let all = obstacles("eth0", &card("virtio_net", &["rx-lro", "rx-gro-hw"]), 9000);
        assert_eq!(all.len(), 4);
        assert!(all[0].contains("9000") && all[0].contains("mtu 3498"), "{}", all[0]);
        assert!(all[1].ends_with("ethtool -K eth0 rx-lro off"), "{}", all[1]);
    }

    #[test]
    fn only_vlan_devices_on_this_very_link_count() {
        let link = |index, name: &str, kind: &str, lower| Link {
            kind: Some(kind.into()),
            lower,
            ..Link::card(index, name)
        };
        let links = Links::from_iter([
            link(2, "eth0", "veth", None),
            link(3, "eth0.100", "vlan", Some(2)),
            link(4, "eth1.100", "vlan", Some(9)),
            link(5, "macvlan0", "macvlan", Some(2)),
            Link { controller: Some(7), ..link(6, "eth2", "veth", None) },
            link(7, "bond0", "bond", None),
            link(8, "bond0.100", "vlan", Some(7)),
        ]);
        assert_eq!(vlans_on(2, &links), ["eth0.100"]);
        assert_eq!(vlans_on(6, &links), ["bond0.100"]);
    }
}
