//! Is the balancer there, and does it do what its tables say?

use super::{Agent, Finding, Host};
use crate::status::Path;

/// The oldest kernel, as docs/architecture.md says.
const OLDEST: (u32, u32) = (5, 10);
/// So many names are told.
const MOST: usize = 5;

pub(super) fn kernel(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "kernel";
    let mut found = Vec::new();
    let mut numbers = host.release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST;
    if version < OLDEST {
        found.push(Finding::wrong(
            SUBJECT,
            format!("Linux {} is too old: programs are loaded on {major}.{minor} and newer", host.release),
            "boot a newer kernel",
        ));
    }
    if host.sysctl("net.core.bpf_jit_enable") == Some("0") {
        found.push(Finding::wrong(
            SUBJECT,
            "BPF programs are interpreted, which costs several times the time for each packet",
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    if !host.has_bpffs {
        found.push(Finding::wrong(
            SUBJECT,
            "the directory of the pins is on no BPF file system: the program would end with its agent",
            "mount -t bpf bpf /sys/fs/bpf",
        ));
    }
    if found.is_empty() {
        found.push(Finding::fine(SUBJECT, format!("Linux {}", host.release)));
    }
    found
}

pub(super) fn pins(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "agent";
    if host.status.is_none() {
        return vec![Finding::note(
            SUBJECT,
            "nothing of xdp-lb runs here: no maps are pinned",
            "start `xdp-lb run` or `xdp-lb decap`, or name other pins with --bpffs",
        )];
    }
    match &host.agent {
        Agent::Answers => vec![Finding::fine(SUBJECT, "the agent answers")],
        Agent::Silent(why) if host.balances() => vec![Finding::wrong(
            SUBJECT,
            format!(
                "the agent does not answer ({why}): packets are forwarded, but nobody follows health, next hops and changes"
            ),
            "start it; its log says why it ended",
        )],
        Agent::Silent(_) | Agent::Unasked => Vec::new(),
    }
}

pub(super) fn interfaces(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "interfaces";
    let mut found = Vec::new();
    let attached: Vec<&str> = host.attached().collect();
    for name in host.wanted.iter().flatten().filter(|name| !attached.contains(&name.as_str())) {
        // On a VLAN device or a bond the interfaces below it run the program.
        let link = host.links.by_name(name);
        let is_above = link.is_some_and(|link| matches!(link.kind.as_deref(), Some("vlan" | "bond")));
        if is_above && !attached.is_empty() {
            continue;
        }
        let (says, cure) = match (link, host.programs.get(name)) {
            (None, _) => (
                format!("there is no interface {name}, which the configuration names"),
                "mend its name".into(),
            ),
            (Some(_), Some(program)) if !program.is_ours => (
                format!("{name} runs the XDP program {} of somebody else: packets pass us by", program.name),
                owner(&program.name),
            ),
            (Some(_), _) => (
                format!("{name} does not run the program: packets to VIPs pass us by"),
                "start the agent, or look in its log".into(),
            ),
        };
        found.push(Finding::wrong(SUBJECT, says, cure));
    }
    for interface in host.status.iter().flat_map(|status| &status.interfaces) {
        let name = &interface.name;
        if interface.program == 0 {
            found.push(Finding::wrong(
                SUBJECT,
                format!("{name} ran the program and is gone"),
                "bring it back, or `xdp-lb detach`",
            ));
            continue;
        }
        let link = host.links.by_name(name);
        if link.is_some_and(|link| !link.usable()) {
            let says = format!("{name} is down or has no carrier");
            found.push(Finding::wrong(SUBJECT, says, format!("ip link set {name} up; look at the cable")));
        }
        if interface.mode == "generic" {
            found.push(Finding::note(
                SUBJECT,
                format!("{name} runs the program in generic mode: several times slower, and after the kernel has copied the packet"),
                "`mode: native` says what the driver lacks",
            ));
        }
        for finding in &interface.findings {
            // Each has its cure in its sentence; what cannot be seen from here is no more than a note.
            let is_guess = finding.contains("another network namespace");
            let of = if is_guess { Finding::note } else { Finding::wrong };
            found.push(of(SUBJECT, finding.clone(), String::new()));
        }
    }
    if found.is_empty() && !attached.is_empty() {
        found.push(Finding::fine(SUBJECT, format!("{} run the program", attached.join(", "))));
    }
    found
}

/// How to get an interface back from whoever has a program there.
fn owner(program: &str) -> String {
    if program.starts_with("cil_") {
        "Cilium: turn `loadBalancer.acceleration` off, or leave it this interface out of `devices`; one interface runs one \
         program"
            .to_owned()
    } else {
        "take it away there, or start with --replace; one interface runs one program".to_owned()
    }
}

pub(super) fn next_hops(host: &Host) -> Vec<Finding> {
    const SUBJECT: &str = "next hops";
    if !host.balances() {
        return Vec::new();
    }
    let members =
        host.status.iter().flat_map(|status| &status.services).flat_map(|service| &service.backends);
    let mut without: Vec<String> = members
        .filter(|member| member.path == Path::Unresolved)
        .map(|member| member.address.to_string())
        .collect();
    without.sort_unstable();
    without.dedup();
    if without.is_empty() {
        return vec![Finding::fine(SUBJECT, "every backend has one")];
    }
    let all = without.len();
    without.truncate(MOST);
    vec![Finding::wrong(
        SUBJECT,
        format!(
            "{all} backends have none, packets for them are dropped as next_hop_unresolved: {}",
            without.join(", ")
        ),
        "ip route get, and does the gateway answer ARP? The agent's log says what is missing",
    )]
}

pub(super) fn drops(host: &Host) -> Vec<Finding> {
    let Some(status) = &host.status else { return Vec::new() };
    let drops = status.drops.iter();
    drops
        .map(|count| {
            let says = format!("{} packets dropped as {}: {}", count.packets, count.reason, count.sentence);
            Finding::note("drops", says, cure(count.reason))
        })
        .collect()
}

/// What to look at where a reason grows; those that need a word more than their sentence.
fn cure(reason: &str) -> &'static str {
    match reason {
        "no_service" => "clients, scanners or a port that is missing in `services`: `xdp-lb explain`",
        "empty_service" => "`xdp-lb status backends`: who is down, and why",
        "next_hop_unresolved" => "`xdp-lb status backends`, `ip route get BACKEND`",
        "tunnel_source" => "the edge nodes' `encap` sources are not in `decap.allow_sources`",
        "pod_port" => "edge nodes send to a pod that this node does not translate for: `xdp-lb status pods`",
        "cut_unavailable" => "the agent is down or busy; a fabric MTU of 1520 (IPv6: 1540) needs no cutting",
        "too_big" | "too_big_unanswered" => "a fabric MTU of 1520 (IPv6: 1540) carries what clients send",
        "no_headroom" => "the driver leaves no room: `mode: generic`",
        "table_inconsistent" => "please report it, with `xdp-lb status -o json`",
        _ => "docs/reasons.md; does it grow?",
    }
}
