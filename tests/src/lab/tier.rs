//! The balancing tier of a lab: `xdp-lb run` on the edge nodes and `xdp-lb decap` on the backends.
//!
//! ```no_run
//! use xdp_lb_tests::lab::{EdgeFile, Lab, Options, Tier, Mode, files};
//!
//! fn a_test() -> anyhow::Result<()> {
//!     let lab = Lab::start(&Options::default())?;
//!     let _servers = files::serve(lab.backends())?;
//!     let file = EdgeFile::new(3);
//!     let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
//!     let drained = file.with(1, files::State::Drain);
//!     tier.reload(|n| drained.text(n))
//! }
//! ```

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::files::{self, Mode};
use super::plan::Role;
use super::product::{self, Daemon, Output, Product, Reload};
use super::topology::{Host, Lab};

/// One daemon of the product on one host, and how to start it again.
#[derive(Debug)]
pub struct Node<'lab> {
    lab: &'lab Lab,
    role: Role,
    daemon: Daemon,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its place on the BPF file system.
    pub bpffs: PathBuf,
    /// Arguments beyond these two, for [`Node::restart`].
    pub extra: Vec<String>,
    /// Another binary than the product's own, for [`Node::restart`].
    pub binary: Option<PathBuf>,
    /// The running or ended daemon.
    pub product: Product,
}

impl<'lab> Node<'lab> {
    /// Starts `daemon` on `host` with the configuration `text`; not ready yet.
    ///
    /// # Errors
    /// When there is no binary or the file cannot be written.
    pub fn start(lab: &'lab Lab, host: &Host, daemon: Daemon, text: &str) -> Result<Self> {
        let role = host.role;
        let config = lab.scratch().write(&format!("{}.yaml", role.name()), text)?;
        let bpffs = lab.bpf().of(&role.name());
        let product = Product::start_unready(&host.ns, daemon, &config, &bpffs, &[])?;
        Ok(Self { lab, role, daemon, config, bpffs, extra: Vec::new(), binary: None, product })
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &'lab Host {
        self.lab.host(self.role)
    }

    /// Starts the daemon anew, after it has ended, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is silent instead.
    pub fn restart(&mut self) -> Result<()> {
        let extra: Vec<&str> = self.extra.iter().map(String::as_str).collect();
        let binary = self.binary.clone().map_or_else(product::binary, Ok)?;
        let (ns, daemon) = (&self.host().ns, self.daemon);
        self.product = Product::start_binary(&binary, ns, daemon, &self.config, &self.bpffs, &extra)?;
        self.product.wait_ready()
    }

    /// Writes its file and has it read again.
    ///
    /// # Errors
    /// When the file cannot be written, or the daemon ends or says nothing.
    pub fn try_reload(&mut self, text: &str) -> Result<Reload> {
        self.write(text)?;
        self.product.reload()
    }

    fn write(&self, text: &str) -> Result<()> {
        self.lab.scratch().write(&format!("{}.yaml", self.role.name()), text).map(drop)
    }

    /// The same, of a file that must be taken.
    ///
    /// # Errors
    /// When it is refused.
    pub fn reload(&mut self, text: &str) -> Result<()> {
        let outcome = self.try_reload(text)?;
        ensure!(outcome.done, "{}: {}", self.role.name(), outcome.line);
        Ok(())
    }

    /// Runs `xdp-lb VERB ARGS... --bpffs DIR` on this host.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn command(&self, verb: &str, args: &[&str]) -> Result<Output> {
        let own = product::places(&self.bpffs);
        let args: Vec<_> = [verb.into()].into_iter().chain(own).chain(args.iter().map(Into::into)).collect();
        product::command(&self.host().ns, &args, product::READY_BOUND)
    }
}

/// All daemons of a lab.
#[derive(Debug)]
pub struct Tier<'lab> {
    /// Edge nodes in order: `edges[0]` is `edge1`.
    pub edges: Vec<Node<'lab>>,
    /// Backends in order.
    pub decaps: Vec<Node<'lab>>,
}

impl<'lab> Tier<'lab> {
    /// Starts a decap on every backend and a balancer on every edge node, with the file `edge(n)`, and waits until
    /// all are ready.
    ///
    /// # Errors
    /// Names the daemon that is not.
    pub fn start(lab: &'lab Lab, decap: Mode, edge: impl Fn(u8) -> String) -> Result<Self> {
        Self::start_with(lab, &files::decap_file(decap), edge)
    }

    /// The same with another file for the backends.
    ///
    /// # Errors
    /// Names the daemon that is not ready.
    pub fn start_with(lab: &'lab Lab, decap: &str, edge: impl Fn(u8) -> String) -> Result<Self> {
        // All at once: each spends its time in the kernel's verifier.
        let mut decaps: Vec<_> = lab
            .backends()
            .iter()
            .map(|host| Node::start(lab, host, Daemon::Decap, decap))
            .collect::<Result<_>>()?;
        let mut edges: Vec<_> = (1..)
            .zip(lab.edges())
            .map(|(n, host)| Node::start(lab, host, Daemon::Run, &edge(n)))
            .collect::<Result<_>>()?;
        for node in decaps.iter_mut().chain(&mut edges) {
            node.product.wait_ready()?;
        }
        Ok(Self { edges, decaps })
    }

    /// Writes the file `edge(n)` of every edge node and has it read again.
    ///
    /// # Errors
    /// When one is refused.
    pub fn reload(&mut self, edge: impl Fn(u8) -> String) -> Result<()> {
        // All are told before any is waited for: as short as can be, nodes know different things.
        let tell = |(n, node): (u8, &mut Node<'_>)| {
            node.write(&edge(n))?;
            node.product.begin_reload()
        };
        let marks: Vec<usize> = (1..).zip(&mut self.edges).map(tell).collect::<Result<_>>()?;
        for (node, mark) in self.edges.iter_mut().zip(marks) {
            let outcome = node.product.end_reload(mark)?;
            ensure!(outcome.done, "{}: {}", node.role.name(), outcome.line);
        }
        Ok(())
    }
}
