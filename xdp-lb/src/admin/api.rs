//! The bodies of the admin API: what JSON says, and what the OpenAPI description says of it.
//!
//! Times are seconds since 1970, durations seconds. Fields are added, never renamed: who reads must ignore what he does
//! not know.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Generation of the configuration in force.
    pub generation: u32,
    /// When it was carried out completely; 0 before.
    pub applied: u64,
    /// Services in it.
    pub services: usize,
    /// Why the maps are not as wanted, while they are not: writes fail and are tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Why the configuration that was offered last is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The cluster's resources that are in force beside the file: kind and name of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The generation whose text is in force instead of the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u32>,
    /// Backends that drain by command.
    pub drains: Vec<Drain>,
    /// Those that drain by command at peers, as they have told us.
    #[serde(default)]
    pub peer_drains: Vec<PeerDrain>,
}

/// A drain by command on another edge node. Here the backend goes on as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerDrain {
    /// The other node's `node.name`.
    pub node: String,
    /// Backend.
    #[schema(value_type = String, example = "10.1.2.11")]
    pub backend: IpAddr,
    /// The one service in which it drains; absent: all that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// When the command was given, on the other node's clock.
    pub since: u64,
}

/// A drain by command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Backend.
    #[schema(value_type = String, example = "10.1.2.11")]
    pub backend: IpAddr,
    /// The one service in which it drains; absent: all that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `stick`: known flows stay; `shed`: they move at once; absent: as each service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How long flows may stay, seconds; absent: as each service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// When the command was given.
    pub since: u64,
    /// What is left of it in every service.
    pub left: Vec<Left>,
}

/// `drain.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Known flows stay.
    Stick,
    /// They move at once.
    Shed,
}

/// What is left of a draining backend in a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Left {
    /// Service.
    pub service: String,
    /// `draining`, `drained`, `down`, or `active` while that has not been carried out.
    pub state: String,
    /// Flows that are remembered there.
    pub flows: u64,
    /// Slots by which connections that have been silent since the drain began would still go there.
    pub silent_slots: u32,
    /// The service waits for its tracking window: nobody has been moved yet.
    pub waiting: bool,
    /// When the time is up.
    pub until: u64,
    /// Nothing is left to wait for.
    pub done: bool,
}

/// Asks for a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Backend.
    #[schema(value_type = String, example = "10.1.2.11")]
    pub backend: IpAddr,
    /// Only in this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Otherwise than the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Otherwise than the service says, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000)]
    pub max: Option<u64>,
}

/// Goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// To this generation; absent: to the configuration before the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// Something was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// Generation of the configuration in force.
    pub generation: u32,
    /// What did not go as it should, though it was done.
    pub warnings: Vec<String>,
}

/// A configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its number.
    pub generation: u32,
    /// When it came into force.
    pub applied: u64,
    /// It is an earlier generation's text, which a rollback brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u32>,
    /// It is in force.
    pub current: bool,
    /// Its files as they were written; in the list without their texts.
    pub files: Vec<File>,
}

/// A file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Flows that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flows {
    /// How many.
    pub total: u64,
    /// The same by service and backend.
    pub counts: Vec<FlowCount>,
    /// Some or all of them one by one, as many as were asked for.
    pub flows: Vec<Flow>,
}

/// How many flows of a service are at a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowCount {
    /// Service.
    pub service: String,
    /// Backend; `null` where that is none of the service's any more.
    #[schema(value_type = Option<String>, example = "10.1.2.11")]
    pub backend: Option<IpAddr>,
    /// Flows.
    pub flows: u64,
    /// Those of them that are not where their slots send new flows.
    pub away: u64,
    /// Those of connections that are closing.
    pub closing: u64,
}

/// A flow that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// Service.
    pub service: String,
    /// Backend; `null` where that is none of the service's any more.
    #[schema(value_type = Option<String>, example = "10.1.2.11")]
    pub backend: Option<IpAddr>,
    /// What the flow table keeps of its hash, in hexadecimal.
    pub flow: String,
    /// Its slot.
    pub slot: u32,
    /// It is where its slot sends new flows.
    pub by_slot: bool,
    /// A FIN or RST was seen, and no data since.
    pub closing: bool,
    /// It is forgotten after so many seconds without a packet.
    pub expires_in: u64,
}

/// Flows were forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    /// How many.
    pub flows: u64,
}

/// Something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// Why, in words.
    pub error: String,
}

impl From<crate::drains::progress::Left> for Left {
    fn from(left: crate::drains::progress::Left) -> Self {
        use crate::status::Word as _;
        Self {
            done: left.is_done(),
            state: left.state.word().to_owned(),
            service: left.service,
            flows: left.flows,
            silent_slots: left.silent_slots,
            waiting: left.waiting,
            until: left.until,
        }
    }
}

impl From<(&str, &crate::drains::Target, &crate::drains::Terms)> for PeerDrain {
    fn from((node, target, terms): (&str, &crate::drains::Target, &crate::drains::Terms)) -> Self {
        Self {
            node: node.to_owned(),
            backend: target.backend,
            service: target.service.clone(),
            since: terms.since,
        }
    }
}

impl From<crate::flows::Listing> for Flows {
    fn from(crate::flows::Listing { total, counts, flows }: crate::flows::Listing) -> Self {
        Self {
            total,
            counts: counts.into_iter().map(FlowCount::from).collect(),
            flows: flows.into_iter().map(Flow::from).collect(),
        }
    }
}

impl From<crate::flows::Count> for FlowCount {
    fn from(count: crate::flows::Count) -> Self {
        let crate::flows::Count { service, backend, flows, away, closing } = count;
        Self { service, backend, flows, away, closing }
    }
}

impl From<crate::flows::Flow> for Flow {
    fn from(flow: crate::flows::Flow) -> Self {
        Self {
            service: flow.service,
            backend: flow.backend,
            flow: format!("{:016x}", flow.flow),
            slot: flow.slot,
            by_slot: flow.is_home,
            closing: flow.is_closing,
            expires_in: flow.left.as_secs(),
        }
    }
}

impl From<Mode> for crate::model::DrainMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Stick => Self::Stick,
            Mode::Shed => Self::Shed,
        }
    }
}

impl From<crate::model::DrainMode> for Mode {
    fn from(mode: crate::model::DrainMode) -> Self {
        match mode {
            crate::model::DrainMode::Stick => Self::Stick,
            crate::model::DrainMode::Shed => Self::Shed,
        }
    }
}
