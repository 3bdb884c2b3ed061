//! A row: one packet, and all that the program may make of it.
//!
//! Rows are data, grouped by subject into the files beside this one. Outputs are built with `packet`, never with
//! xdp-lb's own code, and compared whole; counters are compared whole too, so that a packet that is not counted, or
//! counted twice, fails its row.

pub mod affinities;
pub mod decap;
pub mod discovery;
pub mod echo;
pub mod errors;
pub mod extensions;
pub mod fixture;
pub mod fragments;
pub mod gue;
pub mod lying;
pub mod net;
pub mod passes;
pub mod pods;
pub mod services;
pub mod too_big;
pub mod truncated;
pub mod tunnels;
pub mod vlan;

use std::collections::HashSet;
use std::io::Write as _;

use xdp_lb_common::reason::{DropReason, PassReason};
use xdp_lb_tests::packet::{difference, internet_checksum};
use xdp_lb_tests::prog::{Counted, Ctx, Subject, XdpAction, counted, run, takes};

/// One packet and what becomes of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the row is about, unique in its group.
    pub name: String,
    /// The frame.
    pub input: Vec<u8>,
    /// Where it comes in.
    pub ctx: Ctx,
    /// What the program wants done with it.
    pub verdict: XdpAction,
    /// The whole frame afterwards.
    pub output: Output,
    /// Every counter that moves.
    pub counted: Vec<Counted>,
}

/// A frame that the program must leave behind.
#[derive(Clone, Debug)]
pub enum Output {
    /// The input.
    Same,
    /// These bytes.
    Whole(Vec<u8>),
    /// These bytes but for the 20 bits of the outer IPv6 flow label, which must not be zero.
    Labelled(Vec<u8>),
    /// These bytes but for the UDP source port, which must be a dynamic one, the flow label over IPv6, and the UDP
    /// checksum, which must be right or 0.
    Gue {
        /// With port, label and checksum 0.
        expected: Vec<u8>,
        /// There must be a checksum.
        checksum: bool,
    },
}

impl Row {
    /// A packet that goes up the stack, byte for byte.
    pub fn passes(name: impl Into<String>, input: Vec<u8>, reason: PassReason) -> Self {
        Self::new(name, input, XdpAction::Pass, Output::Same, Counted::Pass(reason))
    }

    /// A packet that goes no further. Its bytes stay as they are: nothing was written before the decision.
    pub fn drops(name: impl Into<String>, input: Vec<u8>, reason: DropReason) -> Self {
        Self::new(name, input, XdpAction::Drop, Output::Same, Counted::Drop(reason))
    }

    /// A packet that leaves by the interface that it came in by.
    pub fn sends(name: impl Into<String>, input: Vec<u8>, output: Output, counted: Counted) -> Self {
        Self::new(name, input, XdpAction::Tx, output, counted)
    }

    /// A packet that goes up the stack changed.
    pub fn hands_up(name: impl Into<String>, input: Vec<u8>, output: Vec<u8>, reason: PassReason) -> Self {
        Self::new(name, input, XdpAction::Pass, Output::Whole(output), Counted::Pass(reason))
    }

    fn new(
        name: impl Into<String>,
        input: Vec<u8>,
        verdict: XdpAction,
        output: Output,
        counted: Counted,
    ) -> Self {
        Self { name: name.into(), input, ctx: Ctx::default(), verdict, output, counted: vec![counted] }
    }

    /// With so many bytes of metadata, which take headroom away.
    pub fn with_metadata(mut self, length: usize) -> Self {
        self.ctx.data_meta = vec![0x5a; length];
        self
    }
}

/// Runs every row and reports all that fail.
///
/// # Panics
/// When a row fails, or two rows have one name.
#[track_caller]
pub fn check(subject: &dyn Subject, rows: &[Row]) {
    let mut names = HashSet::new();
    for row in rows {
        assert!(names.insert(&row.name), "two rows are called {:?}", row.name);
    }
    let failures: Vec<String> = rows
        .iter()
        .filter(|row| can_run(row))
        .filter_map(|row| check_row(subject, row).err().map(|why| format!("row {:?}\n{why}", row.name)))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows failed\n\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n\n")
    );
}

