//! What a step did to whom, and whether anything was lost that should not have been: arithmetic on samples, nothing else.
//!
//! Excused is only what belonged to the killed backend until it was marked down: its requests (by the flow's own
//! backend, see [`Owner`]), its connections and its streams. Everything else that fails, moves, or is late is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scenario::Event;
use super::traffic::Sample;
use crate::lab::traffic::{CallReport, Connection, End, Failure, Flow};

/// One step as it was seen.
#[derive(Clone, Debug)]
pub struct Act {
    /// What happened.
    pub event: Event,
    /// Just before.
    pub before: Sample,
    /// When it had been carried out.
    pub done: Sample,
    /// At the end of the step.
    pub after: Sample,
}

/// The backend that a failed request was for, by name; `None` where that cannot be told.
pub type Owner<'a> = &'a dyn Fn(&Failure) -> Option<String>;

/// The final account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests to the killed backend that failed before it was marked down.
    pub excused: u64,
    /// Every other failed request.
    pub lost: u64,
    /// Long connections, and those of the killed backend among them.
    pub connections: (usize, usize),
    /// Connections harmed that were not the killed backend's.
    pub broken: Vec<Connection>,
    /// Streams, and those of the killed backend among them.
    pub streams: (usize, usize),
    /// Datagrams sent on all streams.
    pub datagrams: u64,
    /// Datagrams lost by streams of the killed backend.
    pub datagrams_excused: u64,
    /// Streams harmed that were not the killed backend's, or after it was marked down.
    pub disturbed: Vec<Flow>,
}

impl Account {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.broken.is_empty() && self.disturbed.is_empty() && self.answered > 0
    }
}

/// When the killed backend died and when it was known, both since the load began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its name.
    pub server: String,
    /// Just before its death.
    pub died: Sample,
    /// When it had been marked down, if it was.
    pub known: Option<Duration>,
}

/// Whose death was shown, if anybody's.
#[must_use]
pub fn death(acts: &[Act]) -> Option<Death> {
    acts.iter().find_map(|act| match act.event {
        Event::Die(n) => {
            let known = acts.iter().find(|a| a.event == Event::MarkDown(n)).map(|a| a.done.at());
            Some(Death { server: format!("backend{n}"), died: act.before.clone(), known })
        }
        _ => None,
    })
}

impl Death {
    /// Whether a failed request is excused.
    #[must_use]
    pub fn excuses(&self, failure: &Failure, owner: Owner<'_>) -> bool {
        failure.failed >= self.died.at()
            && self.known.is_none_or(|known| failure.sent <= known)
            && owner(failure).is_none_or(|name| name == self.server)
    }

    /// Indices of the connections that were with it.
    fn connections(&self) -> Vec<usize> {
        let its = |c: &Connection| c.server.as_ref() == Some(&self.server);
        indices(&self.died.calls.connections, its)
    }

    /// Indices of the streams that were with it.
    fn streams(&self) -> Vec<usize> {
        indices(&self.died.calls.flows, |f| f.servers.last() == Some(&self.server))
    }
}

fn indices<T>(all: &[T], of: impl Fn(&T) -> bool) -> Vec<usize> {
    all.iter().enumerate().filter(|(_, one)| of(one)).map(|(i, _)| i).collect()
}

/// The whole show in numbers. `last` is the sample after the traffic has ended.
#[must_use]
pub fn settle(acts: &[Act], last: &Sample, owner: Owner<'_>) -> Account {
    let death = death(acts);
    let excused =
        last.load.failures.iter().filter(|f| death.as_ref().is_some_and(|d| d.excuses(f, owner))).count()
            as u64;
    let its_connections = death.as_ref().map(Death::connections).unwrap_or_default();
    let its_streams = death.as_ref().map(Death::streams).unwrap_or_default();
    let settled = death.as_ref().and_then(|d| settled(acts, d));
    let others = |i: &usize, its: &[usize]| !its.contains(i);
    Account {
        sent: last.load.sent,
        answered: last.load.answers(),
        excused,
        // Failures beyond those kept one by one cannot be excused, and requests unaccounted for are lost.
        lost: last.load.failures() - excused + last.load.in_flight(),
        connections: (last.calls.connections.len(), its_connections.len()),
        broken: pick(&last.calls.connections, |i, c| others(&i, &its_connections) && !c.is_unharmed()),
        streams: (last.calls.flows.len(), its_streams.len()),
        datagrams: last.calls.flows.iter().map(|f| f.sent).sum(),
        datagrams_excused: its_streams.iter().filter_map(|i| last.calls.flows.get(*i)).map(|f| f.lost).sum(),
        disturbed: pick(&last.calls.flows, |i, f| {
            let then = settled.and_then(|sample| sample.calls.flows.get(i));
            if others(&i, &its_streams) { !f.is_unharmed() } else { is_disturbed(f, then) }
        }),
    }
}

