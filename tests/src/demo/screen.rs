//! What people see: topology, live picture, plain line and summary, made of samples. No terminal, no clock, no lab.

use std::collections::BTreeMap;
use std::time::Duration;

use super::account::{Account, Death, seconds};
use super::scenario::Event;
use super::traffic::Sample;
use crate::lab::files::{ECHO, MEDIA, VIP, WEB};
use crate::lab::plan::{self, Role};
use crate::lab::traffic::{Connection, End, Flow};

/// Cells of a bar.
const BAR: usize = 24;
/// Harmed connections and streams shown one by one.
const SHOWN: usize = 10;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What has a name.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

/// How the hosts are connected, with their addresses.
#[must_use]
pub fn topology(web_server: &str) -> Vec<String> {
    let ip = |role: Role| role.address();
    let tunnels = |n| plan::tunnel_sources(n).map(|(ip, length)| format!("{ip}/{length}"));
    let (client, vip) = (ip(Role::Client(1)), plan::vip(VIP));
    let edge = |n| format!("edge{n}  {}", ip(Role::Edge(n)).v4);
    let backend = |n| format!("backend{n}  {}  {}", ip(Role::Backend(n)).v4, ip(Role::Backend(n)).v6);
    let mut lines = vec![
        String::new(),
        format!("  VIPs {} and {}, spread over the edge nodes by the router (ECMP)", vip.v4, vip.v6),
        String::new(),
        format!("                      +--------+ --- {}   xdp-lb run: XDP, native mode", edge(1)),
        format!("  client1             | router | --- {}   xdp-lb run: XDP, native mode", edge(2)),
        format!("  {:<17} - |        |       tunnels (IP-in-IP) go back through the router", client.v4),
        format!("  {:<17}   |        |", client.v6),
        format!("                      |        | --- {}", backend(1)),
        format!("                      |        | --- {}", backend(2)),
        format!("                      +--------+ --- {}", backend(3)),
        "                                     xdp-lb decap on each; replies go straight to the client".into(),
        String::new(),
        "  Both edge nodes load examples/lab.yaml; only the outer sources of edge2 differ:".into(),
    ];
    for n in [1, 2] {
        let [v4, v6] = tunnels(n);
        lines.push(format!("    edge{n}: source_v4: {v4}, source_v6: \"{v6}\""));
    }
    lines.push(format!(
        "  Backends: TCP {WEB} ({web_server}) and UDP {MEDIA} over IPv4 tunnels, TCP {ECHO} over IPv6 tunnels."
    ));
    lines
}

/// One moment of the show.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// What is being watched.
    pub event: Event,
    /// Its place among the steps: the third of six.
    pub step: (usize, usize),
    /// Time left in this step; `None`: until Ctrl-C.
    pub left: Option<Duration>,
    /// Now.
    pub now: &'a Sample,
    /// About a second ago.
    pub before: &'a Sample,
    /// Whose death was shown, and whether it is known.
    pub death: Option<&'a Death>,
    /// Names of all backends.
    pub backends: &'a [String],
}

impl View<'_> {
    fn clock(&self) -> String {
        format!("{:5.1} s", self.now.at().as_secs_f64())
    }

    /// Broken connections that were not the dead backend's, and all of them.
    fn broken(&self) -> (usize, usize) {
        let all = self.now.calls.connections.iter().filter(|c| !c.is_unharmed());
        let server = self.death.map(|d| d.server.as_str());
        (all.clone().filter(|c| c.server.as_deref() != server).count(), all.count())
    }

    fn edges(&self) -> Vec<(usize, f64)> {
        let time = (self.now.at().saturating_sub(self.before.at())).as_secs_f64().max(0.001);
        let each = self.now.to_edges.iter().zip(&self.before.to_edges);
        #[expect(clippy::cast_precision_loss, reason = "packets of a second")]
        (1..).zip(each).map(|(n, (now, was))| (n, (now - was) as f64 / time)).collect()
    }
}

/// One line a second, for pipes and logs.
#[must_use]
pub fn line(view: &View<'_>) -> String {
    let recent = view.now.load.since(&view.before.load);
    let shares: Vec<_> =
        view.backends.iter().map(|name| format!("{name} {:>3} %", percent(&recent.answered, name))).collect();
    let calls = &view.now.calls;
    let open = calls.connections.iter().filter(|c| c.end == End::Open).count();
    let (_, broken) = view.broken();
    format!(
        "{}  {:<38} {:>4.0} req/s  {}  failed {}  |  tcp {open} open, {broken} harmed  udp lost {}",
        view.clock(),
        view.event.title(),
        recent.rate(),
        shares.join("  "),
        view.now.load.failures(),
        calls.flows.iter().map(|f| f.lost).sum::<u64>()
    )
}

