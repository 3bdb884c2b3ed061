//! Real routers in a namespace: FRR and BIRD, with the configuration a test gives them, and questions in their own words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::namespace::Namespace;
use super::process::Process;
use super::product::run_to_end;
use super::skip::Need;
use super::wait::wait_until;

/// FRR's daemons; not on any path.
pub const FRR_DIR: &str = "/usr/lib/frr";
/// What a test with FRR needs.
pub const FRR: Need = Need::Program("vtysh", "frr");
/// What a test with BIRD needs.
pub const BIRD: Need = Need::Program("bird", "bird2");
/// How long a daemon may take to answer its first question.
const READY: Duration = Duration::from_secs(20);
/// How long a question may take.
const ANSWER: Duration = Duration::from_secs(10);

/// FRR: zebra, bgpd and bfdd.
#[derive(Debug)]
pub struct Frr<'ns> {
    ns: &'ns Namespace,
    directory: PathBuf,
    daemons: Vec<(&'static str, Process)>,
}

impl<'ns> Frr<'ns> {
    /// Starts it in `ns` with `config` for zebra and bgpd and `bfd` for bfdd, below the directory `scratch`, and waits
    /// until all daemons answer. Two texts, because a daemon gives up at the first section of another's.
    ///
    /// # Errors
    /// When one does not.
    pub fn start(ns: &'ns Namespace, scratch: &Path, config: &str, bfd: &str) -> Result<Self> {
        let directory = scratch.join(format!("frr-{}", ns.name()));
        fs::create_dir_all(&directory)?;
        let log = directory.join("frr.log");
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = directory.join(name);
            fs::write(&file, format!("log file {}\n{text}", log.display()))?;
            Ok(file)
        };
        give_to_frr(&[&directory, &write("frr.conf", config)?, &write("bfdd.conf", bfd)?])?;
        let mut frr = Self { ns, directory, daemons: Vec::new() };
        for daemon in ["zebra", "bfdd", "bgpd"] {
            frr.start_daemon(daemon)?;
        }
        Ok(frr)
    }

    /// Starts one daemon (`zebra`, `bgpd` or `bfdd`) again, after [`Frr::kill`].
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_daemon(&mut self, daemon: &'static str) -> Result<()> {
        let in_directory = |name: &str| self.directory.join(name);
        // A real router has CPUs of its own: what this machine is busy with must not look like a dead path.
        let mut command = Command::new("nice");
        command.args(["-n", if daemon == "bfdd" { "-15" } else { "0" }]).arg(Path::new(FRR_DIR).join(daemon));
        let config = if daemon == "bfdd" { "bfdd.conf" } else { "frr.conf" };
        command.arg("-f").arg(in_directory(config)).arg("-i").arg(in_directory(&format!("{daemon}.pid")));
        command.arg("-z").arg(in_directory("zserv.api")).arg("--vty_socket").arg(&self.directory);
        command.args(["-P", "0"]);
        if daemon == "bfdd" {
            command.arg("--bfdctl").arg(in_directory("bfdd.sock"));
        }
        let mut process = self.ns.spawn(daemon, command)?.quiet();
        let answers = || self.ask_daemon(daemon, "show version").is_ok();
        wait_until(&format!("{daemon} to answer"), READY, || process.poll().is_some() || answers())?;
        ensure!(process.poll().is_none(), "{daemon} ended: {:?}", process.log());
        self.daemons.push((daemon, process));
        Ok(())
    }

    /// Kills one daemon, or what is left of it, as a crash would.
    pub fn kill(&mut self, daemon: &str) {
        self.daemons.retain_mut(|(name, process)| {
            if *name == daemon {
                process.kill();
            }
            *name != daemon
        });
        drop(fs::remove_file(self.directory.join(format!("{daemon}.vty"))));
    }

    /// Ends one daemon in order.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self, daemon: &str) -> Result<()> {
        for (_, process) in self.daemons.iter_mut().filter(|(name, _)| *name == daemon) {
            process.terminate(READY)?;
        }
        self.kill(daemon);
        Ok(())
    }

    /// The process of a daemon.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&mut self, daemon: &str) -> &mut Process {
        let found = self.daemons.iter_mut().find(|(name, _)| *name == daemon);
        &mut found.unwrap_or_else(|| panic!("{daemon} does not run")).1
    }

    fn ask_daemon(&self, daemon: &str, question: &str) -> Result<String> {
        self.vtysh(&["-d", daemon, "-c", question])
    }

    fn vtysh(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.directory).args(arguments);
        let output = run_to_end(self.ns, "vtysh", command, ANSWER)?;
        if !output.status.success() {
            bail!("vtysh {arguments:?}: {} {}", output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    /// What `vtysh -c LINE -c LINE ...` says.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, lines: &[&str]) -> Result<String> {
        let arguments: Vec<&str> = lines.iter().flat_map(|line| ["-c", *line]).collect();
        self.vtysh(&arguments)
    }

    /// The answer to a question that ends in `json`.
    ///
    /// # Errors
    /// When it fails or is no JSON.
    pub fn json(&self, question: &str) -> Result<Value> {
        let text = self.ask(&[question])?;
        serde_json::from_str(&text).with_context(|| format!("{question}: {text}"))
    }

    /// Paths that bgpd has of a prefix: objects as in `show bgp ... PREFIX json`. None: an empty list.
    ///
    /// # Errors
    /// When bgpd does not answer.
    pub fn paths(&self, prefix: &str) -> Result<Vec<Value>> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let answer = self.json(&format!("show bgp {family} unicast {prefix} json"))?;
        Ok(answer["paths"].as_array().cloned().unwrap_or_default())
    }

    /// State of the session to `neighbour`, as `show bgp neighbors` has it.
    ///
    /// # Errors
    /// When bgpd does not answer.
    pub fn neighbour(&self, neighbour: &str) -> Result<Value> {
        let answer = self.json(&format!("show bgp neighbors {neighbour} json"))?;
        Ok(answer[neighbour].clone())
    }

    /// What its log says, for a test that fails.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("frr.log")).unwrap_or_default()
    }
}

