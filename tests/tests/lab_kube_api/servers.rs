//! Real API servers on one etcd, one for each of our roles: each holds its user to what that role may do.
//!
//! `XDP_LB_KUBE_API` names a folder with `start DIR` and `stop DIR`, which start and end the first of them with its etcd; the
//! others are the same program beside it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use xdp_lb_tests::lab::id::PROCESS_MARK;
use xdp_lb_tests::lab::{Lab, product, sys, wait_until};

use super::api::Api;

const BOUND: Duration = Duration::from_secs(30);

/// Whose ClusterRole a server's user is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// `xdp-lb run`.
    Agent,
    /// `xdp-lb decap`.
    Decap,
    /// `xdp-lb controller`.
    Controller,
}

const ACCOUNTS: [Account; 3] = [Account::Agent, Account::Decap, Account::Controller];

impl Account {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Decap => "decap",
            Self::Controller => "controller",
        }
    }

    /// All that our manifests allow it, as one list of rules.
    fn rules(self) -> Result<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize").join(self.name());
        let role = fs::read_to_string(folder.join("role.yaml")).unwrap_or_default();
        let more = role.split_once("\nrules:\n").map_or("", |(_, rules)| rules);
        Ok(fs::read_to_string(folder.join("clusterrole.yaml"))? + more)
    }
}

/// One of them.
struct Server {
    at: SocketAddr,
    command: Vec<String>,
    log: PathBuf,
    /// None: by its pid file, or ended.
    child: Option<Child>,
}

/// All of them.
pub struct Servers {
    tools: PathBuf,
    folder: PathBuf,
    mark: String,
    etcd: SocketAddr,
    /// In the order of [`ACCOUNTS`].
    servers: Vec<Server>,
}

impl Servers {
    /// Where the means to start them are; `None`, said, where there are none.
    pub fn tools() -> Option<PathBuf> {
        let Some(tools) = std::env::var_os("XDP_LB_KUBE_API").map(PathBuf::from) else {
            eprintln!("SKIP: XDP_LB_KUBE_API names no folder with a start script for an API server");
            return None;
        };
        assert!(tools.join("start").is_file(), "XDP_LB_KUBE_API: there is no {}/start", tools.display());
        Some(tools.canonicalize().expect("it is there"))
    }

    /// Starts them in the lab's directory, with our definitions in force.
    pub fn start(lab: &Lab, tools: PathBuf) -> Result<Self> {
        let folder = lab.scratch().path().join("api");
        fs::create_dir(&folder)?;
        for account in ACCOUNTS {
            fs::write(folder.join(format!("{}.yaml", account.name())), account.rules()?)?;
        }
        let ports = ports()?;
        let mark = lab.id().namespace("api");
        let role = folder.join("agent.yaml");
        // It leaves certificates in the current directory.
        let mut start = Command::new(tools.join("start"));
        start.arg(&folder).arg("--role").arg(&role).current_dir(&folder).env(PROCESS_MARK, &mark);
        start.env("API_PORT", ports[0].to_string()).env("ETCD_PORT", ports[3].to_string());
        let started =
            start.stdin(Stdio::null()).stdout(Stdio::null()).status().context("start an API server")?;
        let [first, second, third, etcd] = [0, 1, 2, 3].map(|n| local(ports[n]));
        let mut servers = Self { tools, folder, mark, etcd, servers: Vec::new() };
        let log = servers.folder.join("kube-api.log");
        ensure!(started.success(), "{}", read(&log));
        let line = fs::read(format!("/proc/{}/cmdline", servers.pid("kube-api")?))?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let command: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let names = ["kubeconfig", "kubeconfig-agent"];
        let [_, kubeconfig] = names.map(|name| servers.folder.join(name));
        let kubeconfig = fs::read_to_string(kubeconfig)?;
        for (account, at) in ACCOUNTS.into_iter().zip([first, second, third]) {
            let mut command = command.clone();
            let file = servers.folder.join(format!("{}.yaml", account.name()));
            for (word, value) in [("--port", at.port().to_string()), ("--role", file.display().to_string())] {
                let place = command.iter().position(|it| it == word).context(word)? + 1;
                command[place] = value;
            }
            let text = kubeconfig.replace(&first.to_string(), &at.to_string());
            fs::write(servers.kubeconfig(account), text)?;
            let log = servers.folder.join(format!("{}.log", account.name()));
            servers.servers.push(Server { at, command, log, child: None });
        }
        servers.servers[0].log = log;
        [Account::Decap, Account::Controller].into_iter().try_for_each(|account| servers.again(account))?;
        servers.define(lab)?;
        Ok(servers)
    }

    /// Our definitions, in force at all of them.
    fn define(&self, lab: &Lab) -> Result<()> {
        let said = product::command(lab.router(), &["crds"], BOUND)?;
        let api = self.api(Account::Agent)?;
        let mut paths = Vec::new();
        for text in said.stdout.split("---\n").filter(|text| !text.trim().is_empty()) {
            let mut definition: Value = serde_yaml::from_str(text)?;
            definition.as_object_mut().map(|object| object.remove("status"));
            api.put(&definition)?;
            let spec = &definition["spec"];
            let part = |value: &Value| value.as_str().map(ToOwned::to_owned).context("a definition");
            let (group, plural) = (part(&spec["group"])?, part(&spec["names"]["plural"])?);
            paths.push(format!("/apis/{group}/{}/{plural}", part(&spec["versions"][0]["name"])?));
        }
        ensure!(paths.len() >= 4, "{}", said.stderr);
        for account in ACCOUNTS {
            let api = self.api(account)?;
            let is_there = |path: &String| api.says(path).is_ok_and(|(status, _)| status == 200);
            wait_until("the definitions", BOUND, || paths.iter().all(is_there))?;
        }
        Ok(())
    }