/// The picture that is redrawn.
#[must_use]
pub fn picture(view: &View<'_>, paint: Paint) -> Vec<String> {
    let recent = view.now.load.since(&view.before.load);
    let load = &view.now.load;
    let left = match view.left {
        Some(left) => {
            format!("step {} of {}, {:.0} s left", view.step.0, view.step.1, left.as_secs_f64().ceil())
        }
        None => "all steps shown; Ctrl-C ends it".into(),
    };
    let failed = |n: u64| if n == 0 { "0".to_owned() } else { paint.bad(&n.to_string()) };
    let mut lines = vec![
        String::new(),
        format!("{}  {}   {}", view.clock(), paint.bold(&view.event.title()), paint.dim(&left)),
        format!(
            "  requests   {:>5.0} a second   answered {}   failed {}   in flight {}",
            recent.rate(),
            load.answers(),
            failed(load.failures()),
            load.in_flight()
        ),
    ];
    let (open, flows) = (view.now.calls.open_by_server(), view.now.calls.flows_by_server());
    for name in view.backends {
        let share = percent(&recent.answered, name);
        let full = usize::try_from(share).unwrap_or(0) * BAR / 100;
        let bar = format!("{}{}", "#".repeat(full), "-".repeat(BAR - full));
        let count = |of: &BTreeMap<String, usize>| of.get(name).copied().unwrap_or(0);
        lines.push(format!(
            "    {name}   {} {share:>3} %   {:>2} connections   {:>2} streams",
            paint.good(&bar),
            count(&open),
            count(&flows)
        ));
    }
    let edges: Vec<_> =
        view.edges().iter().map(|(n, rate)| format!("edge{n} {rate:>5.0} packets a second")).collect();
    lines.push(format!("    {}", edges.join("   ")));
    let (strange, broken) = view.broken();
    let open: usize = open.values().sum();
    let its = match view.death {
        Some(death) if broken > strange => format!(", {} of them {}'s", broken - strange, death.server),
        _ => String::new(),
    };
    let harmed = if strange == 0 { broken.to_string() } else { paint.bad(&broken.to_string()) };
    lines.push(format!("  long TCP connections   {open} open, harmed {harmed}{its}"));
    let sum = |of: fn(&Flow) -> u64| view.now.calls.flows.iter().map(of).sum::<u64>();
    lines.push(format!(
        "  UDP streams            {} datagrams sent, {} lost",
        sum(|f| f.sent),
        failed(sum(|f| f.lost))
    ));
    lines
}

/// Announces a step.
#[must_use]
pub fn headline(event: Event, at: Duration, paint: Paint) -> Vec<String> {
    vec![
        String::new(),
        format!("== {:.1} s: {}", at.as_secs_f64(), paint.bold(&event.title())),
        format!("   ({})", event.how()),
    ]
}

/// The last words.
#[must_use]
pub fn summary(account: &Account, death: Option<&Death>, last: &Sample, paint: Paint) -> Vec<String> {
    let dead = death.map(|d| d.server.as_str()).unwrap_or_default();
    let mut lines = vec![String::new(), format!("== summary, after {}", seconds(last.at()))];
    lines.push(format!(
        "   requests: {} sent, {} answered, slowest in {} ms",
        account.sent,
        account.answered,
        last.load.slowest.as_millis()
    ));
    if death.is_some() {
        lines.push(format!(
            "   requests to {dead}, dead and not yet marked down: {} failed (nobody can know; not held against the run)",
            account.excused
        ));
    }
    lines.push(format!("   requests lost otherwise: {}", account.lost));
    let (connections, its_connections) = account.connections;
    let (streams, its_streams) = account.streams;
    let others = |its: usize| if its == 0 { String::new() } else { format!(", {its} of them {dead}'s") };
    lines.push(format!(
        "   long TCP connections: {connections}{}; of all others harmed: {}",
        others(its_connections),
        account.broken.len()
    ));
    let its_loss = match its_streams {
        0 => String::new(),
        _ => format!(", {its_streams} of them {dead}'s, which lost {}", account.datagrams_excused),
    };
    lines.push(format!(
        "   UDP streams: {streams} with {} datagrams{its_loss}; of all others harmed: {}",
        account.datagrams,
        account.disturbed.len()
    ));
    lines.extend(account.broken.iter().take(SHOWN).map(|c| format!("     {}", connection(c))));
    lines.extend(account.disturbed.iter().take(SHOWN).map(|f| format!("     {}", flow(f))));
    lines.push(if account.is_clean() {
        paint.good("   Every request was answered that somebody alive could answer.")
    } else if account.answered == 0 {
        paint.bad("   No request was answered.")
    } else {
        paint.bad("   Something was lost that should not have been.")
    });
    lines
}

