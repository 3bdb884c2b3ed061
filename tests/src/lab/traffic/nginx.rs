//! The distribution's nginx in a namespace, with a configuration of ours, answering with [`Seen`](super::Seen).

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::namespace::Namespace;
use crate::lab::process::Process;
use crate::lab::scratch::Scratch;
use crate::lab::skip::find_program;
use crate::lab::wait::wait_until;

/// How long it may take to listen.
const READY_BOUND: Duration = Duration::from_secs(10);

/// A running nginx; dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts one in `ns` that calls itself `name` and listens on `addresses`; returns once it listens. The addresses
    /// may be put on `lo` afterwards: a backend's namespace allows it.
    ///
    /// # Errors
    /// When it is not installed, or does not listen.
    pub fn start(ns: &Namespace, name: &str, addresses: &[SocketAddr], scratch: &Scratch) -> Result<Self> {
        let nginx = find_program("nginx").context("nginx is not installed (apt-get install nginx-light)")?;
        let prefix = scratch.path().join(format!("nginx-{name}"));
        fs::create_dir_all(&prefix).with_context(|| format!("make {}", prefix.display()))?;
        let config = prefix.join("nginx.conf");
        fs::write(&config, configuration(name, addresses))
            .with_context(|| format!("write {}", config.display()))?;
        let mut command = Command::new(nginx);
        command.arg("-p").arg(&prefix).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut nginx = Self { process: ns.spawn(&format!("nginx {name}"), command)? };
        let listens = ns.enter(|| {
            wait_until(&format!("nginx {name} to listen"), READY_BOUND, || {
                nginx.process.poll().is_some() || addresses.iter().all(|a| is_listening(*a))
            })
        })?;
        if let Some(status) = nginx.process.poll() {
            bail!("nginx {name} ended ({status}):\n{}", nginx.process.log().join("\n"));
        }
        listens?;
        Ok(nginx)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Whether somebody listens on exactly this TCP address in the calling thread's namespace: asked of the kernel, since
/// a connection to a VIP that is not on `lo` yet would leave for the router.
fn is_listening(address: SocketAddr) -> bool {
    // The kernel prints the address as host-order words of the network-order bytes.
    let words = |bytes: &[u8]| -> String {
        bytes
            .chunks_exact(4)
            .map(|w| format!("{:08X}", u32::from_ne_bytes([w[0], w[1], w[2], w[3]])))
            .collect()
    };
    let (table, ip) = match address.ip() {
        IpAddr::V4(ip) => ("tcp", words(&ip.octets())),
        IpAddr::V6(ip) => ("tcp6", words(&ip.octets())),
    };
    let local = format!("{ip}:{:04X}", address.port());
    let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.nth(1) == Some("0A")
    })
}

/// One process, nothing written outside the prefix, every request answered from the configuration itself.
fn configuration(name: &str, addresses: &[SocketAddr]) -> String {
    let listen: String = addresses
        .iter()
        // Its own IPv6 sockets take no IPv4, so that both families can be listed.
        .map(|a| format!("        listen {a}{};\n", if a.is_ipv6() { " ipv6only=on" } else { "" }))
        .collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .collect();
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000;
{temporary}    server {{
{listen}        location / {{
            default_type text/plain;
            return 200 \"{name} $remote_addr $remote_port\\n\";
        }}
    }}
}}
"
    )
}
