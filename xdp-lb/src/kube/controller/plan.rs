//! From the picture to writes: what differs between what the API server says and what it should say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::asking::{ADDRESSES, ANNOUNCED, Asking, BALANCED, POLICY};
use super::configured::{self, Setting};
use super::edges::{Edges, Saying};
use super::{Controller, Offered};
use crate::kube::crd::{Resting, VipPoolStatus};
use crate::kube::ipam::{Family, Inputs, Outcome, Pool, Released, Wish, assign};
use crate::kube::names::Key;
use crate::kube::note::{Note, Severity};

/// Label that Kubernetes gives to every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Namespace and name.
    pub key: Key,
    /// This very object.
    pub uid: String,
}

/// One write; its Events are for when it is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Status of a Service: all that is ours of it.
    Service {
        /// Which.
        object: Object,
        /// If it is still this version.
        version: String,
        /// `status.loadBalancer.ingress`, each with `ipMode: VIP`.
        addresses: Vec<IpAddr>,
        /// Conditions of ours.
        conditions: Vec<Condition>,
        /// What is to be said of it.
        events: Vec<Note>,
    },
    /// Status of an EdgeConfig or a BgpPeer.
    Setting {
        /// Which kind.
        setting: Setting,
        /// Its name.
        name: String,
        /// All of it.
        condition: Condition,
    },
    /// Status of a VipPool.
    Pool {
        /// Its name.
        name: String,
        /// All of it.
        status: VipPoolStatus,
    },
}

/// What is to be done now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order. Each stands alone.
    pub writes: Vec<Write>,
    /// Seconds since 1970, if time alone will change something.
    pub wake: Option<i64>,
}

impl Controller {
    /// Decides everything, `now` in seconds since 1970.
    pub fn plan(&mut self, now: i64) -> Plan {
        self.remember(now);
        let look_again = self.edges.look(now);
        let wishes: Vec<Wish> =
            self.services.iter().filter_map(|(key, asking)| self.wish(key, asking)).collect();
        let pools: Vec<_> = self.pools.values().map(|offered| offered.pool.clone()).collect();
        let mut inputs = Inputs { pools, wishes, released: self.released.clone(), now };
        // What somebody gives up now has been somebody's until now.
        inputs.released.extend(self.held.iter().map(|(a, by)| (*a, Released { by: by.clone(), at: now })));
        let outcome = assign(&inputs);
        self.release(&outcome, now);

        let mut plan = Plan { wake: outcome.wake.into_iter().chain(look_again).min(), ..Plan::default() };
        for (key, asking) in &self.services {
            plan.writes.extend(service(key, asking, &outcome, &self.edges, now));
        }
        for (name, offered) in &self.pools {
            let status = self.pool_status(name, &outcome, now);
            if offered.object.status.as_ref() != Some(&status) {
                plan.writes.push(Write::Pool { name: name.clone(), status });
            }
        }
        plan.writes.extend(configured::writes(&self.configured, now));
        // Resting addresses that become free change a pool's status.
        let free_again = self.released.iter().filter_map(|(address, r)| self.free_again(*address, r));
        plan.wake = plan.wake.into_iter().chain(free_again.filter(|at| *at > now)).min();
        plan
    }

    /// What Services have, and what pools remember of those that are gone.
    fn remember(&mut self, now: i64) {
        for (key, asking) in &self.services {
            for &address in &asking.has {
                self.held.entry(address).or_insert_with(|| key.clone());
            }
        }
        let resting: Vec<Resting> = self
            .pools
            .values()
            .filter_map(|offered| offered.object.status.as_ref())
            .flat_map(|status| status.resting.iter().cloned())
            .collect();
        for Resting { address, service, since } in resting {
            if let (Ok(address), Some((namespace, name))) = (address.parse(), service.split_once('/'))
                && !self.held.contains_key(&address)
            {
                let released = Released { by: Key::new(namespace, name), at: since };
                self.released.entry(address).or_insert(released);
            }
        }
        let rests = |(address, released): (&IpAddr, &Released)| {
            self.free_again(*address, released).is_some_and(|at| at > now)
        };
        let over: Vec<IpAddr> =
            self.released.iter().filter(|entry| !rests(*entry)).map(|(a, _)| *a).collect();
        for address in over {
            self.released.remove(&address);
        }
    }

    /// When anybody may have it; `None` for one of no pool.
    fn free_again(&self, address: IpAddr, released: &Released) -> Option<i64> {
        let pool = self.pools.values().find(|o| o.pool.ranges.iter().any(|range| range.contains(address)))?;
        let delay = i64::try_from(pool.pool.release_delay.as_secs()).unwrap_or(i64::MAX);
        Some(released.at.saturating_add(delay))
    }