/// FRR's daemons give up root for the user `frr`.
fn give_to_frr(paths: &[&Path]) -> Result<()> {
    let status = Command::new("chown").arg("frr:frr").args(paths).status().context("start chown")?;
    ensure!(status.success(), "there is no user frr");
    Ok(())
}

/// BIRD 2.
#[derive(Debug)]
pub struct Bird<'ns> {
    ns: &'ns Namespace,
    control: PathBuf,
    process: Process,
}

impl<'ns> Bird<'ns> {
    /// Starts it in `ns` with `config`, below the directory `scratch`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(ns: &'ns Namespace, scratch: &Path, config: &str) -> Result<Self> {
        let in_scratch = |suffix: &str| scratch.join(format!("bird-{}.{suffix}", ns.name()));
        let (file, control) = (in_scratch("conf"), in_scratch("ctl"));
        fs::write(&file, config)?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(&file).arg("-s").arg(&control).arg("-P").arg(in_scratch("pid"));
        let process = ns.spawn("bird", command)?.quiet();
        let mut bird = Self { ns, control, process };
        let ended = |bird: &mut Self| bird.process.poll().is_some();
        wait_until("bird to answer", READY, || ended(&mut bird) || bird.ask("show status").is_ok())?;
        ensure!(bird.process.poll().is_none(), "bird ended: {:?}", bird.process.log());
        Ok(bird)
    }

    /// What `birdc QUESTION` says.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, question: &str) -> Result<String> {
        let mut command = Command::new("birdc");
        command.arg("-r").arg("-s").arg(&self.control).args(question.split(' '));
        let output = run_to_end(self.ns, "birdc", command, ANSWER)?;
        ensure!(output.status.success(), "birdc {question}: {} {}", output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// All that it knows of a prefix, of all its paths.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn route(&self, prefix: &str) -> Result<String> {
        self.ask(&format!("show route all {prefix}")).or_else(|e| {
            // birdc fails where there is no such network.
            if format!("{e:#}").contains("not found") { Ok(String::new()) } else { Err(e) }
        })
    }
}
