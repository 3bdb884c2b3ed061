//! The lab: real networks of namespaces, real processes and real traffic, gone when dropped.
//!
//! ```no_run
//! use xdp_lb_tests::lab::{Lab, Options, skip};
//!
//! fn a_test() -> anyhow::Result<()> {
//!     if !skip::can_run(skip::LAB) {
//!         return Ok(());
//!     }
//!     let lab = Lab::start(&Options::default())?;
//!     lab.backend(1).ns.enter(|| println!("inside"))?;
//!     Ok(())
//! }
//! ```
//!
//! Blocking throughout; only the traffic generators use async code, on threads of their own. Must not be called
//! from inside an async task.
//!
//! | file | decides |
//! |---|---|
//! | `topology` | who is connected to whom, and with which settings |
//! | `plan` | who has which address |
//! | `namespace`, `netlink` | one namespace; its links, addresses and routes |
//! | `process`, `worker` | processes and threads in a namespace |
//! | `product` | the `xdp-lb` binary in a namespace |
//! | `release` | another release of it, without a second build |
//! | `files`, `tier` | configuration files, and the product on all edge nodes and backends with them |
//! | `http` | one question to a server in a namespace |
//! | `pods` | pods behind the backends, and nftables as their service proxy |
//! | `apiserver` | a stand-in for a Kubernetes API server |
//! | `cluster` | Nodes, pods and a Service, as an API server has them |
//! | `forwarder` | a way from a namespace to a server out here, that can be cut |
//! | `bgp` | BGP between a lab's edge nodes and FRR on its router |
//! | `rig`, `routers` | a smaller network drawn link by link; FRR and BIRD |
//! | `traffic` | servers, clients and what they count |
//! | `id`, `remains`, `janitor`, `leaks` | names of what we made, and that nothing of it stays |
//! | `bpffs`, `scratch` | the lab's own directories |
//! | `skip`, `wait` | what the machine lacks; waiting with a bound |
//! | `sys` | the unsafe system calls |

pub mod apiserver;
pub mod bgp;
pub mod bpffs;
pub mod cluster;
pub mod files;
pub mod forwarder;
pub mod http;
pub mod id;
pub mod janitor;
pub mod leaks;
pub mod namespace;
pub mod netlink;
pub mod plan;
pub mod pods;
pub mod process;
pub mod product;
pub mod release;
pub mod remains;
pub mod rig;
pub mod routers;
pub mod scratch;
pub mod skip;
pub mod sys;
pub mod tier;
pub mod topology;
pub mod traffic;
pub mod wait;
pub mod worker;

pub use files::{EdgeFile, Mode, State};
pub use forwarder::Forwarder;
pub use leaks::Leaks;
pub use namespace::{Lifetime, Namespace};
pub use netlink::Counters;
pub use plan::{Dual, Role};
pub use pods::Pod;
pub use process::{Process, Signal, Stream};
pub use product::{Daemon, Product};
pub use rig::Rig;
pub use routers::{Bird, Frr};
pub use tier::{Node, Tier};
pub use topology::{Host, Lab, Options, RpFilter};
pub use wait::{wait_for, wait_until};