/// What was seen once every datagram that may have been lost to the dead backend had been counted.
fn settled<'a>(acts: &'a [Act], death: &Death) -> Option<&'a Sample> {
    let known = death.known?;
    // A datagram counts as lost a second after it was sent, when the next tick of its stream comes by.
    acts.iter().map(|act| &act.after).find(|sample| sample.at() >= known + Duration::from_millis(1500))
}

/// A stream of the killed backend may move once, away, and lose datagrams until then; nothing else.
fn is_disturbed(flow: &Flow, then: Option<&Flow>) -> bool {
    let lost_later = then.is_some_and(|then| flow.lost > then.lost || flow.moved() > then.moved());
    lost_later || flow.moved() > 1 || flow.wrong_client > 0 || flow.duplicates > 0
}

fn pick<T: Clone>(all: &[T], of: impl Fn(usize, &T) -> bool) -> Vec<T> {
    all.iter().enumerate().filter(|(i, one)| of(*i, one)).map(|(_, one)| one.clone()).collect()
}

/// What happened in one step, in sentences that hold measured numbers only.
#[must_use]
pub fn sentences(act: &Act, death: Option<&Death>) -> Vec<String> {
    let since = act.after.load.since(&act.done.load);
    let mut say = Vec::new();
    if act.event != Event::Quiet {
        say.push(in_flight(act));
    }
    let others = |n: u8| format!("backend{n}");
    match act.event {
        Event::Quiet => {
            say.push(format!(
                "{} requests answered, {}; {} failed",
                since.answers(),
                shares(&since.answered),
                since.failures()
            ));
            say.push(calls(&act.after.calls, &act.before.calls, "", true));
        }
        Event::Drain(n) | Event::Return(n) | Event::MarkDown(n) => {
            let its = since.answered.get(&others(n)).copied().unwrap_or(0);
            say.push(format!(
                "since both agents have it (after {}): {} requests answered, {its} of them by backend{n}; {}",
                seconds(act.done.at().saturating_sub(act.before.at())),
                since.answers(),
                failures(act, death),
            ));
            if let Event::MarkDown(_) = act.event {
                say.extend(fate_of_the_dead(act, death));
            } else {
                say.push(calls(&act.after.calls, &act.before.calls, &others(n), true));
            }
        }
        Event::Die(n) => {
            say.push(format!(
                "since then: {} requests answered by the others; {}",
                since.answers(),
                failures(act, death)
            ));
            let at_death = &act.before.calls;
            let (connections, streams) = with(at_death, &others(n));
            say.push(format!(
                "{connections} open TCP connections and {streams} UDP streams were with backend{n}: they hang"
            ));
            say.push(calls(&act.after.calls, at_death, &others(n), false));
        }
        Event::Withdraw(n) => {
            say.push(format!(
                "since then: {} requests answered; {}; packets of clients through {}",
                since.answers(),
                failures(act, death),
                through(&act.done, &act.after),
            ));
            let dead = death.map(|d| d.server.as_str()).unwrap_or_default();
            say.push(calls(&act.after.calls, &act.before.calls, dead, false));
            let _ = n;
        }
    }
    say
}

/// What became of the requests that were under way when it happened.
fn in_flight(act: &Act) -> String {
    let under_way = act.before.load.in_flight();
    let then = act.before.at();
    let failed = act.after.load.failures.iter().filter(|f| f.sent <= then && f.failed >= then).count();
    format!("requests in flight when it began: {under_way}, of which failed: {failed}")
}

fn failures(act: &Act, death: Option<&Death>) -> String {
    let since = act.after.load.since(&act.before.load);
    match death {
        Some(death) if since.failures() > 0 => {
            let asked_before = |f: &&Failure| death.known.is_none_or(|known| f.sent <= known);
            let early = since.failures.iter().filter(asked_before).count();
            format!(
                "{} failed, {early} of them sent before {} was marked down",
                since.failures(),
                death.server
            )
        }
        _ => format!("{} failed", since.failures()),
    }
}

/// Connections and streams that are with a server.
fn with(calls: &CallReport, server: &str) -> (usize, usize) {
    (
        calls.open_by_server().get(server).copied().unwrap_or(0),
        calls.flows_by_server().get(server).copied().unwrap_or(0),
    )
}

