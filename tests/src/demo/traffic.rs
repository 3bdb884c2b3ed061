//! The clients of the show, and what they have seen at one moment.

use std::time::Duration;

use anyhow::Result;

use crate::lab::files::{self, ECHO, MEDIA, WEB};
use crate::lab::topology::Lab;
use crate::lab::traffic::{CallReport, Calls, Load, LoadOptions, LoadReport};

/// A request not answered within this has failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests a second, on a connection each.
pub const RATE: f64 = 300.0;
/// Clients: each has one request in flight, and so many may hang on a dead backend before the others feel it.
const CLIENTS: usize = 300;
/// Long TCP connections.
pub const CONNECTIONS: usize = 60;
/// UDP streams.
pub const STREAMS: usize = 10;
/// How long the first answers may take.
const FIRST_BOUND: Duration = Duration::from_secs(20);

/// Everything that the clients do.
#[derive(Debug)]
pub struct Traffic<'lab> {
    lab: &'lab Lab,
    load: Load,
    calls: Calls,
}

/// What has happened until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Short requests.
    pub load: LoadReport,
    /// Long connections and streams.
    pub calls: CallReport,
    /// Packets that the router has sent to each edge node.
    pub to_edges: Vec<u64>,
}

impl Sample {
    /// Time since the traffic began.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.load.elapsed
    }
}

impl<'lab> Traffic<'lab> {
    /// Starts all clients and waits until each long connection and stream has been answered.
    ///
    /// # Errors
    /// When somebody is not answered.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let client = &lab.client(1).ns;
        let calls = Calls::start(client, (&files::at(ECHO), CONNECTIONS), (&files::at(MEDIA), STREAMS))?;
        calls.wait(1, FIRST_BOUND)?;
        let options =
            LoadOptions { clients: CLIENTS, rate: RATE, timeout: REQUEST_TIMEOUT, ..LoadOptions::default() };
        Ok(Self { lab, load: Load::start(client, &files::at(WEB), options)?, calls })
    }

    /// What has happened so far.
    ///
    /// # Errors
    /// When the router's counters cannot be read.
    pub fn sample(&self) -> Result<Sample> {
        Ok(Sample { load: self.load.report(), calls: self.calls.report(), to_edges: to_edges(self.lab)? })
    }

    /// Ends it all, waits for what is in flight, and says what has happened.
    ///
    /// # Errors
    /// When a client does not end.
    pub fn stop(self) -> Result<Sample> {
        let load = self.load.stop()?;
        Ok(Sample { load, calls: self.calls.stop()?, to_edges: to_edges(self.lab)? })
    }
}

fn to_edges(lab: &Lab) -> Result<Vec<u64>> {
    lab.edges().iter().map(|edge| Ok(lab.router_counters(edge)?.tx_packets)).collect()
}
