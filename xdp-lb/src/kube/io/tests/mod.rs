//! The feed against a service in an API server's place, and against a real API server where there is one.

mod edge_node;
mod faults;
mod hung;
mod live;
mod outage;
mod resources;
mod writes;

use crate::config::import::Imported;
use crate::kube::Mapped;

/// Services as `default/web/https 10.0.0.1,10.0.0.2`.
fn shown(mapped: &Mapped) -> Vec<String> {
    let show = |imported: &Imported| {
        let backends: Vec<String> = imported.service.backends.iter().map(|b| b.address.to_string()).collect();
        format!("{} {}", imported.service.name, backends.join(","))
    };
    mapped.services.iter().map(show).collect()
}