/// Says of a row that this kernel cannot bring about that it is left out, and why.
fn can_run(row: &Row) -> bool {
    let can = takes(&row.ctx);
    if !can {
        let why = format!("SKIP row {:?}: on this kernel a test run takes less metadata", row.name);
        assert!(std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"), "{why}");
        // `eprintln!` would be captured.
        drop(writeln!(std::io::stderr(), "{why}"));
    }
    can
}

fn check_row(subject: &dyn Subject, row: &Row) -> Result<(), String> {
    let before = subject.tally();
    let outcome = run(subject.program(), &row.input, &row.ctx).map_err(|failure| failure.to_string())?;
    let after = subject.tally();
    let mut wrong = Vec::new();
    if outcome.verdict != row.verdict {
        wrong.push(format!("verdict {:?}, expected {:?}", outcome.verdict, row.verdict));
    }
    wrong.extend(counted(before, after, &row.counted).err());
    wrong.extend(row.output.differs(&outcome.packet, &row.input));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

impl Output {
    /// What tells `actual` from this; `None` when nothing does.
    pub fn differs(&self, actual: &[u8], input: &[u8]) -> Option<String> {
        match self {
            Self::Same => difference(actual, input),
            Self::Whole(expected) => difference(actual, expected),
            Self::Labelled(expected) => {
                let label = flow_label(actual);
                let mut expected = expected.clone();
                set_flow_label(&mut expected, label);
                let zero = (label == 0).then(|| "the outer flow label is zero".to_owned());
                difference(actual, &expected).or(zero)
            }
            Self::Gue { expected, checksum } => {
                let l3 = network(actual);
                let v6 = actual.get(l3).is_some_and(|first| first >> 4 == 6);
                let l4 = l3 + if v6 { 40 } else { 20 };
                let mut expected = expected.clone();
                if v6 {
                    set_flow_label(&mut expected, flow_label(actual));
                }
                let port = actual.get(l4..l4 + 2)?.to_vec();
                expected[l4..l4 + 2].copy_from_slice(&port);
                if *checksum {
                    let udp = &expected[l4..];
                    let length = udp.len() - trailer(&expected, l3);
                    let pseudo =
                        [&expected[l3 + 8..l3 + 40], &(length as u32).to_be_bytes(), &[0, 0, 0, 17]].concat();
                    let sum = match internet_checksum(&[&pseudo, &udp[..length]]) {
                        0 => 0xffff,
                        sum => sum,
                    };
                    expected[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
                }
                let low = (port[0] < 0xc0).then(|| format!("source port {port:?} is no dynamic one"));
                difference(actual, &expected).or(low)
            }
        }
    }
}

/// Where the IP header begins, behind Ethernet and its tags.
fn network(frame: &[u8]) -> usize {
    let tagged = |at: &usize| {
        let tags = [[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]];
        frame.get(at - 2..*at).is_some_and(|kind| tags.iter().any(|tag| tag == kind))
    };
    (14..).step_by(4).find(|at| !tagged(at)).unwrap_or(14)
}

/// Bytes behind an IPv6 packet that are not its own.
fn trailer(frame: &[u8], l3: usize) -> usize {
    let payload = u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]);
    frame.len() - l3 - 40 - usize::from(payload)
}

/// The flow label of the outer IPv6 header; 0 when the frame ends before it.
pub fn flow_label(frame: &[u8]) -> u32 {
    let l3 = network(frame);
    match frame.get(l3 + 1..l3 + 4) {
        Some(&[a, b, c]) => u32::from_be_bytes([0, a & 0x0f, b, c]),
        _ => 0,
    }
}

fn set_flow_label(frame: &mut [u8], label: u32) {
    let [_, a, b, c] = label.to_be_bytes();
    let l3 = network(frame);
    if let Some([first, second, third]) = frame.get_mut(l3 + 1..l3 + 4) {
        *first = *first & 0xf0 | a;
        *second = b;
        *third = c;
    }
}
