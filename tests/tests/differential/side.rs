//! The kernel and the model, side by side: the same packets, and everything that became of them compared.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::dice::Dice;
use anyhow::{Context as _, Result};
use xdp_lb::dataplane::sys::Jiffies;
use xdp_lb::nexthop::{self, Below, NextHop, Resolution, UnresolvedReason};
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_USED};
use xdp_lb_common::ring::{NO_BACKEND, Slot as Word};
use xdp_lb_common::service::TRACK_WINDOW;
use xdp_lb_common::stats::Traffic;
use xdp_lb_tests::model::{
    Change, Clock, Entry, File, FragmentEntry, Member, Model, Moment, Placed, Prediction, ROUTER, Slot,
    State, Tags, Way,
};
use xdp_lb_tests::packet::difference;
use xdp_lb_tests::prog::{Agent, Ctx, Memory, Pinned, Subject as _, Tally, counted, desired, run};

/// Both.
pub struct Side {
    pinned: Pinned,
    /// None where nothing is balanced.
    agent: Option<Agent>,
    /// What should happen.
    pub model: Model,
    flows: Memory<8>,
    fragments: Memory<8>,
    admissions: Memory<1>,
    slow: Memory<8>,
    jiffies: Jiffies,
    cpu: u32,
    tally: Tally,
}

impl Side {
    /// Loads a file. The thread must stay on `cpu`.
    pub fn load(file: &File, cpu: u32) -> Result<Self> {
        let yaml = file.yaml();
        let pinned = Pinned::load(&yaml).with_context(|| format!("load\n{yaml}"))?;
        let wanted = desired(&yaml)?;
        let balances = !file.services.is_empty();
        let agent = if balances { Some(Agent::start(&pinned, &wanted)?) } else { None };
        let root = pinned.root();
        let control = pinned.maps().control();
        let clock = Clock::of(control.hz);
        anyhow::ensure!(
            (clock.tick_shift, clock.second_shift) == (control.tick_shift, control.second_shift),
            "the agent counts in other units than the model: {control:?}, {clock:?}"
        );
        let mut side = Self {
            flows: Memory::open(root, "flows")?,
            fragments: Memory::open(root, "fragments")?,
            admissions: Memory::open(root, "admissions")?,
            slow: Memory::open(root, "slow")?,
            jiffies: Jiffies::load()?,
            model: Model { file: file.clone(), placed: BTreeMap::new(), clock, state: State::new(file) },
            pinned,
            agent,
            cpu,
            tally: Tally::default(),
        };
        side.model.placed = side.placed(file);
        side.tally = side.count();
        Ok(side)
    }

    /// Carries out another configuration of the same services.
    pub fn change(&mut self, file: &File) -> Result<()> {
        let yaml = file.yaml();
        let wanted = desired(&yaml).with_context(|| yaml.clone())?;
        let agent = self.agent.as_mut().context("nothing is balanced")?;
        let backends = file.services.iter().flat_map(|service| &service.backends);
        for backend in backends {
            let way = file.ways.get(&backend.address).copied().unwrap_or(xdp_lb_tests::model::LO);
            agent.route(backend.address, resolution(way));
        }
        agent.apply(&wanted).with_context(|| yaml.clone())?;
        self.model.file = file.clone();
        self.model.placed = self.placed(file);
        // The agent frees flows of backends that died, and tidies.
        self.model.state = self.remembered()?;
        self.tally = self.count();
        Ok(())
    }

    /// Lets windows end, or the agent tidy.
    pub fn tidy(&mut self) -> Result<()> {
        let wanted = desired(&self.model.file.yaml())?;
        let agent = self.agent.as_mut().context("nothing is balanced")?;
        agent.settle(&wanted)?;
        agent.survey(&wanted)?;
        self.model.placed = self.placed(&self.model.file);
        self.model.state = self.remembered()?;
        Ok(())
    }

