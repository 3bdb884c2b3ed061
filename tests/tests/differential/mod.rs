//! Parts of the differential test.

mod craft;
mod dice;
mod files;
mod mutate;
mod packets;
mod seen;
mod side;

use std::fmt::Write as _;

use xdp_lb_tests::model::File;
use xdp_lb_tests::packet::dissect;

use dice::Dice;
use files::Role;
use packets::Packets;
pub use seen::Seen;
use side::Side;

/// Seed of the first part.
const FIRST: u64 = 20_261_126;
/// Configurations of a part.
const STAGES: usize = 8;
/// Packets of a configuration.
const PACKETS: usize = 2_600;
/// Tries at a shorter packet.
const SHRINKS: usize = 400;

/// All parts, one after the other.
pub struct Run;

/// All parts.
pub const RUN: Run = Run;

impl Run {
    /// Sends so many packets and more.
    pub fn all(&self, packets: usize) -> Seen {
        let mut seen = Seen::default();
        for seed in FIRST.. {
            if seen.packets() >= packets {
                break;
            }
            seen.add(Part::new(seed).run());
        }
        seen
    }
}

/// One program and its configurations.
pub struct Part {
    seed: u64,
    role: Role,
    dice: Dice,
}

impl Part {
    /// What follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let role = match seed % 5 {
            0 => Role::Decap,
            1 | 2 => Role::Both,
            _ => Role::Balancer,
        };
        Self { seed, role, dice: Dice::new(seed) }
    }

    /// Runs it.
    ///
    /// # Panics
    /// At the first difference.
    pub fn run(mut self) -> Seen {
        let mut seen = Seen::default();
        let other = other_interface();
        let mut file = files::file(&mut self.dice, self.role, &format!("s{}", self.seed % 1000));
        let mut side = Side::load(&file, 0).unwrap_or_else(|e| panic!("part {}: {e:#}", self.seed));
        for stage in 0..STAGES {
            if stage > 0 && self.role == Role::Decap {
                break;
            }
            if stage > 0 {
                file = files::later(&mut self.dice, &file, other);
                side.change(&file).unwrap_or_else(|e| panic!("part {}, stage {stage}: {e:#}", self.seed));
            }
            if self.role != Role::Decap && self.dice.percent(25) {
                side.crowd(&mut self.dice).unwrap_or_else(|e| panic!("crowd: {e:#}"));
            }
            let flows = self.dice.pick(&[40, 300, 3000]);
            let mut packets = Packets::new(&mut self.dice, &file, flows);
            for number in 0..PACKETS {
                let frame = packets.next(&mut self.dice);
                let ingress = if self.dice.percent(10) { other.unwrap_or(1) } else { 1 };
                match side.send(&frame, ingress) {
                    Ok(said) => seen.note(&said),
                    Err(wrong) => self.fail(&mut side, stage, number, &frame, ingress, &wrong),
                }
                if self.dice.percent(1) && self.role != Role::Decap {
                    let (ticks, seconds) =
                        (self.dice.pick(&[0, 1, 1, 3, 12]), self.dice.pick(&[0, 3, 20, 31]));
                    side.age(ticks, seconds).unwrap_or_else(|e| panic!("age: {e:#}"));
                }
            }
            if self.role != Role::Decap {
                side.settle_up().unwrap_or_else(|e| {
                    panic!("part {}, end of stage {stage}: {e}\n{}", self.seed, file.yaml())
                });
                if self.dice.percent(50) {
                    side.tidy().unwrap_or_else(|e| panic!("part {}, stage {stage}: {e:#}", self.seed));
                }
            }
        }
        seen
    }

    /// Shortens the packet as long as it is still treated otherwise than foretold, and tells all.
    fn fail(
        &self,
        side: &mut Side,
        stage: usize,
        number: usize,
        frame: &[u8],
        ingress: u32,
        wrong: &str,
    ) -> ! {
        let mut dice = Dice::new(1);
        let (mut small, mut why) = (frame.to_vec(), wrong.to_owned());
        for _ in 0..SHRINKS {
            let mut less = small.clone();
            if dice.percent(50) {
                less.truncate(dice.within(14..=less.len()));
            } else {
                let at = dice.below(less.len());
                let end = (at + dice.within(1..=16)).min(less.len());
                less[at..end].fill(0);
            }
            if less == small || side.believe().is_err() {
                continue;
            }
            if let Err(still) = side.send(&less, ingress) {
                (small, why) = (less, still);
            }
        }
        let file: &File = &side.model.file;
        let mut text =
            format!("part {}, stage {stage}, packet {number} by interface {ingress}:\n{wrong}\n", self.seed);
        let _ = writeln!(text, "\nconfiguration:\n{}ways: {:?}", file.yaml(), file.ways);
        let _ = writeln!(text, "\npacket:\n{}\n{}", hex(frame), fields(frame));
        if small != frame {
            let _ = writeln!(
                text,
                "shortened, and what is wrong then:\n{}\n{}{why}",
                hex(&small),
                fields(&small)
            );
        }
        let _ = writeln!(
            text,
            "again: XDP_LB_DIFFERENTIAL_SEED={} cargo test -p xdp-lb-tests --test prog_differential",
            self.seed
        );
        panic!("{text}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One field a line.
fn fields(frame: &[u8]) -> String {
    dissect(frame).into_iter().fold(String::new(), |mut text, field| {
        let bytes = &frame[field.at.clone()];
        let meaning = field.meaning(bytes).unwrap_or_default();
        let _ = writeln!(text, "{:5}  {:28} {} {meaning}", field.at.start, field.to_string(), hex(bytes));
        text
    })
}

/// An interface beside `lo`, to come in by or to go out by.
fn other_interface() -> Option<u32> {
    let names = std::fs::read_dir("/sys/class/net").ok()?;
    let mut names: Vec<_> = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().filter(|name| name != "lo").find_map(|name| {
        std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
    })
}
