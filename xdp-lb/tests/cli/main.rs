//! The command line as a user meets it: the program itself, its exit codes, and which stream says what.

#![cfg(feature = "agent")]

mod pinned;

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// Three mistakes in three places, and a fourth that only shows when the others are read over.
const BAD: &str = "\
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
services:
  - name: web
    vip: 203.0.113.10
    protocol: tcp
    ports: 80
    table_size: 65536
    backends: [{ address: 10.0.0.1, weight: 5000 }]
  - name: sip
    vip: 203.0.113
    protocol: udp
    ports: 5060
    colour: blue
    backends: []
";
const MISTAKES: [&str; 4] =
    ["services[0].table_size", "services[0].backends[0].weight", "services[1].vip", "services[1].colour"];

/// Runs `xdp-lb` with a root that does not exist, so that a balancer of this machine is never asked.
fn xdp_lb(arguments: &[&str], input: &str) -> Output {
    xdp_lb_on("/nonexistent/xdp-lb", arguments, input)
}

/// Runs `xdp-lb` with this root.
fn xdp_lb_on(bpffs: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xdp-lb"))
        .args(arguments)
        .args(["--bpffs", bpffs])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn example(name: &str) -> String {
    format!("{EXAMPLES}/{name}.yaml")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {output:?}"))
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn every_example_passes_the_check() {
    for name in ["lab", "minimal", "rtc", "decap", "edge-and-backend", "bgp"] {
        let output = xdp_lb(&["check", &example(name)], "");
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        assert!(stdout(&output).contains("ok, "), "{name}: {}", stdout(&output));
        assert!(stdout(&output).contains("memory:"), "{name}: {}", stdout(&output));
    }
}

#[test]
fn a_bad_file_is_three_with_every_mistake_in_its_place() {
    let output = xdp_lb(&["check", "-"], BAD);
    assert_eq!(code(&output), 3, "{output:?}");
    assert_eq!(stdout(&output), "", "findings are no data");
    for path in MISTAKES {
        let line = stderr(&output).lines().find(|line| line.contains(path));
        let line = line.unwrap_or_else(|| panic!("no {path} in {}", stderr(&output)));
        let mut parts = line.splitn(4, ':');
        assert_eq!(parts.next(), Some("<stdin>"), "{line}");
        let number = |part: Option<&str>| part.and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
        assert!(number(parts.next()) > 1 && number(parts.next()) > 0, "{line}");
        assert!(parts.next().is_some_and(|rest| rest.starts_with(&format!(" {path}: "))), "{line}");
    }
    assert!(stderr(&output).ends_with("<stdin>: 4 errors\n"), "{}", stderr(&output));
}

#[test]
fn the_line_named_is_the_line_of_the_mistake() {
    let output = xdp_lb(&["check", "-", "-o", "json"], BAD);
    assert_eq!((code(&output), stderr(&output)), (3, ""));
    let report = json(&output);
    assert_eq!((&report["ok"], &report["costs"]), (&Value::Bool(false), &Value::Null));
    let errors = report["errors"].as_array().unwrap();
    let found: Vec<_> = errors
        .iter()
        .map(|e| (e["line"].as_u64().unwrap(), e["column"].as_u64().unwrap(), e["path"].as_str().unwrap()))
        .collect();
    assert_eq!(found.len(), 4, "{found:?}");
    for (line, column, path) in found {
        let (_, key) = path.rsplit_once('.').unwrap();
        let text = BAD.lines().nth(line as usize - 1).unwrap();
        assert!(text.contains(key), "{path}: line {line} is {text:?}");
        assert!((column as usize) <= text.chars().count(), "{path}: column {column} of {text:?}");
    }
}

#[test]
fn costs_are_data_in_both_forms() {
    let file = example("lab");
    let from_json = json(&xdp_lb(&["check", &file, "-o", "json"], ""));
    let yaml = xdp_lb(&["check", &file, "--output", "yaml"], "");
    let from_yaml: Value = serde_yaml::from_slice(&yaml.stdout).unwrap();
    assert_eq!(from_json, from_yaml);
    let costs = &from_json["costs"];
    assert_eq!(
        [&costs["services"], &costs["vips"], &costs["backends"], &costs["ring_slots"]].map(Value::as_u64),
        [3, 2, 9, 2 * 65_537].map(Some)
    );
    assert!(costs["memory_bytes"].as_u64() > Some(1 << 20), "{costs}");
}

#[test]
fn warnings_do_not_fail_the_check() {
    let text = std::fs::read_to_string(example("lab")).unwrap().replace("0x6c616220646f6e74", "0");
    let output = xdp_lb(&["check", "-"], &text);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stderr(&output).contains(": warning: maglev.seed: "), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("<stdin>: ok, 1 warning\n"), "{}", stdout(&output));
}

#[test]
fn a_bad_file_is_three_for_every_command_that_takes_one() {
    let file = std::env::temp_dir().join(format!("xdp-lb-cli-{}.yaml", std::process::id()));
    std::fs::write(&file, BAD).unwrap();
    let name = file.to_str().unwrap();
    let query = ["--proto", "udp", "--src", "198.51.100.7:4000", "--dst", "203.0.113.10:5060"];
    let explain = [&["explain", "--config", name][..], &query].concat();
    let commands: [&[&str]; 4] = [
        &["run", "--config", name],
        &["decap", "--config", name],
        &["load", "--config", name, "--pin", "/nonexistent/pin"],
        &explain,
    ];
    let outputs = commands.map(|arguments| (arguments, xdp_lb(arguments, "")));
    std::fs::remove_file(&file).unwrap();
    for (arguments, output) in outputs {
        assert_eq!((code(&output), stdout(&output)), (3, ""), "{arguments:?}: {output:?}");
        for path in MISTAKES {
            assert!(stderr(&output).contains(path), "{arguments:?}: no {path} in {}", stderr(&output));
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_with_its_cause() {
    let output = xdp_lb(&["check", "/nonexistent/file.yaml"], "");
    assert_eq!(code(&output), 1);
    let lines: Vec<&str> = stderr(&output).lines().collect();
    assert!(lines[0].starts_with("error: ") && lines[0].contains("/nonexistent/file.yaml"), "{lines:?}");
    assert!(lines[1].starts_with("  because: ") && lines.len() == 2, "{lines:?}");
}

#[test]
fn bgp_without_an_agent_is_said_so() {
    let output = xdp_lb(&["status", "bgp", "--bgp-file", "/nowhere/bgp.json"], "");
    assert_eq!((code(&output), stdout(&output)), (1, ""), "{output:?}");
    assert!(stderr(&output).contains("no agent that speaks BGP"), "{output:?}");
}

#[test]
fn bad_usage_is_two() {
    let udp = ["explain", "--proto", "udp", "--src", "198.51.100.7:1", "--dst"];
    let wrong: [&[&str]; 9] = [
        &[],
        &["balance"],
        &["check"],
        &["run"],
        &["run", "--config", "x", "--on-exit", "explode"],
        &["status", "weather"],
        &[&udp[..], &["203.0.113.10"]].concat(),
        &[&udp[..], &["[2001:db8::10]:5060"]].concat(),
        &[&udp[..], &["203.0.113.10:5060", "--syn"]].concat(),
    ];
    for arguments in wrong {
        let output = xdp_lb(arguments, "");
        assert_eq!((code(&output), stdout(&output)), (2, ""), "{arguments:?}: {output:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_names_every_command_and_none_of_later_work() {
    let output = xdp_lb(&["--help"], "");
    assert_eq!(code(&output), 0);
    let listed: Vec<&str> = stdout(&output)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let commands = [
        "run",
        "decap",
        "check",
        "plan",
        "load",
        "status",
        "explain",
        "flows",
        "drain",
        "undrain",
        "rollback",
        "doctor",
        "controller",
        "crds",
        "detach",
        "help",
    ];
    assert_eq!(listed, commands);
    for command in &listed[..listed.len() - 1] {
        let output = xdp_lb(&[command, "--help"], "");
        assert_eq!(code(&output), 0, "{command}");
        assert!(stdout(&output).contains("--bpffs"), "{command}");
    }
}

#[test]
fn packagers_get_completions_and_a_man_page() {
    for shell in ["bash", "zsh", "fish"] {
        let output = xdp_lb(&["completions", shell], "");
        assert_eq!(code(&output), 0, "{shell}");
        assert!(stdout(&output).contains("explain"), "{shell}");
    }
    let man = xdp_lb(&["man"], "");
    assert_eq!(code(&man), 0);
    assert!(stdout(&man).contains(".TH xdp-lb 1") && stdout(&man).contains("allow\\-moves"), "{man:?}");
}

fn explain_lab(proto: &str, src: &str, dst: &str, more: &[&str]) -> Value {
    let file = example("lab");
    let arguments =
        ["explain", "--config", &file, "--proto", proto, "--src", src, "--dst", dst, "-o", "json"];
    let output = xdp_lb(&[&arguments[..], more].concat(), "");
    assert_eq!((code(&output), stderr(&output)), (0, ""), "{output:?}");
    json(&output)
}

#[test]
fn explain_names_a_backend_and_every_run_the_same() {
    let ask = || explain_lab("udp", "198.51.100.7:40000", "203.0.113.10:5060", &[]);
    let answer = ask();
    assert_eq!(answer, ask());
    assert_eq!(answer["outcome"]["verdict"], "forward");
    assert_eq!(answer["service"]["name"], "echo-udp");
    let backend = answer["backend"].as_str().unwrap();
    assert!(["10.2.1.2", "10.2.2.2", "10.2.3.2"].contains(&backend), "{backend}");
    assert_eq!(answer["tunnel"]["destination"], *backend);
    assert!(answer["tunnel"]["source"].as_str().unwrap().starts_with("172.16."), "{answer}");
    assert_eq!(answer["choice"]["why"], "slot");
    assert_eq!(answer["slot"]["dirty"], false);
}

#[test]
fn explain_says_why_a_packet_goes_nowhere() {
    let no_vip = explain_lab("tcp", "198.51.100.7:40000", "192.0.2.1:80", &[]);
    assert_eq!(
        (&no_vip["outcome"]["verdict"], &no_vip["outcome"]["reason"]),
        (&"pass".into(), &"not_a_vip".into())
    );
    let no_service = explain_lab("udp", "198.51.100.7:40000", "203.0.113.10:80", &[]);
    assert_eq!(no_service["outcome"]["verdict"], "drop");
    assert_eq!(no_service["outcome"]["reason"], "no_service");
    assert!(no_service["outcome"]["sentence"].as_str().unwrap().len() > 10);
    assert_eq!((&no_service["backend"], &no_service["service"]), (&Value::Null, &Value::Null));
}

#[test]
fn explain_for_people_answers_in_its_first_lines() {
    let file = example("lab");
    let arguments = [
        "explain",
        "--config",
        &file,
        "--proto",
        "tcp",
        "--src",
        "198.51.100.7:40000",
        "--dst",
        "203.0.113.10:80",
    ];
    let output = xdp_lb(&arguments, "");
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert!(lines[0].ends_with("tcp from 198.51.100.7:40000 to 203.0.113.10:80, of an existing connection"));
    assert!(lines[1].starts_with("verdict:") && lines[1].contains("forward to 10.2."), "{lines:?}");
    assert!(stdout(&output).contains("not looked up"), "{lines:?}");
}

#[test]
fn without_a_balancer_status_and_explain_say_so() {
    let query = ["explain", "--proto", "udp", "--src", "198.51.100.7:4000", "--dst", "203.0.113.10:5060"];
    for arguments in [&["status"][..], &["status", "services", "-o", "json"], &query] {
        let output = xdp_lb(arguments, "");
        assert_eq!((code(&output), stdout(&output)), (1, ""), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains("/nonexistent/xdp-lb"), "{}", stderr(&output));
        assert!(stderr(&output).contains("--bpffs"), "{}", stderr(&output));
    }
}

/// A directory for the files of one test.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("xdp-lb-cli-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NODE: &str = "\
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { seed: 7 }
";
const WEB: &str = "\
version: 1
services:
  - { name: web, vip: 203.0.113.10, protocol: tcp, ports: 80, backends: [{ address: 10.0.0.1 }] }
";

#[test]
fn a_directory_is_one_configuration_of_several_files() {
    let sip = WEB.replace("web", "sip").replace("80", "5060");
    let directory = Directory::new(
        "good",
        &[
            ("10-node.yaml", NODE),
            ("20-web.yaml", WEB),
            ("30-sip.yml", &sip),
            (".40.yaml", "{"),
            ("50.yaml~", "{"),
        ],
    );
    let output = xdp_lb(&["check", directory.0.to_str().unwrap(), "-o", "json"], "");
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(json(&output)["costs"]["services"], 2);
    let empty = Directory::new("empty", &[("readme.txt", "")]);
    let output = xdp_lb(&["check", empty.0.to_str().unwrap()], "");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no file *.yaml"), "{output:?}");
}

#[test]
fn mistakes_in_a_directory_name_the_files() {
    let directory = Directory::new("bad", &[("10.yaml", NODE), ("20.yaml", WEB), ("30.yaml", WEB)]);
    let path = directory.0.to_str().unwrap();
    let output = xdp_lb(&["check", path], "");
    assert_eq!(code(&output), 3);
    let start = format!("{path}/30.yaml:3:");
    for what in ["is the name of another service too", "overlaps"] {
        let line = stderr(&output).lines().find(|line| line.contains(what)).unwrap();
        assert!(line.starts_with(&start) && line.contains(&format!("in {path}/20.yaml, line 3")), "{line}");
    }
    let report = json(&xdp_lb(&["check", path, "-o", "json"], ""));
    assert_eq!(report["errors"][0]["file"], format!("{path}/30.yaml"));
}