    /// Sends a frame and compares. What became of it, or what is wrong.
    pub fn send(&mut self, frame: &[u8], ingress: u32) -> Result<Prediction, String> {
        let ctx = Ctx { ingress_ifindex: ingress, ..Ctx::default() };
        let now = |side: &Self| side.jiffies.now().map_err(|error| format!("read the clock: {error}"));
        let earliest = now(self)?;
        let outcome = run(self.pinned.program(), frame, &ctx).map_err(|failure| failure.to_string())?;
        let latest = now(self)?;
        let (before, after) = (self.tally, self.count());
        self.tally = after;

        let units =
            |jiffies: u32| (jiffies >> self.model.clock.tick_shift, jiffies >> self.model.clock.second_shift);
        let moments: &[u32] =
            if units(earliest) == units(latest) { &[earliest] } else { &[earliest, latest] };
        let mut wrong = None;
        for &jiffies in moments {
            for sampled in [false, true] {
                let said = self.model.predict(frame, ingress, Moment { jiffies, sampled });
                let verdict = (said.verdict != outcome.verdict)
                    .then(|| format!("verdict {:?}, expected {:?}", outcome.verdict, said.verdict));
                let packet = difference(&outcome.packet, &said.packet);
                let moved = if expected(&before, &said) == after {
                    None
                } else {
                    counted(before, after, &said.counted).err()
                };
                let table = self.unlike(&said.changes).err();
                let all: Vec<String> = [verdict, moved, packet, table].into_iter().flatten().collect();
                if all.is_empty() {
                    self.model.state.apply(&said.changes);
                    if moments.len() > 1 {
                        // Which second it was is known to nobody; it is written there.
                        self.model.state = self.remembered().map_err(|error| format!("{error:#}"))?;
                    }
                    return Ok(said);
                }
                wrong.get_or_insert(all.join("\n"));
            }
        }
        Err(wrong.unwrap_or_default())
    }

    /// Whether the flow table's sets are as they should be after these changes.
    fn unlike(&self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            let Change::Flow { set, way, entry } = *change else { continue };
            let mut wanted = self.model.state.flows.sets[set];
            wanted[way] = Some(entry);
            let there = self.pinned.maps().flow_set(set as u32).map(|set| set.entries.map(Entry::from_word));
            if there != Some(wanted) {
                return Err(format!("flow set {set} is {there:?}, expected {wanted:?}"));
            }
        }
        Ok(())
    }

    /// Whether all that is remembered is what should be.
    pub fn settle_up(&self) -> Result<(), String> {
        let there = self.remembered().map_err(|error| format!("{error:#}"))?;
        let wanted = &self.model.state;
        let sets = there.flows.sets.iter().zip(&wanted.flows.sets).enumerate();
        for (number, (there, wanted)) in sets {
            if there != wanted {
                return Err(format!("flow set {number} is {there:?}, expected {wanted:?}"));
            }
        }
        let sets = there.fragments.sets.iter().zip(&wanted.fragments.sets).enumerate();
        for (number, (there, wanted)) in sets {
            if there != wanted {
                return Err(format!("fragment set {number} is {there:?}, expected {wanted:?}"));
            }
        }
        for (id, said) in &wanted.admissions {
            if there.admissions.get(id) != Some(said) {
                return Err(format!(
                    "service {id} admitted {:?}, expected {said:?}",
                    there.admissions.get(id)
                ));
            }
        }
        if there.answers == wanted.answers {
            Ok(())
        } else {
            Err(format!("answers {:?}, expected {:?}", there.answers, wanted.answers))
        }
    }

    /// Takes what the kernel remembers for what should be: after a difference.
    pub fn believe(&mut self) -> Result<()> {
        self.model.state = self.remembered()?;
        self.tally = self.count();
        Ok(())
    }

    /// Makes everything that is remembered older, by ticks and seconds.
    pub fn age(&mut self, ticks: u16, seconds: u8) -> Result<()> {
        let state = &mut self.model.state;
        for (number, set) in (0..).zip(&mut state.flows.sets) {
            for entry in set.iter_mut().flatten() {
                entry.expiry = (entry.expiry + 2048 - ticks) % 2048;
            }
            if set.iter().any(Option::is_some) {
                self.flows.set(number, set.map(|way| way.map_or(0, |entry| entry.word())))?;
            }
        }
        for (number, set) in (0..).zip(&mut state.fragments.sets) {
            for entry in set.iter_mut().flatten() {
                entry.second = entry.second.wrapping_sub(seconds);
            }
            if set.iter().any(Option::is_some) {
                self.fragments.set(number, set.map(|way| way.map_or(0, |entry| entry.word())))?;
            }
        }
        Ok(())
    }

    /// Fills a quarter of the flow table's sets with flows of a ring that nobody has.
    pub fn crowd(&mut self, dice: &mut Dice) -> Result<()> {
        let tick = self.jiffies.now()? >> self.model.clock.tick_shift;
        for (number, set) in (0..).zip(&mut self.model.state.flows.sets) {
            if !dice.percent(25) {
                continue;
            }
            for way in set.iter_mut().filter(|way| way.is_none()) {
                let (expiry, tag) = ((tick + 1900) as u16 % 2048, dice.next() & 0x3ff_ffff);
                *way = Some(Entry { closing: false, expiry, backend: 0, ring: 0x3fff, tag });
            }
            self.flows.set(number, set.map(|way| way.map_or(0, |entry| entry.word())))?;
        }
        Ok(())
    }

    /// What is remembered in the maps.
    fn remembered(&self) -> Result<State> {
        let mut state = State::new(&self.model.file);
        state.flows.sets =
            self.pinned.maps().flow_sets().map(|(_, set)| set.entries.map(Entry::from_word)).collect();
        state.fragments.sets = (0..self.fragments.len())
            .map(|set| Ok(self.fragments.get(set)?.map(FragmentEntry::from_word)))
            .collect::<Result<_>>()?;
        // The model's seconds are what 32 bits of jiffies give.
        let mask = u32::MAX >> self.model.clock.second_shift;
        let pair = |word: u64| ((word >> 32) as u32 & mask, word as u32);
        for placed in self.model.placed.values() {
            let [word] = self.admissions.get(placed.id.into())?;
            if word != 0 {
                state.admissions.insert(placed.id, pair(word));
            }
        }
        let [answers, ..] = self.slow.get(self.cpu % self.slow.len())?;
        state.answers = pair(answers);
        Ok(state)
    }

    /// What has been counted, of the services that there are.
    fn count(&self) -> Tally {
        let maps = self.pinned.maps();
        let mut forwarded = Traffic::default();
        for placed in self.model.placed.values() {
            let traffic = maps.service_traffic(placed.id).expect("read svc_stats");
            forwarded.packets += traffic.packets;
            forwarded.bytes += traffic.bytes;
        }
        Tally { counters: maps.counters().expect("read counters"), forwarded }
    }

    /// Where the plan put the services of a file.
    fn placed(&self, file: &File) -> BTreeMap<String, Placed> {
        let maps = self.pinned.maps();
        let ids = 1..u16::try_from(maps.capacity().services).unwrap_or(u16::MAX);
        let mut placed = BTreeMap::new();
        for id in ids {
            let Some(service) = maps.service(id).filter(|service| service.used == 1) else { continue };
            let name = String::from_utf8_lossy(&service.name).trim_end_matches('\0').to_owned();
            if !file.services.iter().any(|service| service.name == name) {
                continue;
            }
            let config = service.config();
            let known = |local| (local != NO_BACKEND).then_some(local);
            let slots = (0..config.table_size).filter_map(|slot| maps.slot(config.slot_base + slot));
            let slots = slots.map(|(now, before)| {
                let now = Word(now);
                Slot { now: known(now.backend()), dirty: now.is_dirty(), before: known(before) }
            });
            let block = maps.backend(config.backend_base).map_or(0, |first| first.block_len);
            let members = (0..block).filter_map(|local| {
                let backend = maps.backend(config.backend_base + local)?;
                let used = backend.state & BACKEND_USED != 0;
                let address = Ipv6Addr::from(backend.address).to_canonical();
                used.then_some((local as u16, Member { address, alive: backend.state & BACKEND_ALIVE != 0 }))
            });
            placed.insert(
                name,
                Placed {
                    id,
                    ring: config.id,
                    window: config.flags & TRACK_WINDOW != 0,
                    slots: slots.collect(),
                    members: members.collect(),
                },
            );
        }
        placed
    }
}