    fn server(&self, account: Account) -> &Server {
        &self.servers[account as usize]
    }

    /// Where the server of a role listens.
    pub fn at(&self, account: Account) -> SocketAddr {
        self.server(account).at
    }

    /// The server of a role, for its administrator.
    pub fn api(&self, account: Account) -> Result<Api> {
        Api::at(self.at(account))
    }

    /// For the user that is held to a role.
    pub fn kubeconfig(&self, account: Account) -> PathBuf {
        self.folder.join(format!("kubeconfig-of-{}", account.name()))
    }

    /// What roles did not allow, of all that was asked for.
    pub fn refused(&self) -> Vec<String> {
        let logs = self.servers.iter().map(|server| read(&server.log)).collect::<String>();
        logs.lines().filter(|line| line.contains("RBAC-DENY")).map(ToOwned::to_owned).collect()
    }

    fn pid(&self, name: &str) -> Result<u32> {
        Ok(fs::read_to_string(self.folder.join(format!("{name}.pid")))?.trim().parse()?)
    }

    /// The server of a role ends at once; etcd and the others stay.
    pub fn kill(&mut self, account: Account) -> Result<()> {
        match self.servers[account as usize].child.take() {
            Some(mut child) => {
                child.kill()?;
                child.wait()?;
            }
            None => {
                sys::kill(self.pid("kube-api")?, libc::SIGKILL)?;
                // `stop` must not meet whoever gets this number next.
                fs::remove_file(self.folder.join("kube-api.pid"))?;
            }
        }
        let at = self.at(account);
        wait_until("a killed API server to be gone", BOUND, || TcpStream::connect(at).is_err())
    }

    /// Starts it (again), and waits until it answers.
    pub fn again(&mut self, account: Account) -> Result<()> {
        let Server { command, log, child, .. } = &mut self.servers[account as usize];
        let file = fs::File::options().create(true).append(true).open(log)?;
        let mut start = Command::new(&command[0]);
        start.args(&command[1..]).current_dir(&self.folder).env(PROCESS_MARK, &self.mark);
        start.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        *child = Some(start.spawn().context("start another API server")?);
        let api = self.api(account)?;
        let outcome = wait_until("an API server to be ready", BOUND, || {
            api.says("/readyz").is_ok_and(|(status, _)| status == 200)
        });
        outcome.with_context(|| read(&self.server(account).log))
    }

    /// Has etcd forget everything but what is; says up to where.
    pub fn compact(&self) -> Result<u64> {
        let ask = |path: &str, body: Value| -> Result<Value> {
            let body = body.to_string();
            let mut stream = TcpStream::connect(self.etcd)?;
            stream.set_read_timeout(Some(BOUND))?;
            write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
            ensure!(head.contains(" 200 "), "{path}: {answer}");
            serde_json::from_str(body).with_context(|| answer.clone())
        };
        let now = ask("/v3/kv/range", json!({ "key": "AA==", "limit": "1" }))?;
        let revision = now["header"]["revision"].as_str().context("a revision")?.to_owned();
        ask("/v3/kv/compaction", json!({ "revision": revision, "physical": true }))?;
        Ok(revision.parse()?)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for Server { child, .. } in &mut self.servers {
            if let Some(mut child) = child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let pids: Vec<u32> = ["kube-api", "etcd"].iter().filter_map(|name| self.pid(name).ok()).collect();
        let _ = Command::new(self.tools.join("stop")).arg(&self.folder).stdin(Stdio::null()).status();
        // They carry the lab's mark, and it is to leave nothing.
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mark = format!("{PROCESS_MARK}={}", self.mark);
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let ended =
            wait_until("API server and etcd to end", Duration::from_secs(3), || !pids.iter().any(marked));
        if ended.is_err() {
            pids.iter().filter(|pid| marked(pid)).for_each(|pid| drop(sys::kill(*pid, libc::SIGKILL)));
        }
        if std::thread::panicking() {
            self.servers
                .iter()
                .for_each(|server| eprintln!("---- {} ----\n{}", server.log.display(), read(&server.log)));
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Five ports in a row that nobody has: of three API servers, of etcd and of its peers. Not of those that clients are given,
/// or a client that tries again and again meets itself; and no two tests of this process look at the same ones, which are free
/// until the servers are up.
fn ports() -> Result<[u16; 5]> {
    static TESTS: AtomicU16 = AtomicU16::new(0);
    let test = TESTS.fetch_add(1, Ordering::Relaxed) % 3;
    let first = 20_000 + u16::try_from(std::process::id() % 390)? * 30 + test * 10;
    for base in (first..32_000).step_by(30) {
        let ports = [0, 1, 2, 3, 4].map(|n| base + n);
        if ports.iter().all(|port| TcpListener::bind(local(*port)).is_ok()) {
            return Ok(ports);
        }
    }
    bail!("no ports are free")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
