//! All backends that are asked: when each is due, and what came of it.
//!
//! The runner owns one, asks it what is due, and tells it the answers. A backend that is asked for the first time
//! takes the state that the maps have of it, or starts closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::machine::{Change, Machine, State};
use super::reason::{Answer, Failure, Suspect, Unable};
use super::schedule::Schedule;
use super::snapshot::{BUCKETS, HealthSnapshot, TargetHealth};
use super::ways::Way;

/// Questions to one backend that may be under way: the next may begin before the last has timed out, by the jitter.
const OVERLAP: u32 = 2;

/// One silence in so many is looked into anew.
const RECHECK: u64 = 10;
/// How long an ICMP error explains silences: a node sends few of them a second, however many packets it refuses.
const TOLD: Duration = Duration::from_secs(30);

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Name of the service.
    pub service: Arc<str>,
    /// Address of the backend.
    pub backend: IpAddr,
}

/// What is asked of a backend, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The check.
    pub check: Check,
    /// VIPs of the service, all of which must answer; with `via: direct` the backend's address stands for them.
    pub vips: Vec<IpAddr>,
    /// Whether the protocol of the service is TCP: STUN and SIP are asked over it.
    pub over_tcp: bool,
    /// The way there.
    pub way: Way,
}

/// A question that is due.
#[derive(Clone, Debug)]
pub struct Due {
    /// Of whom.
    pub key: Key,
    /// Tells this target from a later one of the same key.
    pub serial: u64,
    /// What to ask.
    pub target: Arc<Target>,
}

#[derive(Debug)]
struct Entry {
    target: Arc<Target>,
    serial: u64,
    machine: Machine,
    schedule: Schedule,
    round: u32,
    under_way: u32,
    unable: Option<Unable>,
    /// When ICMP last told why.
    told: Option<Duration>,
    good: u64,
    bad: u64,
    took: [u64; BUCKETS.len() + 1],
    took_sum: Duration,
}

/// The backends that are asked.
#[derive(Debug, Default)]
pub struct Board {
    seed: u64,
    entries: BTreeMap<Key, Entry>,
    due: BTreeSet<(Duration, Key)>,
    serial: u64,
    changes: u64,
    words: u64,
}

impl Board {
    /// An empty board; `seed` decides phases and jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Makes `targets` the ones that are asked. Those that stay keep their state whatever else changed; a new one
    /// takes its state from `known`, or starts closed.
    pub fn sync(&mut self, targets: BTreeMap<Key, Target>, known: &BTreeMap<Key, State>, now: Duration) {
        let gone: Vec<Key> = self.entries.keys().filter(|key| !targets.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for (key, target) in targets {
            let machine = match self.entries.get_mut(&key) {
                Some(entry) if *entry.target == target => continue,
                Some(entry) if entry.target.check.interval == target.check.interval => {
                    entry.target = Arc::new(target);
                    continue;
                }
                Some(entry) => entry.machine.clone(),
                None => match known.get(&key) {
                    Some(&state) => Machine::resumed(state, now),
                    None => Machine::new(now),
                },
            };
            self.remove(&key);
            self.insert(key, target, machine, now);
        }
    }

    /// Everything that is due at `now`.
    pub fn due(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.due.pop_first() else { break };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.round = entry.schedule.next(entry.round, now);
            self.due.insert((entry.schedule.at(entry.round), key.clone()));
            if entry.under_way < OVERLAP {
                entry.under_way += 1;
                due.push(Due { key, serial: entry.serial, target: Arc::clone(&entry.target) });
            }
        }
        due
    }

