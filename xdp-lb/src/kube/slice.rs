//! An EndpointSlice, folded to numbers: which port, which node, how many endpoints in which state, and their addresses.
//!
//! Sixteen bytes for each node and hint, for names are numbers of an [`Interner`]; and an address for each endpoint, in
//! the order in which the counts say whose it is.
//!
//! ```text
//!   places     node 1: 2 ready, 1 leaving       node 2: 1 ready, 1 closed
//!   addresses  ready ready leaving              ready closed
//! ```

use std::collections::HashMap;
use std::iter::repeat_n;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::discovery::v1 as discovery;

use super::names::{Key, SERVICE_NAME};
use super::wanted;
use crate::model::Protocol;

/// Names as numbers. They are never forgotten: there are as many as nodes and zones have been.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Interner {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    pub fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }
}

/// Which family the endpoints have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// `None`: endpoints have names.
    pub fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        match slice.address_type.as_str() {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    fn width(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Whether an address is of it.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// An endpoint's: the first one counts, and the others have no meaning.
    pub fn address(self, endpoint: &discovery::Endpoint) -> IpAddr {
        let none = match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let first = endpoint.addresses.first().and_then(|text| text.parse().ok());
        first.filter(|address| self.has(*address)).unwrap_or(none)
    }

    fn read(self, octets: &[u8]) -> IpAddr {
        match self {
            Self::V4 => <[u8; 4]>::try_from(octets).unwrap_or_default().into(),
            Self::V6 => <[u8; 16]>::try_from(octets).unwrap_or_default().into(),
        }
    }
}

/// What we keep of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub service: Key,
    pub family: Family,
    pub ports: Box<[Port]>,
    pub places: Box<[Place]>,
    /// Of all endpoints with a place, 4 or 16 bytes each. Unspecified: it has none of the slice's family.
    addresses: Box<[u8]>,
    /// Endpoints that are on no node.
    pub homeless: u32,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub name: Box<str>,
    pub protocol: Protocol,
    /// Where endpoints listen.
    pub port: Option<u16>,
}

/// Endpoints of a slice on one node that are hinted for the same zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub node: u32,
    /// Zones with commas around: `,a,b,`. Empty: no hint.
    pub zones: u32,
    pub ready: u16,
    /// Terminating, and still serving.
    pub leaving: u16,
    pub closed: u16,
}

impl Port {
    /// Whether it is that port of a Service.
    pub fn is(&self, wanted: &wanted::Port) -> bool {
        *self.name == *wanted.name && self.protocol == wanted.protocol
    }
}

impl Place {
    fn states(&self) -> impl Iterator<Item = State> {
        let of = |state, count: u16| repeat_n(state, count.into());
        let leaving = of(State::Leaving, self.leaving);
        of(State::Ready, self.ready).chain(leaving).chain(of(State::Closed, self.closed))
    }
}

impl Slice {
    /// `None`: it is of no service, or of a kind that has no addresses.
    pub fn of(slice: &discovery::EndpointSlice, names: &mut Interner) -> Option<Self> {
        let family = Family::of(slice)?;
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let mut places: Vec<Place> = Vec::new();
        let mut endpoints: Vec<(usize, State, IpAddr)> = Vec::with_capacity(slice.endpoints.len());
        let mut homeless = 0;
        for endpoint in &slice.endpoints {
            let Some(node) = endpoint.node_name.as_deref().filter(|node| !node.is_empty()) else {
                homeless += 1;
                continue;
            };
            let (node, zones) = (names.number(node), names.number(&zones(endpoint)));
            let at = places.iter().position(|place| place.node == node && place.zones == zones);
            let at = at.unwrap_or_else(|| {
                places.push(Place { node, zones, ready: 0, leaving: 0, closed: 0 });
                places.len() - 1
            });
            let state = State::of(endpoint);
            let count = match state {
                State::Ready => &mut places[at].ready,
                State::Leaving => &mut places[at].leaving,
                State::Closed => &mut places[at].closed,
            };
            // The API server takes a thousand endpoints at most.
            *count = count.saturating_add(1);
            endpoints.push((at, state, family.address(endpoint)));
        }
        endpoints.sort_unstable();
        let mut addresses = Vec::with_capacity(endpoints.len() * family.width());
        for (.., address) in endpoints {
            match address {
                IpAddr::V4(address) => addresses.extend(address.octets()),
                IpAddr::V6(address) => addresses.extend(address.octets()),
            }
        }
        let ports = slice.ports.iter().flatten().filter_map(port).collect();
        Some(Self {
            service: Key::new(namespace, service),
            family,
            ports,
            places: places.into(),
            addresses: addresses.into(),
            homeless,
        })
    }

    /// The Service's port, as endpoints have it.
    pub fn port(&self, wanted: &wanted::Port) -> Option<&Port> {
        self.ports.iter().find(|port| port.is(wanted))
    }

    /// Endpoints that are on a node.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Place, State, IpAddr)> {
        let states = self.places.iter().flat_map(|place| place.states().map(move |state| (place, state)));
        let addresses = self.addresses.chunks_exact(self.family.width());
        states.zip(addresses).map(|((place, state), octets)| (place, state, self.family.read(octets)))
    }

    /// The same but for addresses.
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { service, family, ports, places, addresses: _, homeless } = self;
        (service, family, ports, places, homeless)
            == (&other.service, &other.family, &other.ports, &other.places, &other.homeless)
    }
}

/// `None`: a protocol that is not balanced.
pub(super) fn port(port: &discovery::EndpointPort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(_) => return None,
    };
    let number = port.port.and_then(|port| u16::try_from(port).ok());
    Some(Port { name: port.name.as_deref().unwrap_or_default().into(), protocol, port: number })
}

fn zones(endpoint: &discovery::Endpoint) -> String {
    let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
    let mut zones: Vec<&str> = hints.into_iter().flatten().map(|zone| zone.name.as_str()).collect();
    if zones.is_empty() {
        return String::new();
    }
    zones.sort_unstable();
    format!(",{},", zones.join(","))
}

/// What an endpoint takes. What is not said means: ready, serving, not terminating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Ready,
    Leaving,
    Closed,
}

impl State {
    pub fn of(endpoint: &discovery::Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let said = |of: fn(&discovery::EndpointConditions) -> Option<bool>| conditions.and_then(of);
        let terminating = said(|c| c.terminating).unwrap_or(false);
        match said(|c| c.ready) {
            Some(true) => Self::Ready,
            None if !terminating => Self::Ready,
            _ if terminating && said(|c| c.serving).unwrap_or(true) => Self::Leaving,
            _ => Self::Closed,
        }
    }
}
