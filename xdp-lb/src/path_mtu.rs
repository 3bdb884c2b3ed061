//! What the agent believes of what routers say about our tunnels: a backend's packets get shorter, for ten minutes.
//!
//! The packet path notes every "too big" about a tunnel that may be ours ([`xdp_lb_common::path_mtu`]); anybody can send
//! one. Believed is what names a tunnel from one of our sources to a backend of ours, never below what every link
//! must carry, and for no longer than RFC 1191 and RFC 8201 say: then the full size is tried again.
//!
//! Called by the daemon once a second; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use xdp_lb_common::path_mtu::PathMtu;

use crate::{
    model::{Desired, EncapKind},
    template::from_map,
};

/// How long a router's word is good (RFC 1191 section 6.3, RFC 8201 section 5.3).
pub const LIFETIME: Duration = Duration::from_secs(600);
/// Least MTU that is believed of an IPv4 path: what every host takes (RFC 791). A router that names none, or less,
/// gets this.
const LEAST_V4: u32 = 576;
/// Least MTU of an IPv6 link; a message that names less is to be discarded (RFC 8201 section 4).
const LEAST_V6: u32 = 1280;

/// Whose tunnels are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    /// Addresses of backends.
    pub backends: BTreeSet<IpAddr>,
    /// Prefixes of outer sources.
    pub sources: Vec<(IpAddr, u8)>,
    /// Ports of GUE; 0 where there is IP in IP.
    pub ports: BTreeSet<u16>,
}

impl Ours {
    /// The tunnels of a configuration to `backends`.
    #[must_use]
    pub fn of(desired: &Desired, backends: BTreeSet<IpAddr>) -> Self {
        let mut sources: Vec<(IpAddr, u8)> = Vec::new();
        for service in &desired.services {
            sources.extend(service.encap.source_v4.map(|(address, length)| (address.into(), length)));
            sources.extend(service.encap.source_v6.map(|(address, length)| (address.into(), length)));
        }
        sources.sort_unstable();
        sources.dedup();
        let ports = desired.services.iter().map(|service| match service.encap.kind {
            EncapKind::Ipip => 0,
            EncapKind::Gue { port, .. } => port,
        });
        Self { backends, sources, ports: ports.collect() }
    }

    fn is_source(&self, address: IpAddr) -> bool {
        self.sources.iter().any(|&(network, length)| covers(network, length, address))
    }
}

fn covers(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let differs = |a: u128, b: u128, width: u32| {
        (a ^ b).checked_shr(width.saturating_sub(length.into())).is_some_and(|rest| rest != 0)
    };
    match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => !differs(n.to_bits().into(), a.to_bits().into(), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => !differs(n.to_bits(), a.to_bits(), 128),
        _ => false,
    }
}

/// A router's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    /// Bytes.
    mtu: u32,
    /// On the agent's clock.
    until: Duration,
}

/// The MTUs that are believed now.
#[derive(Clone, Debug, Default)]
pub struct PathMtus {
    /// By backend.
    learned: BTreeMap<IpAddr, Learned>,
    /// Stamps of the notes that have been looked at, by backend and source.
    seen: BTreeMap<([u8; 16], [u8; 16]), u64>,
}

impl PathMtus {
    /// Takes in the packet path's notes and lets go of what is too old; the backends whose MTU is another now, with
    /// the new one.
    pub fn look(
        &mut self,
        notes: impl IntoIterator<Item = PathMtu>,
        ours: &Ours,
        now: Duration,
    ) -> BTreeMap<IpAddr, Option<u32>> {
        let before = self.learned.clone();
        let mut present = BTreeMap::new();
        for note in notes {
            let key = (note.backend, note.source);
            present.insert(key, note.stamp);
            if self.seen.get(&key) != Some(&note.stamp) {
                self.learn(&note, ours, now);
            }
        }
        self.seen = present;
        self.learned.retain(|backend, learned| learned.until > now && ours.backends.contains(backend));
        let mtu = |all: &BTreeMap<IpAddr, Learned>, backend| all.get(backend).map(|l| l.mtu);
        let all: BTreeSet<&IpAddr> = before.keys().chain(self.learned.keys()).collect();
        all.into_iter()
            .filter(|backend| mtu(&before, backend) != mtu(&self.learned, backend))
            .map(|backend| (*backend, mtu(&self.learned, backend)))
            .collect()
    }

    /// True when there is something to look at: a new note, or a word that is too old.
    #[must_use]
    pub fn is_due(&self, notes: &[PathMtu], now: Duration) -> bool {
        let news = |note: &PathMtu| self.seen.get(&(note.backend, note.source)) != Some(&note.stamp);
        notes.iter().any(news) || self.learned.values().any(|learned| learned.until <= now)
    }

    /// What is believed of the way to `backend`, in bytes.
    #[must_use]
    pub fn of(&self, backend: IpAddr) -> Option<u32> {
        self.learned.get(&backend).map(|learned| learned.mtu)
    }

