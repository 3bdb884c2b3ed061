//! xdp-lb: the agent and the command line.
//!
//! Without the feature `agent` this is the pure half: no aya, no tokio, no files, no clock.

pub mod aside;
pub mod bfd;
pub mod bgp;
pub mod config;
pub mod doctor;
pub mod drains;
pub mod explain;
pub mod flows;
pub mod forecast;
pub mod fragments;
pub mod gates;
pub mod health;
#[cfg(feature = "kubernetes")]
pub mod kube;
pub mod maglev;
pub mod memory;
pub mod model;
pub mod nexthop;
pub mod observe;
pub mod offloads;
pub mod path_mtu;
#[cfg(feature = "agent")]
pub mod peers;
pub mod plan;
pub mod pools;
pub mod ramp;
pub mod scan;
pub mod slots;
pub mod slow;
pub mod sources;
pub mod state;
pub mod status;
pub mod survey;
pub mod template;
pub mod times;

#[cfg(feature = "agent")]
pub mod admin;
#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod cli;
#[cfg(feature = "agent")]
pub mod dataplane;
#[cfg(feature = "agent")]
pub mod file;
#[cfg(feature = "agent")]
mod heap;
#[cfg(feature = "agent")]
pub mod intake;
#[cfg(feature = "agent")]
pub mod keep;
#[cfg(feature = "agent")]
pub mod metrics;
#[cfg(feature = "agent")]
pub mod netlink;
#[cfg(feature = "agent")]
pub mod scrape;
#[cfg(feature = "agent")]
pub mod socket;