    /// When the next question is due.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the answer to a question; says whether the state changed.
    pub fn answer(&mut self, key: &Key, serial: u64, now: Duration, answer: Answer) -> Option<Change> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.serial == serial)?;
        entry.under_way = entry.under_way.saturating_sub(1);
        let answer = match answer {
            Answer::Unable(unable) => {
                self.words += u64::from(entry.unable.as_ref() != Some(&unable));
                entry.unable = Some(unable);
                return None;
            }
            Answer::Good(took) => {
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                entry.took[BUCKETS.iter().position(|&b| millis < b).unwrap_or(BUCKETS.len())] += 1;
                entry.took_sum += took;
                entry.good += 1;
                Ok(())
            }
            Answer::Bad(failure) => {
                entry.bad += 1;
                Err(failure)
            }
        };
        entry.unable = None;
        let before = entry.machine.reason().cloned();
        if answer.as_ref().is_err_and(by_icmp) {
            entry.told = Some(now);
        }
        let holds = entry.told.is_some_and(|at| now.saturating_sub(at) < TOLD);
        let answer = answer.map_err(|failure| carried_over(failure, before.as_ref(), holds));
        let change = entry.machine.observe(&entry.target.check, now, answer);
        self.changes += u64::from(change.is_some());
        self.words += u64::from(change.is_some() || entry.machine.reason() != before.as_ref());
        change
    }

    /// Puts a better reason in the place of a silence; says whether it differs.
    pub fn explain(&mut self, key: &Key, serial: u64, better: Failure) -> bool {
        let entry = self.entries.get_mut(key).filter(|entry| entry.serial == serial);
        // A later answer may have had a reason of its own.
        let silent = |entry: &&mut Entry| matches!(entry.machine.reason(), Some(Failure::Silent { .. }));
        let differs = entry.filter(silent).is_some_and(|entry| entry.machine.explain(better));
        self.words += u64::from(differs);
        differs
    }

    /// Whether it is worth asking if the node of a backend lives that is silent through the tunnel: until it is
    /// known, and now and then.
    #[must_use]
    pub fn wants_suspect(&self, key: &Key) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        match entry.machine.reason() {
            Some(Failure::Silent { suspect: Suspect::Unknown, .. }) => true,
            Some(Failure::Silent { .. }) => entry.bad.is_multiple_of(RECHECK),
            _ => false,
        }
    }

    /// Why the last question to a backend could not be asked.
    #[must_use]
    pub fn unable(&self, key: &Key) -> Option<&Unable> {
        self.entries.get(key)?.unable.as_ref()
    }

    /// How many changes there were, of states and of words.
    #[must_use]
    pub fn changes(&self) -> (u64, u64) {
        (self.changes, self.words)
    }

    /// What is known of one backend.
    #[must_use]
    pub fn state(&self, key: &Key) -> Option<&Machine> {
        self.entries.get(key).map(|entry| &entry.machine)
    }

    /// All of it as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Duration) -> HealthSnapshot {
        let one = |(key, entry): (&Key, &Entry)| {
            let (machine, check) = (&entry.machine, &entry.target.check);
            let needed = if machine.state() == State::Up { check.fall } else { machine.needed(check, now) };
            let health = TargetHealth {
                state: machine.state(),
                since: machine.since(),
                kind: check.kind.word(),
                reason: machine.reason().cloned(),
                unable: entry.unable.clone(),
                streak: machine.streak(),
                needed,
                good: entry.good,
                bad: entry.bad,
                took: entry.took,
                took_sum: entry.took_sum,
            };
            (key.clone(), health)
        };
        HealthSnapshot {
            changes: self.changes,
            words: self.words,
            targets: self.entries.iter().map(one).collect(),
        }
    }

    fn insert(&mut self, key: Key, target: Target, machine: Machine, now: Duration) {
        self.serial += 1;
        self.changes += 1;
        let schedule = Schedule::new(now, target.check.interval, self.seed, word(&key));
        self.due.insert((schedule.at(0), key.clone()));
        let entry = Entry {
            target: Arc::new(target),
            serial: self.serial,
            machine,
            schedule,
            round: 0,
            under_way: 0,
            unable: None,
            told: None,
            good: 0,
            bad: 0,
            took: [0; BUCKETS.len() + 1],
            took_sum: Duration::ZERO,
        };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.due.remove(&(entry.schedule.at(entry.round), key.clone()));
            self.changes += 1;
        }
    }
}

/// What was found out about an earlier silence holds for the next, and what ICMP told of late for the silences after it.
fn carried_over(failure: Failure, before: Option<&Failure>, holds: bool) -> Failure {
    match (&failure, before) {
        (Failure::Silent { .. }, Some(earlier)) if holds && by_icmp(earlier) => earlier.clone(),
        (
            Failure::Silent { address, suspect: Suspect::Unknown },
            Some(Failure::Silent { address: same, suspect }),
        ) if address == same => Failure::Silent { address: *same, suspect: *suspect },
        _ => failure,
    }
}

/// Reasons that an ICMP error may have brought.
fn by_icmp(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused { .. }
            | Failure::TunnelRefused { .. }
            | Failure::NodeUnreachable { .. }
            | Failure::TunnelTooBig { .. }
    )
}

/// The same number for the same backend on every node and in every run (FNV-1a).
fn word(key: &Key) -> u64 {
    let address = match key.backend {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let bytes = key.service.bytes().chain(address);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