fn connection(c: &Connection) -> String {
    let local = c.local.map_or_else(|| "not connected".into(), |l| l.to_string());
    format!(
        "{local} with {}: {:?}, {} records, {} late, {} by another server, {} seen from another address",
        c.server.as_deref().unwrap_or("nobody"),
        c.end,
        c.records,
        c.timeouts,
        c.moved,
        c.wrong_client
    )
}

fn flow(f: &Flow) -> String {
    let local = f.local.map_or_else(|| "not connected".into(), |l| l.to_string());
    format!(
        "{local} with {}: {} sent, {} lost, {} reordered, {} duplicates, {} errors",
        f.servers.join(", then "),
        f.sent,
        f.lost,
        f.reordered,
        f.duplicates,
        f.errors
    )
}

/// Rounded share of one server.
fn percent(by_server: &BTreeMap<String, u64>, name: &str) -> u64 {
    let all = by_server.values().sum::<u64>();
    by_server.get(name).map_or(0, |n| (n * 100 + all / 2) / all.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::{CallReport, LoadReport};

    fn sample(at: u64, one: u64, two: u64) -> Sample {
        Sample {
            load: LoadReport {
                elapsed: Duration::from_secs(at),
                sent: one + two + 1,
                answered: [("backend1".to_owned(), one), ("backend2".to_owned(), two)].into(),
                ..LoadReport::default()
            },
            calls: CallReport {
                connections: vec![
                    Connection { server: Some("backend1".into()), end: End::Open, ..Connection::default() },
                    Connection { server: Some("backend2".into()), end: End::Reset, ..Connection::default() },
                ],
                flows: vec![Flow {
                    servers: vec!["backend2".into()],
                    sent: 9,
                    answered: 8,
                    lost: 1,
                    ..Flow::default()
                }],
            },
            to_edges: vec![at * 1000, at * 10],
        }
    }

    fn names() -> Vec<String> {
        ["backend1", "backend2"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_picture_shows_rates_shares_and_harm() {
        let (before, now, names) = (sample(4, 100, 100), sample(5, 175, 125), names());
        let view = View {
            event: Event::Drain(2),
            step: (2, 6),
            left: Some(Duration::from_millis(2500)),
            now: &now,
            before: &before,
            death: None,
            backends: &names,
        };
        let plain = picture(&view, Paint(false)).join("\n");
        assert_eq!(
            plain,
            "
  5.0 s  backend2 drains   step 2 of 6, 3 s left
  requests     100 a second   answered 300   failed 0   in flight 1
    backend1   ##################------  75 %    1 connections    0 streams
    backend2   ######------------------  25 %    0 connections    1 streams
    edge1  1000 packets a second   edge2    10 packets a second
  long TCP connections   1 open, harmed 1
  UDP streams            9 datagrams sent, 1 lost"
        );
        let coloured = picture(&view, Paint(true)).join("\n");
        assert!(coloured.contains("\x1b[31m1\x1b[0m"), "{coloured:?}");
        let death = Death { server: "backend2".into(), died: before.clone(), known: None };
        let excused = picture(&View { death: Some(&death), ..view.clone() }, Paint(false)).join("\n");
        assert!(excused.contains("harmed 1, 1 of them backend2's"), "{excused}");
        let text = line(&view);
        assert!(!text.contains(['\n', '\x1b']), "{text:?}");
        for part in
            ["5.0 s", "backend2 drains", "100 req/s", "backend1  75 %", "tcp 1 open, 1 harmed", "udp lost 1"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn nothing_yet_is_no_division_by_zero() {
        let (empty, names) = (Sample::default(), names());
        let view = View {
            event: Event::Quiet,
            step: (1, 1),
            left: None,
            now: &empty,
            before: &empty,
            death: None,
            backends: &names,
        };
        assert!(picture(&view, Paint(false)).join("\n").contains("Ctrl-C ends it"));
        assert!(line(&view).contains("0 req/s"));
    }

    #[test]
    fn the_summary_names_what_was_lost() {
        let last = sample(30, 10, 10);
        let mut account = Account { sent: 20, answered: 20, connections: (2, 0), ..Account::default() };
        let told = |account: &Account| summary(account, None, &last, Paint(false)).join("\n");
        assert!(told(&account).contains("Every request was answered"), "{}", told(&account));
        account.broken = last.calls.connections[1..].to_vec();
        assert!(told(&account).contains("with backend2: Reset"), "{}", told(&account));
        assert!(told(&account).contains("Something was lost"), "{}", told(&account));
        assert!(told(&Account::default()).contains("No request was answered"));
    }

    #[test]
    fn the_topology_names_everybody() {
        let text = topology("nginx").join("\n");
        for part in [
            "client1",
            "edge1",
            "edge2",
            "backend3",
            "203.0.113.10",
            "2001:db8::10",
            "fd00:0:2:3::2",
            "nginx",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}
