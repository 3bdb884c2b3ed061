//! Drains by command: this node's own, beside what the file says.
//!
//! ```text
//!   file -> Desired --apply--> backends that a command drains are DrainBy(policy) -> health -> plan
//! ```
//!
//! A drain names a backend, in one service or in all. The file's word counts where it is stricter: what it calls down
//! stays down. Kept by the agent across its own end; [`progress`] says what is left to wait for.

pub mod progress;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, Backend, Desired, DrainMode, DrainPolicy, share_lists};

/// Whom a drain is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Backend.
    pub backend: IpAddr,
    /// The one service in which it drains; `None`: all.
    pub service: Option<String>,
}

impl Target {
    fn covers(&self, service: &str, backend: IpAddr) -> bool {
        self.backend == backend && self.service.as_deref().is_none_or(|own| own == service)
    }
}

/// How it drains; what is not said, the service's `drain` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Known flows stay, or move at once.
    pub mode: Option<DrainMode>,
    /// How long they may stay.
    pub max: Option<Duration>,
    /// When the command was given, seconds since 1970.
    pub since: u64,
}

impl Terms {
    /// The policy in a service.
    #[must_use]
    pub fn policy(&self, service: DrainPolicy) -> DrainPolicy {
        DrainPolicy { mode: self.mode.unwrap_or(service.mode), max: self.max.unwrap_or(service.max) }
    }
}

/// All drains of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains(BTreeMap<Target, Terms>);

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No service has such a backend.
    #[error("no service has the backend {0}")]
    NoBackend(IpAddr),
    /// That service has no such backend.
    #[error("service {service} has no backend {backend}")]
    NotIn {
        /// Backend.
        backend: IpAddr,
        /// Service.
        service: String,
    },
    /// There is no such service.
    #[error("there is no service {0}")]
    NoService(String),
    /// No command has drained it.
    #[error("no command drains {0} here")]
    NotDrained(IpAddr),
    /// It drains in all services by one command.
    #[error("{0} drains in all services: undrain it everywhere, then drain it where it shall drain")]
    InAll(IpAddr),
    /// The file says so, and only the file can take it back.
    #[error("the configuration says `state: drain` of {0}: change it there")]
    ByFile(IpAddr),
}

impl Drains {
    /// Lets a backend drain; said again, the new terms count, from when it was said first.
    ///
    /// # Errors
    /// When nobody has such a backend.
    pub fn drain(&mut self, target: Target, terms: Terms, desired: &Desired) -> Result<(), Refused> {
        is_known(&target, desired)?;
        let since = self.0.get(&target).map_or(terms.since, |old| old.since);
        self.0.insert(target, Terms { since, ..terms });
        Ok(())
    }

    /// Takes drains back: that of one service, or all of a backend.
    ///
    /// # Errors
    /// When no command drains it there.
    pub fn undrain(&mut self, target: &Target, desired: &Desired) -> Result<(), Refused> {
        let before = self.0.len();
        self.0.retain(|own, _| own != target && (target.service.is_some() || own.backend != target.backend));
        if self.0.len() < before {
            return Ok(());
        }
        if self.0.contains_key(&Target { service: None, ..target.clone() }) {
            return Err(Refused::InAll(target.backend));
        }
        let drains = |b: &Backend| b.address == target.backend && b.state == AdminState::Drain;
        let mut services = desired.services.iter().filter(|s| target.covers(&s.name, target.backend));
        if services.any(|s| s.backends.iter().any(drains)) {
            return Err(Refused::ByFile(target.backend));
        }
        Err(Refused::NotDrained(target.backend))
    }

    /// `desired` as the planner is to see it.
    #[must_use]
    pub fn apply(&self, desired: &Desired) -> Desired {
        let mut desired = desired.clone();
        if self.0.is_empty() {
            return desired;
        }
        for service in &mut desired.services {
            for n in 0..service.backends.len() {
                let Backend { address, state, .. } = service.backends[n];
                let Some(terms) = self.of(&service.name, address) else { continue };
                // Services share lists that nobody changes.
                if state != AdminState::Down {
                    let policy = terms.policy(service.drain);
                    let own = AdminState::DrainBy(policy);
                    service.backends[n].state = if policy == service.drain { AdminState::Drain } else { own };
                }
            }
        }
        // Those that changed alike are one list again.
        share_lists(&mut desired.services);
        desired
    }

    /// What drains a backend in a service: a drain of that service counts before one of all.
    #[must_use]
    pub fn of(&self, service: &str, backend: IpAddr) -> Option<&Terms> {
        let own = Target { backend, service: Some(service.to_owned()) };
        self.0.get(&own).or_else(|| self.0.get(&Target { backend, service: None }))
    }

    /// All, by backend.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Terms)> {
        self.0.iter()
    }

    /// True when no command drains anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_known(target: &Target, desired: &Desired) -> Result<(), Refused> {
    let backend = target.backend;
    let has = |s: &crate::model::Service| s.backends.iter().any(|b| b.address == backend);
    match &target.service {
        None if desired.services.iter().any(has) => Ok(()),
        None => Err(Refused::NoBackend(backend)),
        Some(name) => match desired.services.iter().find(|s| s.name == *name) {
            None => Err(Refused::NoService(name.clone())),
            Some(service) if has(service) => Ok(()),
            Some(_) => Err(Refused::NotIn { backend, service: name.clone() }),
        },
    }
}

/// How a drain is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Backend.
    pub backend: IpAddr,
    /// Service; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `stick` or `shed`; absent: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Seconds; absent: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Seconds since 1970.
    pub since: u64,
}

/// [`DrainMode`] as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Known flows stay.
    Stick,
    /// They move at once.
    Shed,
}

impl From<Mode> for DrainMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Stick => Self::Stick,
            Mode::Shed => Self::Shed,
        }
    }
}

impl From<DrainMode> for Mode {
    fn from(mode: DrainMode) -> Self {
        match mode {
            DrainMode::Stick => Self::Stick,
            DrainMode::Shed => Self::Shed,
        }
    }
}

impl From<&Drains> for Vec<Written> {
    fn from(drains: &Drains) -> Self {
        let written = |(target, terms): (&Target, &Terms)| Written {
            backend: target.backend,
            service: target.service.clone(),
            mode: terms.mode.map(Mode::from),
            max: terms.max.map(|max| max.as_secs()),
            since: terms.since,
        };
        drains.iter().map(written).collect()
    }
}

impl FromIterator<Written> for Drains {
    fn from_iter<I: IntoIterator<Item = Written>>(written: I) -> Self {
        let read = |w: Written| {
            let Written { backend, service, mode, max, since } = w;
            let terms = Terms { mode: mode.map(DrainMode::from), max: max.map(Duration::from_secs), since };
            (Target { backend, service }, terms)
        };
        Self(written.into_iter().map(read).collect())
    }
}

#[cfg(test)]
mod tests;