    fn learn(&mut self, note: &PathMtu, ours: &Ours, now: Duration) {
        let backend = from_map(note.backend);
        // As the map holds it, a source of the backend's family.
        let source = Ipv6Addr::from(note.source).to_canonical();
        let port = |port: &u16| u32::from(*port) == note.port;
        if !ours.backends.contains(&backend) || !ours.is_source(source) || !ours.ports.iter().any(port) {
            return;
        }
        let mtu = match backend {
            IpAddr::V4(_) => note.mtu.max(LEAST_V4),
            IpAddr::V6(_) if note.mtu < LEAST_V6 => return,
            IpAddr::V6(_) => note.mtu,
        };
        let until = now + LIFETIME;
        // Only ever lower: of two links the narrower one counts, whichever speaks last.
        let learned = self.learned.entry(backend).or_insert(Learned { mtu, until });
        if mtu <= learned.mtu {
            *learned = Learned { mtu, until };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::map_address;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ours() -> Ours {
        Ours {
            backends: ["10.1.2.11", "fd00:1:2::11"].map(address).into(),
            sources: vec![(address("172.16.0.0"), 16), (address("fd00:7864:7000::"), 64)],
            ports: [0, 6080].into(),
        }
    }

    fn note(backend: &str, source: &str, mtu: u32, stamp: u64) -> PathMtu {
        PathMtu {
            stamp,
            backend: map_address(address(backend)),
            source: map_address(address(source)),
            mtu,
            port: 0,
        }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn only_our_own_tunnels_are_believed() {
        let mut mtus = PathMtus::default();
        let strangers = [
            note("10.1.2.12", "172.16.3.4", 1400, 1),
            note("10.1.2.11", "172.17.3.4", 1400, 1),
            note("fd00:1:2::12", "fd00:7864:7000::7", 1400, 1),
            note("fd00:1:2::11", "fd00:7864:7001::7", 1400, 1),
            note("fd00:1:2::11", "172.16.3.4", 1279, 1),
            // Discarded (RFC 8201 section 4).
            note("fd00:1:2::11", "fd00:7864:7000::7", 1279, 1),
            // UDP, but no GUE.
            PathMtu { port: 6081, ..note("10.1.2.11", "172.16.3.4", 1400, 1) },
        ];
        assert_eq!(mtus.look(strangers, &ours(), NOW), BTreeMap::new());
        let own = [
            PathMtu { port: 6080, ..note("10.1.2.11", "172.16.3.4", 1400, 2) },
            note("fd00:1:2::11", "fd00:7864:7000::7", 1280, 2),
        ];
        let changed = mtus.look(own, &ours(), NOW);
        assert_eq!(changed.len(), 2);
        assert_eq!(
            (mtus.of(address("10.1.2.11")), mtus.of(address("fd00:1:2::11"))),
            (Some(1400), Some(1280))
        );
    }

    #[test]
    fn it_only_falls_and_never_below_the_least() {
        let mut mtus = PathMtus::default();
        for (stamp, (said, believed)) in
            [(1400, 1400), (1450, 1400), (1300, 1300), (68, 576), (0, 576)].into_iter().enumerate()
        {
            mtus.look([note("10.1.2.11", "172.16.0.1", said, stamp as u64 + 1)], &ours(), NOW);
            assert_eq!(mtus.of(address("10.1.2.11")), Some(believed), "after {said}");
        }
    }

    #[test]
    fn a_word_is_good_for_ten_minutes_from_when_it_was_said() {
        let (mut mtus, backend) = (PathMtus::default(), address("10.1.2.11"));
        let said = [note("10.1.2.11", "172.16.0.1", 1400, 7)];
        assert_eq!(mtus.look(said, &ours(), NOW), BTreeMap::from([(backend, Some(1400))]));
        // The same note is not the router speaking again.
        assert!(!mtus.is_due(&said, NOW + LIFETIME - Duration::from_secs(1)));
        assert!(mtus.look(said, &ours(), NOW + LIFETIME - Duration::from_secs(1)).is_empty());
        assert!(mtus.is_due(&said, NOW + LIFETIME));
        assert_eq!(mtus.look(said, &ours(), NOW + LIFETIME), BTreeMap::from([(backend, None)]));
        assert!(mtus.look(said, &ours(), NOW + 2 * LIFETIME).is_empty());
        let again = [note("10.1.2.11", "172.16.0.1", 1400, 8)];
        assert!(mtus.is_due(&again, NOW + 2 * LIFETIME));
        assert_eq!(mtus.look(again, &ours(), NOW + 2 * LIFETIME).len(), 1);
        // Nor does a backend that is gone keep one.
        let nobody = Ours { backends: BTreeSet::new(), ..ours() };
        assert_eq!(mtus.look(again, &nobody, NOW + 2 * LIFETIME), BTreeMap::from([(backend, None)]));
    }

    #[test]
    fn prefixes_of_every_length() {
        for (network, length, inside, outside) in [
            ("172.16.0.0", 16, "172.16.255.255", "172.17.0.0"),
            ("172.16.0.1", 32, "172.16.0.1", "172.16.0.0"),
            ("fd00::", 64, "fd00::ffff:0:0:1", "fd00:0:0:1::"),
            ("fd00::1", 128, "fd00::1", "fd00::"),
        ] {
            assert!(covers(address(network), length, address(inside)), "{network}/{length} {inside}");
            assert!(!covers(address(network), length, address(outside)), "{network}/{length} {outside}");
        }
        assert!(covers(address("0.0.0.0"), 0, address("1.2.3.4")));
        assert!(!covers(address("0.0.0.0"), 0, address("::1")));
    }
}
