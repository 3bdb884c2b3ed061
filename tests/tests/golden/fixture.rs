//! The configurations behind the rows, and the loaded program.

use xdp_lb_tests::prog::{Pinned, Subject};

/// A balancer with every kind of service; one outer source, so that whole packets are constants.
pub const BALANCER: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.1/32, source_v6: "fd00:7864:7000::1/128" }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
vips:
  - { address: 203.0.113.30, unmatched: pass }
  - { address: "2001:db8::30", unmatched: pass }
services:
  - name: sip
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: 10.1.2.11 }]
  - name: web
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: tcp
    ports: [80, 443]
    backends: [{ address: 10.1.2.11 }]
  - name: media
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: "20000-24999"
    tracking: off
    backends: [{ address: 10.1.2.11 }]
  - name: remembered
    vip: 203.0.113.10
    protocol: udp
    ports: 7000
    tracking: exact
    backends: [{ address: 10.1.2.11 }]
  - name: expedited
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 7100
    tracking: off
    encap: { dscp: 46 }
    backends: [{ address: 10.1.2.11 }]
  - name: expedited-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: udp
    ports: 7100
    tracking: off
    encap: { dscp: 46 }
    backends: [{ address: "fd00:1:2::11" }]
  - name: empty
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: tcp
    ports: 8000
    backends: []
  - name: empty-udp
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 8000
    backends: []
  - name: sip-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: "fd00:1:2::11" }]
  - name: all-tcp-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: tcp
    ports: all
    backends: [{ address: "fd00:1:2::11" }]
  - name: pass
    vip: [203.0.113.30, "2001:db8::30"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: 10.1.2.11 }]
  - { name: client-sip, vip: [203.0.113.50, "2001:db8::50"], protocol: udp, ports: 5060, affinity: client-ip,
      tracking: off, backends: [{ address: 10.1.2.11 }] }
  - { name: client-media, vip: [203.0.113.50, "2001:db8::50"], protocol: udp, ports: "20000-24999", affinity: client-ip,
      tracking: off, backends: [{ address: 10.1.2.11 }] }
  - { name: tuple-web, vip: [203.0.113.50, "2001:db8::50"], protocol: tcp, ports: 443, backends: [{ address: 10.1.2.11 }] }
  - { name: refusing, vip: [203.0.113.51, "2001:db8::51"], protocol: udp, ports: 5060, fragments: drop,
      tracking: off, backends: [{ address: 10.1.2.11 }] }
  - { name: not-refusing, vip: [203.0.113.51, "2001:db8::51"], protocol: udp, ports: 7000,
      tracking: off, backends: [{ address: 10.1.2.11 }] }
  - { name: refusing-web, vip: [203.0.113.51, "2001:db8::51"], protocol: tcp, ports: 443, fragments: drop,
      backends: [{ address: 10.1.2.11 }] }
  - { name: gue-0-udp, vip: [203.0.113.60, "2001:db8::60"], protocol: udp, ports: 5060, tracking: off,
      encap: { kind: gue }, backends: [{ address: 10.1.2.11 }] }
  - { name: gue-0-tcp, vip: [203.0.113.60, "2001:db8::60"], protocol: tcp, ports: 443, tracking: off,
      encap: { kind: gue }, backends: [{ address: 10.1.2.11 }] }
  - { name: gue-1-udp, vip: [203.0.113.61, "2001:db8::61"], protocol: udp, ports: 5060, tracking: off,
      encap: { kind: gue, gue: { port: 6081, variant: 1 } }, backends: [{ address: 10.1.2.11 }] }
  - { name: gue-1-tcp, vip: [203.0.113.61, "2001:db8::61"], protocol: tcp, ports: 443, tracking: off,
      encap: { kind: gue, gue: { port: 6081, variant: 1 } }, backends: [{ address: 10.1.2.11 }] }
  - { name: gue-2-udp, vip: [203.0.113.62, "2001:db8::62"], protocol: udp, ports: 5060, tracking: off,
      encap: { kind: gue }, backends: [{ address: "fd00:1:2::11" }] }
  - { name: gue-2-tcp, vip: [203.0.113.62, "2001:db8::62"], protocol: tcp, ports: 443, tracking: off,
      encap: { kind: gue }, backends: [{ address: "fd00:1:2::11" }] }
  - { name: gue-3-udp, vip: [203.0.113.63, "2001:db8::63"], protocol: udp, ports: 5060, tracking: off,
      encap: { kind: gue, gue: { port: 6081, variant: 1 } }, backends: [{ address: "fd00:1:2::11" }] }
  - { name: gue-3-tcp, vip: [203.0.113.63, "2001:db8::63"], protocol: tcp, ports: 443, tracking: off,
      encap: { kind: gue, gue: { port: 6081, variant: 1 } }, backends: [{ address: "fd00:1:2::11" }] }
"#;

