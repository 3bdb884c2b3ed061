//! An EndpointSlice, folded to numbers: which port, which node, how many endpoints in which state.
//!
//! Sixteen bytes for each node and hint, whatever the number of endpoints: names are numbers of an [`Interner`].

use std::collections::HashMap;

use k8s_openapi::api::discovery::v1 as discovery;

use super::names::{Key, SERVICE_NAME};
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

/// What we keep of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub service: Key,
    pub family: Family,
    pub ports: Box<[Port]>,
    pub places: Box<[Place]>,
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

impl Slice {
    /// `None`: it is of no service, or of a kind that has no addresses.
    pub fn of(slice: &discovery::EndpointSlice, names: &mut Interner) -> Option<Self> {
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let mut places: Vec<Place> = Vec::new();
        let mut homeless = 0;
        for endpoint in &slice.endpoints {
            let Some(node) = endpoint.node_name.as_deref().filter(|node| !node.is_empty()) else {
                homeless += 1;
                continue;
            };
            let (node, zones) = (names.number(node), names.number(&zones(endpoint)));
            let place = match places.iter_mut().find(|place| place.node == node && place.zones == zones) {
                Some(place) => place,
                None => {
                    places.push(Place { node, zones, ready: 0, leaving: 0, closed: 0 });
                    let last = places.len() - 1;
                    &mut places[last]
                }
            };
            let count = match State::of(endpoint) {
                State::Ready => &mut place.ready,
                State::Leaving => &mut place.leaving,
                State::Closed => &mut place.closed,
            };
            *count = count.saturating_add(1);
        }
        let ports = slice.ports.iter().flatten().filter_map(port).collect();
        Some(Self { service: Key::new(namespace, service), family, ports, places: places.into(), homeless })
    }
}

/// `None`: a protocol that is not balanced.
fn port(port: &discovery::EndpointPort) -> Option<Port> {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
