//! BGP between the edge nodes of a [`Lab`] and FRR on its router: both sides' configuration as text.
//!
//! ```text
//!   edge N (AS 4200000001, 10.1.N.2 and fd00:0:1:N::2) ---- router (AS 65001)     eBGP, ECMP by maximum-paths
//! ```

use super::plan::Role;
use super::topology::Lab;

/// AS of all edge nodes.
pub const EDGE_AS: u32 = 4_200_000_001;
/// AS of the router.
pub const ROUTER_AS: u32 = 65_001;

/// What may differ between tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Section {
    /// BFD at 100 ms x 3.
    pub bfd: bool,
    /// `restart_time` in seconds; the product's default when absent.
    pub restart_time: Option<u32>,
}

/// Where edge node `n` writes its BGP status.
#[must_use]
pub fn status_file(lab: &Lab, n: u8) -> String {
    lab.scratch().path().join(format!("edge{n}-bgp.json")).display().to_string()
}

impl Section {
    /// The file of edge node `n` with a `bgp` section that announces to the router over both families.
    #[must_use]
    pub fn add_to(&self, lab: &Lab, file: &str, n: u8) -> String {
        let (own, router) = (Role::Edge(n).address(), Role::Edge(n).gateway());
        let bfd = if self.bfd { ", bfd: { interval: 100ms, multiplier: 3 }" } else { "" };
        let restart = self.restart_time.map_or_else(String::new, |s| format!("  restart_time: {s}s\n"));
        format!(
            "{file}bgp:
  local_as: {EDGE_AS}
  router_id: {}
  withdraw_grace: 1s
  status_file: {}
{restart}  peers:
    - {{ address: {}, remote_as: {ROUTER_AS}, families: [ipv4]{bfd} }}
    - {{ address: \"{}\", remote_as: {ROUTER_AS}, families: [ipv6]{bfd} }}
",
            own.v4,
            status_file(lab, n),
            router.v4,
            router.v6
        )
    }
}

/// FRR's side, for all edge nodes of the lab. Without nexthop objects: after a link flap zebra 8.4 believes that a group
/// has both members again, while the kernel has taken one out for good.
#[must_use]
pub fn frr(lab: &Lab, section: &Section) -> String {
    let addresses = |n: u8| Role::Edge(n).address();
    let edges = || (1u8..).take(lab.edges().len());
    let mut text = format!(
        "frr defaults datacenter
no zebra nexthop kernel enable
router bgp {ROUTER_AS}
 bgp router-id 10.1.1.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
"
    );
    for n in edges() {
        for address in addresses(n).both() {
            text += &format!(
                " neighbor {address} remote-as {EDGE_AS}
 neighbor {address} timers 3 9
 neighbor {address} passive
"
            );
            if section.bfd {
                text += &format!(" neighbor {address} bfd\n neighbor {address} bfd profile fast\n");
            }
        }
    }
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        text += &format!(" address-family {family} unicast\n  maximum-paths 8\n");
        for n in edges() {
            text += &format!("  neighbor {} activate\n", addresses(n).both()[usize::from(v6)]);
        }
        text += " exit-address-family\n";
    }
    text + "exit\n"
}

/// bfdd's side.
#[must_use]
pub fn bfdd() -> String {
    "bfd
 profile fast
  detect-multiplier 3
  receive-interval 100
  transmit-interval 100
 exit
exit
"
    .to_owned()
}