/// Tunnels of 1500 bytes, one of 1200.
pub const NARROW: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.1/32, source_v6: "fd00:7864:7000::1/128", mtu: 1500 }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - name: sip
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: 10.1.2.11 }]
  - name: narrow
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 7200
    tracking: off
    encap: { mtu: 1200 }
    backends: [{ address: 10.1.2.11 }]
  - name: web
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: tcp
    ports: 443
    backends: [{ address: 10.1.2.11 }]
  - name: sip-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: "fd00:1:2::11" }]
  - name: gue
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 7300
    tracking: off
    encap: { kind: gue }
    backends: [{ address: 10.1.2.11 }]
  - name: gue1-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: udp
    ports: 7300
    tracking: off
    encap: { kind: gue, gue: { variant: 1 } }
    backends: [{ address: "fd00:1:2::11" }]
"#;

/// The same addresses with prefixes of many outer sources.
pub const SPREAD: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.0/16, source_v6: "fd00:7864:7000::/64" }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - name: sip
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: 10.1.2.11 }]
  - name: sip-over-v6
    vip: [203.0.113.20, "2001:db8::20"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: "fd00:1:2::11" }]
"#;

/// The backend side alone.
pub const DECAP: &str = r#"
version: 1
decap:
  interfaces: [{ name: lo, mode: generic }]
  accept: [ipip]
  allow_sources: [172.16.0.0/16, 10.9.9.9/32, "fd00:7864:7000::/64"]
  vips: [203.0.113.10, "2001:db8::10"]
  vip_on_lo: false
"#;

/// The backend side of GUE.
pub const DECAP_GUE: &str = r#"
version: 1
decap:
  interfaces: [{ name: lo, mode: generic }]
  accept: [ipip, gue]
  allow_sources: [172.16.0.0/16, "fd00:7864:7000::/64"]
  vips: [203.0.113.10, "2001:db8::10"]
  vip_on_lo: false
"#;

/// A node with pods: `.10` is theirs, `.40` the node's as well.
pub const PODS: &str = r#"
version: 1
decap:
  interfaces: [{ name: lo, mode: generic }]
  allow_sources: [172.16.0.0/16, "fd00:7864:7000::/64"]
  vips: [203.0.113.40]
  vip_on_lo: false
  translate:
    - { vip: 203.0.113.10, protocol: tcp, port: 80, target_port: 8080, pods: [10.244.1.7] }
    - { vip: 203.0.113.10, protocol: udp, port: 80, target_port: 8080, pods: [10.244.1.7] }
    - { vip: 203.0.113.10, protocol: udp, port: 88, target_port: 8080, pods: [10.244.1.7] }
    - { vip: "2001:db8::10", protocol: tcp, port: 80, target_port: 8080, pods: ["fd00:0:244::7"] }
    - { vip: "2001:db8::10", protocol: udp, port: 80, target_port: 8080, pods: ["fd00:0:244::7"] }
    - { vip: 203.0.113.40, protocol: udp, port: 5060, pods: [10.244.1.7] }
"#;

/// Both jobs in one program: `.10` is balanced, `.40` lives here.
pub const BOTH: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.1/32, source_v6: "fd00:7864:7000::1/128" }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - name: sip
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 5060
    tracking: off
    backends: [{ address: 10.1.2.11 }]
decap:
  accept: [ipip, gue]
  allow_sources: [172.16.0.0/16, "fd00:7864:7000::/64"]
  vips: [203.0.113.40, "2001:db8::40"]
  vip_on_lo: false
"#;

/// A pod of this node is the only backend, beside a service that has one elsewhere.
pub const OWN_PODS: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.1/32, source_v6: "fd00:7864:7000::1/128" }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - { name: tcp, vip: 203.0.113.10, protocol: tcp, ports: 80, backends: &pod [{ address: 10.244.1.7 }] }
  - { name: udp, vip: 203.0.113.10, protocol: udp, ports: [80, 81, 88], tracking: off, backends: *pod }
  - { name: tcp6, vip: "2001:db8::10", protocol: tcp, ports: 80, backends: &pod6 [{ address: "fd00:0:244::7" }] }
  - { name: udp6, vip: "2001:db8::10", protocol: udp, ports: 80, tracking: off, backends: *pod6 }
  - { name: sip, vip: 203.0.113.10, protocol: udp, ports: 5060, tracking: off, backends: [{ address: 10.1.2.11 }] }
decap:
  allow_sources: [172.16.0.0/16, "fd00:7864:7000::/64"]
  translate:
    - { vip: 203.0.113.10, protocol: tcp, port: 80, target_port: 8080, pods: [10.244.1.7] }
    - { vip: 203.0.113.10, protocol: udp, port: 80, target_port: 8080, pods: [10.244.1.7] }
    - { vip: 203.0.113.10, protocol: udp, port: 88, target_port: 8080, pods: [10.244.1.7] }
    - { vip: "2001:db8::10", protocol: tcp, port: 80, target_port: 8080, pods: ["fd00:0:244::7"] }
    - { vip: "2001:db8::10", protocol: udp, port: 80, target_port: 8080, pods: ["fd00:0:244::7"] }
"#;

/// Loads the program that `config` asks for and fills its maps, attached to nothing.
///
/// # Panics
/// When it cannot; `prog::available` has been asked before.
pub fn load(config: &str) -> Box<dyn Subject> {
    Box::new(Pinned::load(config).unwrap_or_else(|e| panic!("load a configuration: {e:#}")))
}
