//! Rows for somebody else's XDP program: a pin and a capture file, so that balancers are compared in one run.
//!
//! The program's first answer to a packet says what every later one must be: verdict and length. What a program changes
//! beyond the head, the Ethernet header and the flow's eight bytes is not restored; the proof before the measurement
//! finds that out.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramInfo;
use pcap_file::pcap::PcapReader;

use super::rows::{Row, Subject};
use crate::prog::{self, Ctx};

/// A row for each packet of the capture file `packets` (pcap, Ethernet), run through the program pinned at `pinned`.
///
/// # Errors
/// Says which file, packet or program failed.
pub fn foreign(pinned: &Path, packets: &Path) -> Result<Vec<Row>> {
    let program =
        ProgramInfo::from_pin(pinned).with_context(|| format!("open {}", pinned.display()))?.fd()?;
    let file = File::open(packets).with_context(|| format!("open {}", packets.display()))?;
    let mut reader = PcapReader::new(file).with_context(|| format!("read {}", packets.display()))?;
    let mut rows = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let number = rows.len() + 1;
        let packet =
            packet.with_context(|| format!("packet {number} of {}", packets.display()))?.data.into_owned();
        let first = prog::run(program.as_fd(), &packet, &Ctx::default())
            .with_context(|| format!("packet {number} of {}", packets.display()))?;
        rows.push(Row::pinned(number, pinned, packet, first));
    }
    ensure!(!rows.is_empty(), "{} holds no packet", packets.display());
    Ok(rows)
}

impl Row {
    fn pinned(number: usize, pinned: &Path, packet: Vec<u8>, first: prog::Outcome) -> Self {
        Self {
            name: format!("pinned, packet {number}").into(),
            subject: Subject::Pinned(pinned.to_owned()),
            growth: first.packet.len() as isize - packet.len() as isize,
            verdict: first.verdict,
            packet,
            flow_at: 26,
            flows: 1,
            destinations: 1,
            primer: None,
            restore_outer: false,
            counted: None,
            asks: None,
            warm_up: 0,
        }
    }
}
