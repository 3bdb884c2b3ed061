//! `examples/lab.yaml` as each edge node gets it: the very file, but for outer sources and the `state` of backends.

use std::collections::BTreeMap;

use crate::lab::files::State;
use crate::lab::plan::{self, Role};

/// The example itself.
pub const EXAMPLE: &str = include_str!("../../../examples/lab.yaml");

/// The file of edge node `n` while backends have these states.
#[must_use]
pub fn of_edge(n: u8, states: &BTreeMap<u8, State>) -> String {
    let mut text = EXAMPLE.to_owned();
    for (example, own) in plan::tunnel_sources(1).into_iter().zip(plan::tunnel_sources(n)) {
        let [example, own] = [example, own].map(|(ip, length)| format!("{ip}/{length}"));
        // In the key alone: the comments speak of both edge nodes.
        for quote in ["", "\""] {
            text = text.replace(&format!(": {quote}{example}{quote}\n"), &format!(": {quote}{own}{quote}\n"));
        }
    }
    for (backend, state) in states.iter().filter(|(_, state)| **state != State::Active) {
        for ip in Role::Backend(*backend).address().both() {
            for quote in ["", "\""] {
                let entry = format!("address: {quote}{ip}{quote}");
                text = text.replace(&format!("{{ {entry} }}"), &format!("{{ {entry}, state: {state} }}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use xdp_lb::config::parse;
    use xdp_lb::model::{AdminState, Desired};

    use super::*;

    fn desired(n: u8, states: &BTreeMap<u8, State>) -> Desired {
        let text = of_edge(n, states);
        let read = parse(&text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        assert_eq!(read.warnings, [], "{text}");
        read.desired
    }

    #[test]
    fn edge1_loads_the_example_itself() {
        assert_eq!(of_edge(1, &BTreeMap::new()), EXAMPLE);
    }

    #[test]
    fn edge2_differs_in_its_outer_sources_alone() {
        let text = of_edge(2, &BTreeMap::new());
        let other = EXAMPLE.lines().zip(text.lines()).filter(|(a, b)| a != b).count();
        assert_eq!((other, EXAMPLE.lines().count()), (2, text.lines().count()), "{text}");
        let (one, two) = (desired(1, &BTreeMap::new()), desired(2, &BTreeMap::new()));
        for (a, b) in one.services.iter().zip(&two.services) {
            assert_eq!(a.encap.source_v4, Some(([172, 16, 1, 0], 24)));
            assert_eq!(b.encap.source_v4, Some(([172, 16, 2, 0], 24)));
            assert_ne!(a.encap.source_v6, b.encap.source_v6);
            assert_eq!(a.backends, b.backends);
        }
    }

    #[test]
    fn the_example_names_the_backends_of_the_lab() {
        for service in desired(1, &BTreeMap::new()).services {
            let mut addresses: Vec<_> = service.backends.iter().map(|b| b.address).collect();
            addresses.sort();
            let family = |n| {
                let [v4, v6] = Role::Backend(n).address().both();
                if addresses[0].is_ipv4() { v4 } else { v6 }
            };
            assert_eq!(addresses, [family(1), family(2), family(3)], "{}", service.name);
            assert_eq!(service.vips, plan::vip(10).both(), "{}", service.name);
        }
    }

    #[test]
    fn states_reach_every_service() {
        for state in [State::Drain, State::Down] {
            let wanted = if state == State::Drain { AdminState::Drain } else { AdminState::Down };
            for service in desired(2, &BTreeMap::from([(2, state), (3, State::Active)])).services {
                let states: Vec<_> = service.backends.iter().map(|b| b.state).collect();
                assert_eq!(states, [AdminState::Active, wanted, AdminState::Active], "{}", service.name);
            }
        }
    }
}
