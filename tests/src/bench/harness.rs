//! One row, loaded: its own wrapper, its own balancer with its own tables.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use xdp_lb::dataplane::{Program, object};

use super::rows::{Row, Subject};
use super::state::State;
use super::tables::Tables;
use crate::prog::{self, Counted, Ctx, Outcome, Tally};

/// A row that can be run.
pub struct Bench {
    /// What it is.
    pub row: Row,
    wrapper: Wrapper,
    under_test: UnderTest,
}

/// The program behind the wrapper.
enum UnderTest {
    /// One of the bench's own.
    Own(&'static str),
    /// One of the balancer's object, with its tables.
    Balancer(Box<Tables>),
    /// Somebody's.
    Pinned(ProgramFd),
}

impl Bench {
    /// Loads everything that the row needs, the balancer from `object`, and sends the warm-up.
    ///
    /// # Errors
    /// Says which program or map of which row failed.
    pub fn load(row: Row, object: &[u8]) -> Result<Self> {
        let name = row.name.clone();
        Self::try_load(row, object).with_context(|| format!("row \"{name}\""))
    }

    fn try_load(row: Row, object: &[u8]) -> Result<Self> {
        let balancer =
            |program, state| Tables::load(object, program, state).map(Box::new).map(UnderTest::Balancer);
        let mut under_test = match &row.subject {
            Subject::Floor => UnderTest::Own("bench_pass"),
            Subject::Limit => UnderTest::Own("bench_limit"),
            Subject::Balancer(state) => balancer(Program::Balancer { decap: false }, *state)?,
            Subject::Decap => {
                let state = State { flow_entries: 1024, ..State::CLEAN };
                balancer(Program::Decap, state)?
            }
            Subject::Pinned(path) => {
                let info = ProgramInfo::from_pin(path).with_context(|| format!("open {}", path.display()))?;
                UnderTest::Pinned(info.fd()?)
            }
        };
        let mut wrapper = Wrapper::load(&row, false)?;
        wrapper.point_at(&mut under_test)?;
        let mut bench = Self { row, wrapper, under_test };
        let mut left = bench.row.warm_up;
        while left > 0 {
            let packets = left.min(1 << 20) as u32;
            bench.run(packets)?;
            left -= u64::from(packets);
        }
        Ok(bench)
    }

    /// Sends `packets` and gives the mean nanoseconds of one.
    ///
    /// # Errors
    /// The test run's, or that the last packet did not get the row's verdict.
    pub fn run(&mut self, packets: u32) -> Result<u32> {
        self.under_test.prime(&self.row)?;
        let outcome = self.wrapper.run(&self.row, packets)?;
        ensure!(
            outcome.verdict == self.row.verdict,
            "row \"{}\": verdict {:?}, expected {:?}",
            self.row.name,
            outcome.verdict,
            self.row.verdict
        );
        Ok(outcome.duration_ns)
    }

    /// Sends `packets` past a wrapper that looks at each, and shows that every one of them took the row's way:
    /// each came back with the row's length, the counters moved by exactly so many, and where there is only one
    /// flow the last packet is byte for byte what the program makes of the first.
    ///
    /// # Errors
    /// Says what was not so.
    pub fn prove(&mut self, packets: u32) -> Result<()> {
        let name = self.row.name.clone();
        self.try_prove(packets).with_context(|| format!("row \"{name}\" does not measure what it says"))
    }

    fn try_prove(&mut self, packets: u32) -> Result<()> {
        let mut looking = Wrapper::load(&self.row, true)?;
        looking.point_at(&mut self.under_test)?;
        self.under_test.prime(&self.row)?;
        let before = self.tally()?;
        let last = looking.run(&self.row, packets)?;
        let after = self.tally()?;

        ensure!(
            last.verdict == self.row.verdict,
            "verdict {:?}, expected {:?}",
            last.verdict,
            self.row.verdict
        );
        let length = self.row.packet.len().saturating_add_signed(self.row.growth);
        ensure!(last.packet.len() == length, "{} bytes came out, expected {length}", last.packet.len());
        // The first packet arrives as it was sent; that the last went through shows in what came out.
        let changed = if self.row.growth == 0 { packets } else { packets - 1 };
        let seen = looking.as_expected()?;
        ensure!(seen == u64::from(changed), "{seen} of {changed} packets came back with {length} bytes");
        if let Some(counted) = self.row.counted {
            expect_counted(&before, &after, counted, u64::from(packets))?;
        }
        if let Some(asks) = &self.row.asks {
            let lookups = |tally: &Tally| tally.counters.flows.hit + tally.counters.flows.miss;
            let asked = lookups(&after) - lookups(&before);
            let [least, most] = [asks.start(), asks.end()].map(|&part| u64::from(part) * u64::from(packets));
            ensure!(
                (least..=most).contains(&(asked * 100)),
                "the flow table was asked {asked} times by {packets} packets, expected {asks:?} in a hundred"
            );
        }
        if self.row.flows == 1 {
            let fresh = looking.run(&self.row, 1)?;
            crate::packet::difference(&last.packet, &fresh.packet).map_or(Ok(()), |difference| {
                Err(anyhow!("the last packet is not what the program makes of the first: {difference}"))
            })?;
        }
        Ok(())
    }