/// What happened to open connections and streams since `before`: those of `server`, or (not `its`) all others.
fn calls(after: &CallReport, before: &CallReport, server: &str, its: bool) -> String {
    let mut whose = String::from("all");
    let wanted =
        |name: Option<&String>| server.is_empty() || (name.map(String::as_str) == Some(server)) == its;
    if !server.is_empty() {
        whose = if its { format!("{server}'s") } else { format!("not {server}'s") };
    }
    let connections = indices(&before.connections, |c| c.end == End::Open && wanted(c.server.as_ref()));
    let streams = indices(&before.flows, |f| wanted(f.servers.last()));
    let broken = connections.iter().filter(|i| !after.connections[**i].is_unharmed()).count();
    let disturbed = streams.iter().filter(|i| {
        let (now, was) = (&after.flows[**i], &before.flows[**i]);
        now.lost > was.lost || now.moved() > was.moved() || now.errors > was.errors
    });
    let disturbed = disturbed.count();
    format!(
        "open TCP connections ({whose}): {}, harmed {broken}; UDP streams: {}, harmed {disturbed}",
        connections.len(),
        streams.len()
    )
}

/// Connections and streams of the dead backend once it is marked down.
fn fate_of_the_dead(act: &Act, death: Option<&Death>) -> Vec<String> {
    let Some(death) = death else { return Vec::new() };
    let (its_connections, its_streams) = (death.connections(), death.streams());
    let mut ends = BTreeMap::<&str, usize>::new();
    for index in &its_connections {
        let end = match &act.after.calls.connections[*index].end {
            End::Connecting | End::Open => "still waiting",
            End::Reset => "reset by their new backend, so that their clients know",
            End::Done => "closed by us",
            End::Closed => "closed by the server",
            End::Stalled => "given up",
            End::Refused(_) | End::Broken(_) => "broken",
        };
        *ends.entry(end).or_default() += 1;
    }
    let ends: Vec<_> = ends.iter().map(|(end, n)| format!("{n} {end}")).collect();
    let moved = its_streams
        .iter()
        .filter(|i| act.after.calls.flows[**i].servers.last().is_some_and(|last| *last != death.server));
    let moved = moved.count();
    vec![
        format!("{}'s {} TCP connections: {}", death.server, its_connections.len(), ends.join(", ")),
        format!("{}'s {} UDP streams: {moved} answered by others", death.server, its_streams.len()),
        calls(&act.after.calls, &death.died.calls, &death.server, false),
    ]
}

/// `backend1 34 %, backend2 33 %, ...`
fn shares(by_server: &BTreeMap<String, u64>) -> String {
    let all = by_server.values().sum::<u64>().max(1);
    let shares = by_server.iter().map(|(name, n)| format!("{name} {} %", (n * 100 + all / 2) / all));
    shares.collect::<Vec<_>>().join(", ")
}

/// `edge1 1800, edge2 0`
fn through(before: &Sample, after: &Sample) -> String {
    let each = (1..).zip(after.to_edges.iter().zip(&before.to_edges));
    each.map(|(n, (now, was))| format!("edge{n} {}", now - was)).collect::<Vec<_>>().join(", ")
}

