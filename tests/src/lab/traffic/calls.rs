//! Everything long-lived at once: TCP connections and UDP streams in both families, over all tunnels.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::connections::{Connection, ConnectionOptions, Connections, End};
use super::datagrams::{DatagramOptions, Datagrams, Flow};
use crate::lab::namespace::Namespace;

/// Running connections and streams.
#[derive(Debug)]
pub struct Calls {
    connections: Vec<Connections>,
    streams: Vec<Datagrams>,
}

/// What has happened to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallReport {
    /// TCP connections in a stable order.
    pub connections: Vec<Connection>,
    /// UDP flows in a stable order.
    pub flows: Vec<Flow>,
}

impl Calls {
    /// Starts `connections` TCP connections, spread evenly over the addresses `tcp`, and `flows` UDP flows, over `udp`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(
        ns: &Namespace,
        (tcp, connections): (&[SocketAddr], usize),
        (udp, flows): (&[SocketAddr], usize),
    ) -> Result<Self> {
        let tcp_options = ConnectionOptions {
            connections: connections.div_ceil(tcp.len()),
            ..ConnectionOptions::default()
        };
        let udp_options = DatagramOptions { flows: flows.div_ceil(udp.len()), ..DatagramOptions::default() };
        Ok(Self {
            connections: tcp
                .iter()
                .map(|target| Connections::start(ns, *target, tcp_options.clone()))
                .collect::<Result<_>>()?,
            streams: udp
                .iter()
                .map(|target| Datagrams::start(ns, *target, udp_options.clone()))
                .collect::<Result<_>>()?,
        })
    }

    /// Waits until every living connection and every flow has had `more` more answers: proof that all work now.
    ///
    /// # Errors
    /// When one has not within `bound`.
    pub fn wait(&self, more: u64, bound: Duration) -> Result<()> {
        self.connections.iter().try_for_each(|c| c.wait_records(more, bound))?;
        self.streams.iter().try_for_each(|s| s.wait_answers(more, bound))
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> CallReport {
        CallReport {
            connections: self.connections.iter().flat_map(Connections::report).collect(),
            flows: self.streams.iter().flat_map(Datagrams::report).collect(),
        }
    }

    /// Closes everything, waits for the last answers and returns what has happened.
    ///
    /// # Errors
    /// When a worker does not end.
    pub fn stop(self) -> Result<CallReport> {
        let mut report = CallReport::default();
        for connections in self.connections {
            report.connections.extend(connections.stop()?);
        }
        for streams in self.streams {
            report.flows.extend(streams.stop()?);
        }
        Ok(report)
    }
}

impl CallReport {
    /// Open connections of each server.
    #[must_use]
    pub fn open_by_server(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for connection in &self.connections {
            if let (End::Open, Some(server)) = (&connection.end, &connection.server) {
                *counts.entry(server.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Flows of each server, by who answered last.
    #[must_use]
    pub fn flows_by_server(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for server in self.flows.iter().filter_map(|flow| flow.servers.last()) {
            *counts.entry(server.clone()).or_default() += 1;
        }
        counts
    }

    /// The same without what was with `server` from the beginning.
    #[must_use]
    pub fn except(&self, server: &str) -> Self {
        Self {
            connections: self
                .connections
                .iter()
                .filter(|c| c.server.as_deref() != Some(server))
                .cloned()
                .collect(),
            flows: self
                .flows
                .iter()
                .filter(|f| f.servers.first().is_none_or(|first| first != server))
                .cloned()
                .collect(),
        }
    }

    /// Checks that nothing bad has happened to anyone.
    ///
    /// # Errors
    /// Shows those that something has happened to, and says `when`.
    pub fn unharmed(&self, when: &str) -> Result<()> {
        let connections: Vec<_> = self.connections.iter().filter(|c| !c.is_unharmed()).collect();
        let flows: Vec<_> = self.flows.iter().filter(|f| !f.is_unharmed()).collect();
        ensure!(
            connections.is_empty() && flows.is_empty(),
            "{when}: {} of {} connections and {} of {} flows were harmed: {connections:#?} {flows:#?}",
            connections.len(),
            self.connections.len(),
            flows.len(),
            self.flows.len()
        );
        Ok(())
    }
}