    fn tally(&self) -> Result<Tally> {
        match &self.under_test {
            UnderTest::Balancer(tables) => tables.tally(),
            UnderTest::Own(_) | UnderTest::Pinned(_) => Ok(Tally::default()),
        }
    }
}

impl UnderTest {
    /// Sends what must have been there before the row's packets.
    fn prime(&mut self, row: &Row) -> Result<()> {
        match (self, &row.primer) {
            (Self::Balancer(tables), Some(packet)) => tables.send(packet).context("send the primer"),
            _ => Ok(()),
        }
    }
}

fn expect_counted(before: &Tally, after: &Tally, counted: Counted, packets: u64) -> Result<()> {
    let moved = |of: &dyn Fn(&Tally) -> u64| of(after) - of(before);
    let forwarded = moved(&|tally| tally.forwarded.packets);
    let passed = |tally: &Tally| -> u64 {
        bytemuck::cast_slice::<_, u64>(std::slice::from_ref(&tally.counters.passes)).iter().sum()
    };
    let dropped = |tally: &Tally| -> u64 {
        bytemuck::cast_slice::<_, u64>(std::slice::from_ref(&tally.counters.drops)).iter().sum()
    };
    let expected = match counted {
        Counted::Forwarded(bytes) => {
            let moved = moved(&|tally| tally.forwarded.bytes);
            ensure!(
                moved == bytes * packets,
                "{moved} bytes counted as forwarded, expected {}",
                bytes * packets
            );
            (packets, 0, 0)
        }
        Counted::Drop(_) => (0, 0, packets),
        _ => (0, packets, 0),
    };
    let got = (forwarded, moved(&passed), moved(&dropped));
    ensure!(got == expected, "(forwarded, passed, dropped) counted as {got:?}, expected {expected:?}");
    Ok(())
}

/// The programs at the other end of a wire.
pub(super) struct Generator {
    wrapper: Wrapper,
}

impl Generator {
    pub(super) fn load(row: &Row) -> Result<Self> {
        let mut wrapper = Wrapper::load(row, false)?;
        for name in ["bench_live", "bench_drop"] {
            wrapper.program(name)?.load().with_context(|| format!("load {name}"))?;
        }
        Ok(Self { wrapper })
    }

    /// Writes a frame's header anew and sends it.
    pub(super) fn live(&mut self) -> Result<&ProgramFd> {
        Ok(self.wrapper.program("bench_live")?.fd()?)
    }

    /// Drops what comes back.
    pub(super) fn drop(&mut self) -> Result<&ProgramFd> {
        Ok(self.wrapper.program("bench_drop")?.fd()?)
    }
}

/// `bench_restore` with one row's constants.
struct Wrapper {
    object: Ebpf,
}

const WRAPPER: &str = "bench_restore";

impl Wrapper {
    fn load(row: &Row, looks: bool) -> Result<Self> {
        let length = row.packet.len();
        let expected = if looks { length.saturating_add_signed(row.growth) as u32 } else { 0 };
        let outer = if row.restore_outer { u64::from_le_bytes(bytes(&row.packet, 18)?) } else { 0 };
        let object = EbpfLoader::new()
            .override_global("LENGTH", &(length as u32), true)
            .override_global("ETHERNET_0", &u64::from_le_bytes(bytes(&row.packet, 0)?), true)
            .override_global("ETHERNET_8", &u32::from_le_bytes(bytes(&row.packet, 8)?), true)
            .override_global("ETHERNET_12", &u16::from_le_bytes(bytes(&row.packet, 12)?), true)
            .override_global("OUTER", &outer, true)
            .override_global("FLOW_AT", &row.flow_at, true)
            .override_global(
                "FLOW_BYTES",
                &u64::from_le_bytes(bytes(&row.packet, row.flow_at as usize)?),
                true,
            )
            .override_global("FLOWS", &row.flows, true)
            .override_global("DESTINATIONS", &row.destinations, true)
            .override_global("EXPECTED", &expected, true)
            .load(object::BENCH)
            .context("load the bench's object")?;
        let mut wrapper = Self { object };
        wrapper.program(WRAPPER)?.load().with_context(|| format!("load {WRAPPER}"))?;
        Ok(wrapper)
    }

    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.object.program_mut(name).ok_or_else(|| anyhow!("no program {name}"))?;
        program.try_into().with_context(|| format!("{name} as an XDP program"))
    }

    fn point_at(&mut self, under_test: &mut UnderTest) -> Result<()> {
        let own;
        let fd = match under_test {
            UnderTest::Own(name) => {
                let program = self.program(name)?;
                program.load().with_context(|| format!("load {name}"))?;
                own = program.fd()?.try_clone().with_context(|| format!("duplicate {name}"))?;
                &own
            }
            UnderTest::Balancer(tables) => tables.program()?,
            UnderTest::Pinned(fd) => fd,
        };
        let map = self.object.map_mut("subject").ok_or_else(|| anyhow!("no map subject"))?;
        let mut array = ProgramArray::try_from(map).context("open subject")?;
        array.set(0, fd, 0).context("write subject[0]")
    }

    fn run(&self, row: &Row, packets: u32) -> Result<Outcome> {
        let program: &Xdp =
            self.object.program(WRAPPER).ok_or_else(|| anyhow!("no {WRAPPER}"))?.try_into()?;
        Ok(prog::run_repeated(program.fd()?.as_fd(), &row.packet, &Ctx::default(), packets)?)
    }

    /// Packets that came back with the expected length.
    fn as_expected(&self) -> Result<u64> {
        let map = self.object.map("progress").ok_or_else(|| anyhow!("no map progress"))?;
        let map: Array<_, [u64; 2]> = Array::try_from(map).context("open progress")?;
        let [_, as_expected] = map.get(&0, 0).context("read progress[0]")?;
        Ok(as_expected)
    }
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N]> {
    packet
        .get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .with_context(|| format!("the packet ends before {at} + {N}"))
}