    /// What a Service wishes, with its namespace's labels. Who wishes what cannot be read keeps what it has.
    fn wish(&self, key: &Key, asking: &Asking) -> Option<Wish> {
        let mut wish = asking.wish.clone()?;
        wish.namespace_labels = self.namespaces.get(&*key.namespace).cloned().unwrap_or_default();
        wish.namespace_labels.entry(NAMESPACE_NAME.to_owned()).or_insert_with(|| key.namespace.to_string());
        if !asking.mistakes.is_empty() {
            wish.families = asking.has.iter().map(|address| Family::of(*address)).collect();
            wish.addresses.clone_from(&asking.has);
        }
        Some(wish)
    }

    /// Notes which addresses nobody has any more.
    fn release(&mut self, outcome: &Outcome, now: i64) {
        let given = outcome.given.values().flatten().map(|given| given.address);
        let holds: BTreeSet<IpAddr> =
            given.chain(outcome.kept.values().flatten().map(|kept| kept.address)).collect();
        for (address, by) in std::mem::take(&mut self.held) {
            if !holds.contains(&address) {
                self.released.insert(address, Released { by, at: now });
            }
        }
        self.released.retain(|address, _| !holds.contains(address));
        // What a status says counts, not what is planned: a plan may fail.
        for (key, asking) in self.services.iter().filter(|(_, asking)| asking.wish.is_some()) {
            for &address in asking.has.iter().filter(|address| holds.contains(*address)) {
                self.held.entry(address).or_insert_with(|| key.clone());
            }
        }
    }

    fn pool_status(&self, name: &str, outcome: &Outcome, now: i64) -> VipPoolStatus {
        let Some(offered) = self.pools.get(name) else { return VipPoolStatus::default() };
        let pool = &offered.pool;
        let assigned = outcome.used.get(name).copied().unwrap_or_default();
        let is_of = |address: &IpAddr| pool.ranges.iter().any(|range| range.contains(*address));
        let resting: Vec<Resting> = self
            .released
            .iter()
            .filter(|(address, _)| is_of(address))
            .filter(|(address, released)| self.free_again(**address, released).is_some_and(|at| at > now))
            .map(|(address, released)| Resting {
                address: address.to_string(),
                service: released.by.to_string(),
                since: released.at,
            })
            .collect();
        let all = pool.ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.count()));
        let used = u64::try_from(assigned + resting.len()).unwrap_or(u64::MAX);
        let (ready, reason, message) = self.pool_condition(name);
        let old = offered.object.status.as_ref();
        let conditions = old.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let old = conditions.iter().find(|condition| condition.type_ == "Ready");
        let generation = offered.object.metadata.generation;
        VipPoolStatus {
            assigned: i64::try_from(assigned).unwrap_or(i64::MAX),
            free: i64::try_from(all.saturating_sub(used)).unwrap_or(i64::MAX),
            resting,
            conditions: vec![condition("Ready", ready, reason, message, generation, old, now)],
        }
    }

    fn pool_condition(&self, name: &str) -> (bool, &'static str, String) {
        let Some(Offered { pool, mistakes, .. }) = self.pools.get(name) else {
            return (false, "Gone", String::new());
        };
        if !mistakes.is_empty() {
            return (false, "InvalidAddresses", mistakes.join("; "));
        }
        let rank = |p: &Pool| (std::cmp::Reverse(p.priority), p.name.clone());
        let mut before: Vec<&Pool> = self
            .pools
            .values()
            .map(|offered| &offered.pool)
            .filter(|other| rank(other) < rank(pool))
            .filter(|other| other.ranges.iter().any(|a| pool.ranges.iter().any(|b| a.overlaps(b))))
            .collect();
        before.sort_by_key(|other| rank(other));
        match before.first() {
            Some(other) => {
                let message =
                    format!("some of its addresses are pool {}'s, which is asked before", other.name);
                (true, "Overlaps", message)
            }
            None => (true, "Usable", String::new()),
        }
    }
}

