//! A cluster in a lab: everything of ours that runs in one, following real API servers, and a router that is told of VIPs.
//!
//! ```text
//!   client1 --- router (FRR) --- edge1     `run`, announces to the router
//!                           |--- backend1  `decap`, the controller, pods
//!                           '--- backend2  `decap`, pods
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps};
use xdp_lb::state::{Maps as _, Observed};
use xdp_lb::template::from_map;
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING};
use xdp_lb_common::vip::VIP_USED;
use xdp_lb_tests::lab::cluster::{Running, decap_file, edge_file, node, slices};
use xdp_lb_tests::lab::files::{self, WEB};
use xdp_lb_tests::lab::traffic::{Load, LoadOptions};
use xdp_lb_tests::lab::{Daemon, Forwarder, Frr, Host, Lab, Node, Process, bgp, pods, product, wait_until};

use super::api::Api;
use super::servers::{Account, Servers};

pub const BOUND: Duration = Duration::from_secs(40);
/// Services of the namespace that all is in.
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
/// EndpointSlices of it.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// All that runs. Daemons go before what they talk to.
pub struct Scene<'lab> {
    pub lab: &'lab Lab,
    pub edge: Node<'lab>,
    pub nodes: Vec<Node<'lab>>,
    pub controller: Process,
    pub frr: Frr<'lab>,
    /// From the edge node to its API server.
    pub edges_way: Forwarder<'lab>,
    /// From each other node to theirs.
    pub nodes_ways: Vec<Forwarder<'lab>>,
    _controllers_way: Forwarder<'lab>,
    /// Where objects are written: at an API server that is never killed.
    pub api: Api,
    pub servers: Servers,
}

impl<'lab> Scene<'lab> {
    /// Starts everything in a lab of one edge node and two backends. The cluster has its Nodes and a pool, which begins with
    /// the VIP, and no Service.
    pub fn start(lab: &'lab Lab, tools: PathBuf) -> Result<Self> {
        for n in [1, 2] {
            pods::forward(lab.backend(n))?;
            pods::route_pods(lab, n)?;
            pods::filters(lab, lab.backend(n))?;
        }
        let section = bgp::Section::default();
        let frr = Frr::start(lab.router(), lab.scratch().path(), &bgp::frr(lab, &section), "")?;
        let servers = Servers::start(lab, tools)?;
        let api = servers.api(Account::Controller)?;
        for host in lab.edges().iter().chain(lab.backends()) {
            api.put(&node(host.role))?;
        }
        api.put(
            &json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "VipPool", "metadata": { "name": "public" },
            "spec": { "addresses": ["203.0.113.10-203.0.113.19", "2001:db8::10-2001:db8::19"] } }),
        )?;
        let way = |host: &'lab Host, account| Forwarder::start(&host.ns, servers.at(account));
        let edges_way = way(lab.edge(1), Account::Agent)?;
        let nodes_ways =
            lab.backends().iter().map(|host| way(host, Account::Decap)).collect::<Result<_>>()?;
        let controllers_way = way(lab.backend(1), Account::Controller)?;

        let follows =
            |account| format!("kubernetes: {{ kubeconfig: {} }}\n", servers.kubeconfig(account).display());
        let mut nodes = Vec::new();
        for host in lab.backends() {
            let text = decap_file(host) + &follows(Account::Decap);
            nodes.push(Node::start(lab, host, Daemon::Decap, &text)?);
        }
        let text = section.add_to(lab, &(edge_file(1) + &follows(Account::Agent)), 1);
        let mut edge = Node::start(lab, lab.edge(1), Daemon::Run, &text)?;
        let mut command = Command::new(product::binary()?);
        command.arg("controller").arg("--kubeconfig").arg(servers.kubeconfig(Account::Controller));
        command.args(["--namespace", "default", "--identity", "one"]);
        let controller = lab.backend(1).ns.spawn("xdp-lb controller", command)?;
        nodes.iter_mut().try_for_each(|node| node.product.wait_ready())?;
        edge.product.wait_ready()?;
        let _controllers_way = controllers_way;
        Ok(Self { lab, edge, nodes, controller, frr, edges_way, nodes_ways, _controllers_way, api, servers })
    }

    /// The edge node's maps as they are.
    pub fn maps(&self) -> Result<KernelMaps> {
        Ok(KernelMaps::open_read_only(&BpffsRoot::new(&self.edge.bpffs))?)
    }

    /// What they hold, by service.
    pub fn held(&self) -> Result<Held> {
        Ok(held(&self.maps()?.observe()))
    }

    /// Whether they hold this.
    pub fn holds(&self, wanted: &Held) -> bool {
        self.held().is_ok_and(|held| held == *wanted)
    }

    /// Tells the API server of the pods of a Service; when the last answer came.
    pub fn publish<'a>(
        &self,
        service: &str,
        pods: impl IntoIterator<Item = &'a Running> + Clone,
    ) -> Result<Instant> {
        let [v4, v6] = slices(service, pods);
        self.api.put(&v4)?;
        self.api.put(&v6)
    }

    /// Steady requests to both VIPs, until they are stopped.
    pub fn load(&self) -> Result<Load> {
        let options = LoadOptions { rate: 300.0, ..LoadOptions::default() };
        Load::start(&self.lab.client(1).ns, &files::at(WEB), options)
    }

    /// Requests to both VIPs, all answered; by whom.
    pub fn answered(&self) -> Result<Vec<String>> {
        let options = LoadOptions { requests: 200, rate: 1000.0, ..LoadOptions::default() };
        let report = Load::start(&self.lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?;
        ensure!(report.failures() == 0 && report.answers() == 200, "{report:?}");
        Ok(report.answered.into_keys().collect())
    }

    /// How many of four requests are answered; none needs to be.
    pub fn answers(&self) -> Result<u64> {
        let timeout = Duration::from_millis(300);
        let options = LoadOptions { requests: 4, timeout, ..LoadOptions::default() };
        Ok(Load::start(&self.lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?.answers())
    }

    /// An object of our own kinds: `vippools/public`.
    pub fn ours(&self, path: &str) -> Result<Value> {
        self.api
            .get(&format!("/apis/xdp-lb.io/v1alpha1/{path}"))?
            .with_context(|| format!("there is no {path}"))
    }

    /// Addresses of a Service's status.
    pub fn ingress(&self, service: &str) -> Result<Value> {
        let object = self.api.get(&format!("{SERVICES}/{service}"))?.unwrap_or_default();
        Ok(object["status"]["loadBalancer"]["ingress"].clone())
    }

    /// Conditions of a Service, as `type status reason: message`.
    pub fn conditions(&self, service: &str) -> Result<Vec<String>> {
        let object = self.api.get(&format!("{SERVICES}/{service}"))?.unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = |c: &Value| {
            let [kind, status, reason, message] =
                ["type", "status", "reason", "message"].map(|key| text(&c[key]));
            format!("{kind} {status} {reason}: {message}").trim_end().to_owned()
        };
        Ok(object["status"]["conditions"].as_array().into_iter().flatten().map(line).collect())
    }

    /// Waits until a Service has exactly these conditions.
    pub fn wait_conditions(&self, service: &str, wanted: &[&str]) -> Result<()> {
        let outcome = wait_until(&format!("conditions of {service}"), BOUND, || {
            self.conditions(service).is_ok_and(|has| has == wanted)
        });
        outcome.with_context(|| {
            let said = self.controller.log().join("\n");
            format!("{:#?}\nThe controller says:\n{said}", self.conditions(service))
        })
    }

    /// Events about a Service, in their order, as `type reason: message`.
    pub fn events(&self, service: &str) -> Result<Vec<String>> {
        let mut events = self.api.list("/api/v1/namespaces/default/events")?;
        events.retain(|event| event["involvedObject"]["name"] == service);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.sort_by_key(|event| text(&event["firstTimestamp"]));
        let line =
            |e: &Value| format!("{} {}: {}", text(&e["type"]), text(&e["reason"]), text(&e["message"]));
        Ok(events.iter().map(line).collect())
    }

    /// Whether the router has a route of its own to each VIP.
    pub fn is_announced(&self) -> bool {
        files::at(WEB).iter().all(|vip| {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            self.frr.paths(&format!("{}/{length}", vip.ip())).is_ok_and(|paths| !paths.is_empty())
        })
    }
}

/// Backends and their states, by service. Who is down gets nothing: a backend that has left stays as such while slots remember it.
pub type Held = BTreeMap<String, BTreeMap<IpAddr, State>>;

/// What the maps say of a backend that is not down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Takes,
    Drains,
}

