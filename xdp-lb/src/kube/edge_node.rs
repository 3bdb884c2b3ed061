//! What an edge node says of itself to the cluster: from what the agent knows to the status of its [`EdgeNode`](super::crd::EdgeNode).
//!
//! Pure. [`super::io`] writes it; the controller reads it and tells those whose Services it is about.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::crd::{EdgeNodeBgp, EdgeNodeStatus, Remark, Unannounced};
use super::note::{Note, Severity, Subject};
use crate::bgp::status::Status as Bgp;

/// An object has its size: of remarks and of what is not announced, so many are told.
const MOST: usize = 256;
/// Longest text of one, in characters.
const LONGEST: usize = 300;

/// What the agent knows.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// `node.zone`.
    pub zone: Option<&'a str>,
    /// The speaker, where there is one.
    pub bgp: Option<&'a Bgp>,
    /// What is to be said of objects of the cluster.
    pub notes: &'a BTreeSet<(Subject, Note)>,
    /// Why it does not forward what is asked for, if it does not.
    pub degraded: Option<&'a str>,
    /// Why the configuration that was offered last is not in force, if it is not.
    pub refused: Option<&'a str>,
}

/// The status at this moment. Conditions keep the time of `old` while they are what they were.
#[must_use]
pub fn status(known: Known<'_>, old: Option<&EdgeNodeStatus>, now: Timestamp) -> EdgeNodeStatus {
    let warnings = known.notes.iter().filter(|(_, note)| note.severity == Severity::Warning);
    let remarked = warnings.clone().count();
    let old = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    EdgeNodeStatus {
        renewed: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: known.zone.map(str::to_owned),
        bgp: known.bgp.map(bgp),
        remarks: warnings.take(MOST).map(remark).collect(),
        remarked: count(remarked),
        conditions: vec![
            condition("Ready", "Forwarding", "Degraded", known.degraded, old, now),
            condition("Configured", "InForce", "Refused", known.refused, old, now),
        ],
    }
}

/// Whether both say the same, whenever.
#[must_use]
pub fn same(a: &EdgeNodeStatus, b: &EdgeNodeStatus) -> bool {
    EdgeNodeStatus { renewed: b.renewed.clone(), ..a.clone() } == *b
}

fn bgp(bgp: &Bgp) -> EdgeNodeBgp {
    let up = bgp.peers.iter().filter(|peer| peer.is_up()).count();
    let (mut addresses, mut without) = (Vec::new(), Vec::new());
    for vip in &bgp.vips {
        let address = vip.address.to_string();
        let reason = match vip.state.as_str() {
            "announced" if up > 0 => {
                addresses.push(address);
                continue;
            }
            "announced" => "no BGP session is established".to_owned(),
            "draining" => format!("about to be withdrawn: {}", vip.reason),
            _ => vip.reason.clone(),
        };
        without.push(Unannounced { address, reason: cut(&reason) });
    }
    let (announced, withdrawn) = (count(addresses.len()), count(without.len()));
    without.truncate(MOST);
    EdgeNodeBgp { sessions: format!("{up}/{}", bgp.peers.len()), announced, withdrawn, addresses, without }
}

fn remark((subject, note): &(Subject, Note)) -> Remark {
    let (kind, name) = match subject {
        Subject::Service(key) => ("Service", key.to_string()),
        Subject::Node(name) => ("Node", name.clone()),
    };
    Remark { kind: kind.to_owned(), name, reason: note.reason.to_owned(), message: cut(&note.message) }
}

