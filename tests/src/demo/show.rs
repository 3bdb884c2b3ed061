//! The show: builds the lab, carries out the scenario under traffic, tells what is seen, and judges.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{self, Act, Death};
use super::arguments::Arguments;
use super::file;
use super::interrupt::Interrupt;
use super::owner::Owners;
use super::scenario::{self, Event};
use super::screen::{self, Paint, View};
use super::stage::{self, Stage};
use super::terminal::{Abilities, Terminal};
use super::traffic::{REQUEST_TIMEOUT, Sample, Traffic};
use crate::lab::files::{VIP, WEB};
use crate::lab::plan::{self, Role};
use crate::lab::routers::FRR;
use crate::lab::skip;
use crate::lab::topology::{Host, Lab, Options};
use crate::lab::{Leaks, Lifetime, janitor, product};

/// Every request was answered.
pub const CLEAN: u8 = 0;
/// Something was lost.
pub const LOST: u8 = 1;
/// Interrupted before there was anything to judge.
pub const INTERRUPTED: u8 = 130;

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(250);
/// Time that rates are taken over, and between two plain lines.
const SECOND: Duration = Duration::from_secs(1);
/// Backends of the lab.
const BACKENDS: u8 = 3;

/// Runs the show and returns the exit code.
///
/// # Errors
/// When the lab cannot be built, or something of it ends before its time. Nothing is left behind then, either.
pub fn run(arguments: &Arguments, out: impl Write) -> Result<u8> {
    let mut terminal = Terminal::new(out, Abilities::of_stdout(arguments.no_color));
    if let Some(missing) = skip::first_missing(skip::LAB) {
        bail!("the lab cannot be built here: {missing}");
    }
    if let Some(missing) = skip::first_missing(&[FRR]).filter(|_| arguments.bgp) {
        bail!("BGP cannot be shown here: {missing}");
    }
    if arguments.clean {
        let gone = janitor::sweep();
        terminal.say([format!("{} remains of earlier labs taken away", gone.len())]);
        return Ok(CLEAN);
    }
    let interrupt = Interrupt::listen()?;
    let before = Leaks::note()?;
    let lifetime = if arguments.keep { Lifetime::Kept } else { Lifetime::Dropped };
    terminal.say(["xdp-lb: building a lab of network namespaces; this machine's own network is not touched"]);
    let lab = Lab::start(&Options { backends: BACKENDS, lifetime, ..Options::default() })?;
    let id = lab.id();
    let outcome = on_stage(arguments, &lab, &interrupt, &mut terminal);
    if arguments.keep {
        terminal.say(hints(&lab));
        return outcome;
    }
    drop(lab);
    before.check(id)?;
    terminal.say(["   The lab is gone: no namespace, process, pin or file of it is left."]);
    outcome
}

/// Everything between the building of the lab and its end.
fn on_stage(
    arguments: &Arguments,
    lab: &Lab,
    interrupt: &Interrupt,
    terminal: &mut Terminal<impl Write>,
) -> Result<u8> {
    let began = Instant::now();
    let mut stage = Stage::start(lab, arguments.bgp)?;
    terminal.say(screen::topology(stage.web_server()));
    let ready = format!("  All daemons are ready after {}.", account::seconds(began.elapsed()));
    terminal.say([String::new(), ready]);
    if interrupt.is_given() {
        return Ok(INTERRUPTED);
    }
    if arguments.bgp {
        let said = stage.announce()?;
        terminal.say([String::new()].into_iter().chain(said));
    }
    let traffic = Traffic::start(lab)?;
    let mut director = Director {
        paint: Paint(terminal.can().colours),
        terminal,
        interrupt,
        traffic: &traffic,
        backends: lab.backends().iter().map(|b| b.role.name()).collect(),
        recent: Vec::new(),
        acts: Vec::new(),
        told: Duration::ZERO,
    };
    let shown = director.all_steps(arguments, &mut stage);
    let Director { acts, paint, .. } = director;
    let last = traffic.stop()?;
    shown?;
    let owners = Owners::of_file(&file::of_edge(1, &Default::default()))?;
    let account =
        account::settle(&acts, &last, &|failure| owners.of_failure(Role::Client(1), BACKENDS, failure));
    terminal.say(screen::summary(&account, account::death(&acts).as_ref(), &last, paint));
    if arguments.keep {
        stage.restore().context("make the lab whole again")?;
        terminal
            .say(["", "   The lab is whole again: no backend drained or dead, both edge nodes announced."]);
        stage.stop_servers()?;
    }
    Ok(if account.is_clean() { CLEAN } else { LOST })
}

