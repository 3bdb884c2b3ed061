//! Services of a Kubernetes cluster.
//!
//! ```text
//!   Service -------> wanted: addresses, ports, policy in the file's words --+
//!   EndpointSlice -> slice: endpoints by node and state, and their addresses +-> cluster --map--> imported services
//!   Node ----------> node: where tunnels end, weight, drain ----------------+         `--------> notes: Events
//!
//!   EdgeConfig, BgpPeer, own Node -> resources: settings beside the node's file
//!   Service, edge Node, EndpointSlice -> ends: VIPs, outer sources and pods of a node that takes tunnels off
//! ```
//!
//! Objects are folded as they come, and nothing else of them is kept: ten thousand EndpointSlices are a few megabytes.
//! What comes out is judged by the file's rules (`config::import`) and put beside the file's services
//! (`config::beside`), so a mistake costs its own service alone. Everything but `io` is pure: the same objects, in whatever
//! order they came, give the same services on every edge node. docs/kubernetes.md says what is promised.

mod cluster;
pub mod controller;
pub mod crd;
pub mod edge_node;
mod ends;
#[cfg(feature = "agent")]
pub mod io;
pub mod ipam;
mod lingering;
mod map;
mod members;
mod names;
mod node;
mod note;
mod own_pods;
mod policy;
mod resources;
mod slice;
#[cfg(test)]
mod tests;
mod wanted;

pub use self::cluster::{Change, Cluster};
pub use self::ends::{Ended, Ends};
pub use self::map::Mapped;
pub use self::names::{CLASS, Key};
pub use self::note::{Note, Severity, Subject};
pub use self::resources::Resources;

use crate::model::Delivery;

/// What the configuration says of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `loadBalancerClass` of the services that are ours.
    pub class: String,
    /// Services of type `LoadBalancer` without a class are ours, too.
    pub classless: bool,
    /// Where tunnels end, unless a Service says otherwise.
    pub delivery: Delivery,
    /// This edge node's zone, where hints are followed: endpoints that are hinted for other zones take no new flows.
    pub hints_for: Option<String>,
    /// This edge node's name: whose pods are its own.
    pub own: Option<String>,
    /// It takes tunnels off, too, and so knows where a VIP's port leads at its own pods; else they are out of its reach.
    pub reaches_own: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            class: CLASS.to_owned(),
            classless: false,
            delivery: Delivery::Node,
            hints_for: None,
            own: None,
            reaches_own: false,
        }
    }
}