fn condition(
    type_: &str,
    fine: &str,
    wrong: &str,
    why: Option<&str>,
    old: &[Condition],
    now: Timestamp,
) -> Condition {
    let (status, reason) = if why.is_none() { ("True", fine) } else { ("False", wrong) };
    let old = old.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
        message: cut(why.unwrap_or_default()),
        observed_generation: None,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: type_.to_owned(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::status::{PeerStatus, VipStatus};
    use crate::kube::Key;

    fn peer(state: &str) -> PeerStatus {
        let text = serde_json::json!({ "address": "192.0.2.1", "remote_as": 1, "state": state, "established": 0,
            "extended_next_hop": false, "routes": [], "untold": {}, "prefixes_received": 0, "updates_received": 0,
            "updates_sent": 0, "refreshes": 0 });
        serde_json::from_value(text).unwrap()
    }

    fn speaker(peers: &[&str], vips: &[(&str, &str, &str)]) -> Bgp {
        let vip = |&(address, state, reason): &(&str, &str, &str)| VipStatus {
            address: address.parse().unwrap(),
            state: state.to_owned(),
            since: 0,
            reason: reason.to_owned(),
        };
        Bgp {
            peers: peers.iter().map(|state| peer(state)).collect(),
            vips: vips.iter().map(vip).collect(),
            ..Bgp::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    const NOTHING: Known<'static> =
        Known { zone: None, bgp: None, notes: &BTreeSet::new(), degraded: None, refused: None };

    #[test]
    fn only_what_a_session_carries_is_announced() {
        let vips = [
            ("203.0.113.1", "announced", "web has 2 of 2"),
            ("203.0.113.2", "draining", "web has 0 of 2"),
            ("2001:db8::1", "withdrawn", "no interface is up"),
        ];
        let of =
            |peers: &[&str]| status(Known { bgp: Some(&speaker(peers, &vips)), ..NOTHING }, None, at(0)).bgp;
        let up = of(&["Established", "Active"]).unwrap();
        assert_eq!((up.sessions.as_str(), up.announced, up.withdrawn), ("1/2", 1, 2));
        assert_eq!(up.addresses, ["203.0.113.1"]);
        let why: Vec<_> = up.without.iter().map(|w| format!("{}: {}", w.address, w.reason)).collect();
        assert_eq!(
            why,
            ["203.0.113.2: about to be withdrawn: web has 0 of 2", "2001:db8::1: no interface is up"]
        );
        let down = of(&["Active"]).unwrap();
        assert_eq!((down.announced, down.withdrawn), (0, 3));
        assert_eq!(down.without[0].reason, "no BGP session is established");
        assert!(status(NOTHING, None, at(0)).bgp.is_none());
    }

    #[test]
    fn remarks_are_warnings_and_bounded() {
        let mut notes = BTreeSet::new();
        let service = |n: usize| Subject::Service(Key::new("default", &format!("web-{n:04}")));
        for n in 0..MOST + 5 {
            notes.insert((service(n), Note::warning("NoNode", "x".repeat(LONGEST * 2))));
        }
        notes.insert((service(9999), Note::normal("SeldomMeant", "fine")));
        notes.insert((Subject::Node("n1".into()), Note::warning("InvalidAnnotation", "what")));
        let told = status(Known { notes: &notes, ..NOTHING }, None, at(0));
        assert_eq!((told.remarks.len(), told.remarked), (MOST, count(MOST + 6)));
        assert_eq!(
            (told.remarks[0].kind.as_str(), told.remarks[0].name.as_str()),
            ("Service", "default/web-0000")
        );
        assert_eq!(told.remarks[0].message.len(), LONGEST);
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_turns() {
        let first = status(Known { zone: Some("a"), ..NOTHING }, None, at(100));
        assert_eq!(first.renewed, "1970-01-01T00:01:40Z");
        let later = status(Known { zone: Some("a"), ..NOTHING }, Some(&first), at(160));
        assert!(same(&first, &later) && first != later);
        let known = Known { degraded: Some("map rings: no space"), refused: Some("line 3"), ..NOTHING };
        let wrong = status(known, Some(&later), at(200));
        let said: Vec<String> = wrong
            .conditions
            .iter()
            .map(|c| {
                let since = c.last_transition_time.0.as_second();
                format!("{} {} {} {} @{since}", c.type_, c.status, c.reason, c.message)
            })
            .collect();
        assert_eq!(
            said,
            ["Ready False Degraded map rings: no space @200", "Configured False Refused line 3 @200"]
        );
        assert_eq!(later.conditions[0].last_transition_time.0.as_second(), 100);
    }
}