/// `0.12 s`
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::{FailureKind, LoadReport};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failure(sent: u64, failed: u64, port: u16) -> Failure {
        Failure {
            sent: at(sent),
            failed: at(failed),
            port,
            target: "203.0.113.10:80".parse().unwrap(),
            kind: FailureKind::Timeout,
        }
    }

    fn connection(server: u8) -> Connection {
        Connection { server: Some(format!("backend{server}")), end: End::Open, ..Connection::default() }
    }

    fn flow(server: u8) -> Flow {
        Flow { servers: vec![format!("backend{server}")], sent: 10, answered: 10, ..Flow::default() }
    }

    fn sample(seconds: u64, failures: &[Failure]) -> Sample {
        let failed = BTreeMap::from([(FailureKind::Timeout, failures.len() as u64)]);
        let answered = BTreeMap::from([("backend1".into(), 60 * seconds), ("backend2".into(), 40 * seconds)]);
        let sent = 100 * seconds + failures.len() as u64;
        Sample {
            load: LoadReport {
                elapsed: at(seconds),
                sent,
                answered,
                failed,
                failures: failures.to_vec(),
                slowest: at(0),
            },
            calls: CallReport {
                connections: [1, 2, 3].map(connection).to_vec(),
                flows: [1, 2, 3].map(flow).to_vec(),
            },
            to_edges: vec![1000 * seconds, 900 * seconds],
        }
    }

    /// Backend 3 dies at 10 s and is marked down at 13 s.
    fn acts() -> Vec<Act> {
        let act = |event, from, to| Act {
            event,
            before: sample(from, &[]),
            done: sample(from, &[]),
            after: sample(to, &[]),
        };
        vec![
            act(Event::Quiet, 0, 5),
            act(Event::Drain(2), 5, 10),
            act(Event::Die(3), 10, 13),
            act(Event::MarkDown(3), 13, 20),
            act(Event::Withdraw(2), 20, 30),
        ]
    }

    /// Odd ports belong to backend 3.
    fn owner(failure: &Failure) -> Option<String> {
        Some(if failure.port % 2 == 1 { "backend3" } else { "backend1" }.to_owned())
    }

    #[test]
    fn nothing_lost_is_clean() {
        let account = settle(&acts(), &sample(30, &[]), &owner);
        assert!(account.is_clean(), "{account:?}");
        assert_eq!((account.sent, account.answered, account.connections), (3000, 3000, (3, 1)));
    }

    #[test]
    fn only_requests_of_the_dead_are_excused_and_only_until_it_is_known() {
        let cases = [
            (failure(11, 12, 1), 0, "its own, while nobody knew"),
            (failure(9, 10, 1), 0, "its own, in flight when it died"),
            (failure(13, 14, 1), 0, "its own, sent just before it was known"),
            (failure(14, 15, 1), 1, "sent after it was known"),
            (failure(8, 9, 1), 1, "failed before it died"),
            (failure(11, 12, 2), 1, "somebody else's"),
        ];
        for (failure, lost, why) in cases {
            let account = settle(&acts(), &sample(30, &[failure]), &owner);
            assert_eq!((account.lost, account.excused), (lost, 1 - lost), "{why}");
            assert_eq!(account.is_clean(), lost == 0, "{why}");
        }
        let nobody_died = &acts()[..2];
        assert_eq!(settle(nobody_died, &sample(30, &[failure(6, 7, 1)]), &owner).lost, 1);
    }

    #[test]
    fn requests_that_vanish_or_were_never_sent_are_no_success() {
        let mut last = sample(30, &[]);
        last.load.sent += 1;
        assert_eq!(settle(&acts(), &last, &owner).lost, 1);
        assert!(!settle(&[], &Sample::default(), &owner).is_clean());
        // More failures than are kept one by one.
        let mut last = sample(30, &[failure(11, 12, 1)]);
        last.load.failed.insert(FailureKind::Timeout, 5);
        last.load.sent += 4;
        assert_eq!(settle(&acts(), &last, &owner).lost, 4);
    }

    #[test]
    fn connections_and_streams_of_the_dead_alone_may_be_harmed() {
        for (index, clean) in [(0, false), (1, false), (2, true)] {
            let mut last = sample(30, &[]);
            last.calls.connections[index].end = End::Reset;
            assert_eq!(settle(&acts(), &last, &owner).is_clean(), clean, "connection {index}");
            // Lost and moved while it was dead.
            let (mut acts, mut last) = (acts(), sample(30, &[]));
            for calls in acts[3..].iter_mut().map(|a| &mut a.after.calls).chain([&mut last.calls]) {
                calls.flows[index].lost = 3;
                calls.flows[index].servers.push("backend9".into());
            }
            assert_eq!(settle(&acts, &last, &owner).is_clean(), clean, "stream {index}");
            // Lost one more, long after.
            last.calls.flows[index].lost = 4;
            assert!(!settle(&acts, &last, &owner).is_clean(), "stream {index}, later");
        }
        let mut last = sample(30, &[]);
        last.calls.flows[2].servers.extend(["backend1".into(), "backend2".into()]);
        assert!(!settle(&acts(), &last, &owner).is_clean(), "moved twice");
    }

    #[test]
    fn sentences_tell_the_numbers() {
        let acts = acts();
        let death = death(&acts);
        let told = |i: usize| sentences(&acts[i], death.as_ref()).join("\n");
        assert!(
            told(0).contains("500 requests answered, backend1 60 %, backend2 40 %; 0 failed"),
            "{}",
            told(0)
        );
        assert!(told(1).contains("200 of them by backend2"), "{}", told(1));
        assert!(told(1).contains("open TCP connections (backend2's): 1, harmed 0"), "{}", told(1));
        assert!(
            told(2).contains("1 open TCP connections and 1 UDP streams were with backend3"),
            "{}",
            told(2)
        );
        assert!(told(3).contains("backend3's 1 TCP connections: 1 still waiting"), "{}", told(3));
        assert!(told(4).contains("edge1 10000, edge2 9000"), "{}", told(4));
    }
}