/// The write that a Service needs, if any.
fn service(key: &Key, asking: &Asking, outcome: &Outcome, edges: &Edges, now: i64) -> Option<Write> {
    let object = Object { key: key.clone(), uid: asking.uid.clone() };
    let version = asking.version.clone();
    if asking.wish.is_none() {
        let (addresses, conditions) = (Vec::new(), Vec::new());
        let gone: Vec<String> = asking.has.iter().map(IpAddr::to_string).collect();
        let message = format!("{} released: the Service is not ours any more", gone.join(", "));
        let events =
            if gone.is_empty() { Vec::new() } else { vec![Note::normal("AddressReleased", message)] };
        return Some(Write::Service { object, version, addresses, conditions, events });
    }
    let given = outcome.given.get(key).map(Vec::as_slice).unwrap_or_default();
    let kept = outcome.kept.get(key).map(Vec::as_slice).unwrap_or_default();
    let mut addresses: Vec<IpAddr> =
        given.iter().map(|given| given.address).chain(kept.iter().map(|kept| kept.address)).collect();
    // Who has them in another order keeps that: nothing changes for anybody.
    addresses.sort_by_key(|address| {
        (asking.has.iter().position(|has| has == address).unwrap_or(usize::MAX), *address)
    });

    let mut events = Vec::new();
    for new in given.iter().filter(|given| !asking.has.contains(&given.address)) {
        let message = format!("{} assigned from pool {}", new.address, new.pool);
        events.push(Note::normal("AddressAssigned", message));
    }
    for old in asking.has.iter().filter(|has| !addresses.contains(has)) {
        events.push(Note::normal("AddressReleased", format!("{old} released")));
    }
    let refused: Vec<String> =
        asking.mistakes.iter().chain(outcome.refused.get(key).into_iter().flatten()).cloned().collect();
    let (status, reason, message) = if !refused.is_empty() {
        (false, "NoAddress", refused.join("; "))
    } else if !kept.is_empty() {
        let why: Vec<&str> = kept.iter().map(|kept| kept.why.as_str()).collect();
        (true, "Kept", format!("{}; the Service keeps what it has", why.join("; ")))
    } else {
        let from = given.iter().map(|given| format!("{} from pool {}", given.address, given.pool));
        (true, "Assigned", from.collect::<Vec<_>>().join(", "))
    };
    let wrong: Vec<&Note> = asking.notes.iter().filter(|note| note.severity == Severity::Warning).collect();
    let seldom: Vec<&Note> = asking.notes.iter().filter(|note| note.severity == Severity::Normal).collect();
    let of = |notes: &[&Note]| notes.iter().map(|note| note.message.as_str()).collect::<Vec<_>>().join("; ");
    let policy = match (wrong.first(), seldom.first()) {
        (Some(first), _) => (false, first.reason, of(&wrong)),
        (None, Some(first)) => (true, first.reason, of(&seldom)),
        (None, None) => (true, "Accepted", String::new()),
    };
    let mut wanted = vec![(ADDRESSES, (status, reason, message)), (POLICY, policy)];
    let mut conditions = Vec::new();
    if edges.are_known() {
        let said = asking.notes.iter().map(|note| note.reason).collect();
        let of = |type_, saying: Option<Saying>| {
            saying.map(|Saying { is_fine, reason, message }| (type_, (is_fine, reason, message)))
        };
        wanted.extend(of(ANNOUNCED, edges.announced(&addresses, now)));
        wanted.extend(of(BALANCED, edges.remarks(key, &said)));
    }
    for (type_, (status, reason, message)) in wanted {
        let old = asking.conditions.get(type_);
        if is_news(old, reason, &message) {
            let severity = if status && !["Kept", "PartlyAnnounced"].contains(&reason) {
                Severity::Normal
            } else {
                Severity::Warning
            };
            events.push(Note { severity, reason, message: message.clone() });
        }
        conditions.push(condition(type_, status, reason, message, asking.generation, old, now));
    }
    if !edges.are_known() {
        // What was known of them stays until they have been listed.
        conditions.extend([ANNOUNCED, BALANCED].iter().filter_map(|t| asking.conditions.get(*t)).cloned());
    }
    let old: BTreeMap<&str, &Condition> = asking.conditions.iter().map(|(t, c)| (t.as_str(), c)).collect();
    let is_same = addresses == asking.has
        && (asking.is_plain || addresses.is_empty())
        && conditions.len() == old.len()
        && conditions.iter().all(|condition| old.get(condition.type_.as_str()) == Some(&condition));
    (!is_same).then_some(Write::Service { object, version, addresses, conditions, events })
}

/// Whether a condition says something that is worth an Event. Who announces an address is told when the number changes, not
/// with every reason.
fn is_news(old: Option<&Condition>, reason: &str, message: &str) -> bool {
    const SILENT: [&str; 4] = ["Assigned", "Accepted", "Pending", "AsAsked"];
    let head = |message: &str| match reason {
        "Announced" | "PartlyAnnounced" | "NotAnnounced" => message.split(';').next().map(str::to_owned),
        _ => Some(message.to_owned()),
    };
    let differs = |old: &Condition| old.reason != reason || head(&old.message) != head(message);
    !SILENT.contains(&reason) && old.is_none_or(differs)
}

/// A condition; its time is when its status last changed. The Service's generation moves without us, too: it is only
/// told with something else.
pub(super) fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: String,
    generation: Option<i64>,
    old: Option<&Condition>,
    now: i64,
) -> Condition {
    let status = if status { "True" } else { "False" };
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    let is_same =
        old.is_some_and(|old| old.status == status && old.reason == reason && old.message == message);
    Condition {
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::from_second(now).unwrap_or_default())),
        message,
        observed_generation: if is_same { old.and_then(|old| old.observed_generation) } else { generation },
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: type_.to_owned(),
    }
}