/// The counters as they are after what was said.
fn expected(before: &Tally, said: &Prediction) -> Tally {
    use xdp_lb_common::reason::Reason;
    use xdp_lb_tests::prog::Counted;

    fn up<R: Reason>(counts: &mut R::Counts, reason: R) {
        bytemuck::cast_slice_mut::<R::Counts, u64>(std::slice::from_mut(counts))[reason.index()] += 1;
    }
    let mut after = *before;
    for counted in &said.counted {
        match *counted {
            Counted::Drop(reason) => up(&mut after.counters.drops, reason),
            Counted::Pass(reason) => up(&mut after.counters.passes, reason),
            Counted::Flow(event) => up(&mut after.counters.flows, event),
            Counted::Forwarded(bytes) => {
                after.forwarded.packets += 1;
                after.forwarded.bytes += bytes;
            }
        }
    }
    after
}

fn below(ifindex: u32, tags: Tags) -> Option<Below> {
    let tags = match tags {
        Tags::Kept => return None,
        Tags::Gone => nexthop::Tags::None,
        Tags::One(tag) => nexthop::Tags::One(tag),
    };
    Some(Below { ifindex, tags })
}

fn resolution(way: Way) -> Resolution {
    match way {
        Way::Here => Resolution::Local,
        Way::Unknown => Resolution::Unresolved(UnresolvedReason::NoRoute),
        Way::Out { ifindex, mtu, tags } => Resolution::Resolved(NextHop {
            ifindex,
            interface: String::from("differential"),
            source_mac: [0; 6],
            destination_mac: ROUTER,
            mtu: mtu.into(),
            below: below(ifindex, tags),
            path_mtu: None,
        }),
    }
}