/// What was in the maps, by service.
pub fn held(observed: &Observed) -> Held {
    let mut held = Held::new();
    for (id, service) in &observed.services {
        let name = String::from_utf8_lossy(&service.name).trim_end_matches('\0').to_owned();
        let members = observed.ring(*id).into_iter().flat_map(|ring| ring.members.values());
        let alive = members.filter(|member| member.state & BACKEND_ALIVE != 0);
        let state = |bits: u32| if bits & BACKEND_DRAINING == 0 { State::Takes } else { State::Drains };
        held.insert(name, alive.map(|member| (from_map(member.address), state(member.state))).collect());
    }
    held
}

/// What maps are to hold of a Service with these pods.
pub fn with<'a>(service: &str, pods: impl IntoIterator<Item = (&'a Running, State)>) -> Held {
    let mut held = Held::new();
    for (Running { pod, .. }, state) in pods {
        for (ip, name) in pod.address.both().into_iter().zip(["http", "http/v6"]) {
            held.entry(format!("default/{service}/{name}")).or_default().insert(ip, state);
        }
    }
    held
}

/// Whether nothing has changed: tables, headers, slots, dirty bits and all.
pub fn is_same(a: &Observed, b: &Observed) -> bool {
    bytemuck::bytes_of(&a.control) == bytemuck::bytes_of(&b.control)
        && a.vips == b.vips
        && a.pages == b.pages
        && a.services == b.services
        && a.rings == b.rings
        && bytemuck::bytes_of(&a.sources) == bytemuck::bytes_of(&b.sources)
        && a.tx_ports == b.tx_ports
        && a.server_ids == b.server_ids
        && a.source_ranges == b.source_ranges
        && a.pod_ports == b.pod_ports
}

/// VIPs in the maps.
pub fn vips(observed: &Observed) -> usize {
    observed.vips.iter().filter(|vip| vip.flags & VIP_USED != 0).count()
}