/// Carries out steps and draws meanwhile.
struct Director<'a, W: Write> {
    terminal: &'a mut Terminal<W>,
    paint: Paint,
    interrupt: &'a Interrupt,
    traffic: &'a Traffic<'a>,
    backends: Vec<String>,
    /// Samples of the last second, the oldest first.
    recent: Vec<Sample>,
    acts: Vec<Act>,
    /// When the last plain line was written.
    told: Duration,
}

impl<W: Write> Director<'_, W> {
    fn all_steps(&mut self, arguments: &Arguments, stage: &mut Stage<'_>) -> Result<()> {
        let steps = scenario::steps();
        let steps = arguments.length.map_or_else(|| steps.clone(), |length| scenario::scaled(&steps, length));
        let count = steps.len();
        for (number, step) in (1..).zip(&steps) {
            let before = self.traffic.sample()?;
            self.terminal.say(screen::headline(step.event, before.at(), self.paint));
            let end = Instant::now() + step.watch;
            stage.perform(step.event)?;
            let done = self.traffic.sample()?;
            self.acts.push(Act { event: step.event, after: done.clone(), before, done });
            // On a slow machine the agents may have taken most of the step: what was in flight is still waited for.
            let end = end.max(Instant::now() + REQUEST_TIMEOUT);
            let given = self.watch(stage, (number, count), Some(end))?;
            self.conclude()?;
            if given {
                self.terminal.say(["", "   Interrupted: the rest is left out."]);
                return Ok(());
            }
        }
        if self.terminal.can().redraws && arguments.length.is_none() {
            self.watch(stage, (count, count), None)?;
        }
        Ok(())
    }

    /// Draws until `end` or the interrupt, and says whether it was the interrupt.
    fn watch(&mut self, stage: &mut Stage<'_>, step: (usize, usize), end: Option<Instant>) -> Result<bool> {
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            self.frame(step, left)?;
            stage.is_alive()?;
            let pause = left.map_or(FRAME, |left| left.min(FRAME));
            if self.interrupt.wait(pause) {
                return Ok(true);
            }
            if left.is_some_and(|left| left <= FRAME) {
                return Ok(false);
            }
        }
    }

    fn frame(&mut self, step: (usize, usize), left: Option<Duration>) -> Result<()> {
        let now = self.traffic.sample()?;
        self.recent.push(now.clone());
        // The youngest that is at least a second old stays, as the one to compare with.
        let old = self.recent.iter().filter(|s| s.at() + SECOND <= now.at()).count();
        self.recent.drain(..old.saturating_sub(1));
        let death = account::death(&self.acts);
        let view = View {
            event: self.acts.last().map_or(Event::Quiet, |act| act.event),
            step,
            left,
            now: &now,
            before: &self.recent[0],
            death: death.as_ref(),
            backends: &self.backends,
        };
        if self.terminal.can().redraws {
            self.terminal.draw(&screen::picture(&view, self.paint));
        } else if now.at() >= self.told + SECOND {
            self.told = now.at();
            self.terminal.say([screen::line(&view)]);
        }
        Ok(())
    }

    /// Says what the step at hand did to whom.
    fn conclude(&mut self) -> Result<()> {
        let death: Option<Death> = account::death(&self.acts);
        if let Some(act) = self.acts.last_mut() {
            act.after = self.traffic.sample()?;
            let said = account::sentences(act, death.as_ref());
            self.terminal.say(said.iter().map(|sentence| format!("   {sentence}")));
        }
        Ok(())
    }
}

/// How to look around in a lab that stays.
fn hints(lab: &Lab) -> Vec<String> {
    let inside = |host: &Host| format!("nsenter --net=/run/netns/{}", host.ns.name());
    let (client, edge, pins) = (inside(lab.client(1)), inside(lab.edge(1)), lab.bpf().of("edge1"));
    let xdp_lb = product::binary().map_or_else(|_| "xdp-lb".into(), |path| path.display().to_string());
    let mut lines = vec![
        String::new(),
        "== the lab stays up".to_owned(),
        format!("   an edge node    {edge} ip -s link show eth0"),
        format!("   its state       {edge} {xdp_lb} status --bpffs {}", pins.display()),
        format!("   its maps        bpftool map dump pinned {}/maps/backends", pins.display()),
        format!("   its file        {}", lab.scratch().path().join("edge1.yaml").display()),
    ];
    if stage::has_nginx() {
        lines.push(format!("   a request       {client} curl -s http://{}:{WEB}/", plan::vip(VIP).v4));
    }
    lines.push(
        "   Clients and servers other than nginx were part of this program and have ended with it.".into(),
    );
    lines.push("   To take it away: cargo xtask run --clean (the next lab of any kind does it, too)".into());
    lines
}
