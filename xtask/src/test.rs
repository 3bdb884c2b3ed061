//! `cargo xtask test [unit|prog|lab]`: builds, then runs the tests, each part with the rights and threads it needs.
//!
//! | part | what | root | threads |
//! |---|---|---|---|
//! | `unit` | tests of `xdp-lb-common`, `xdp-lb` and `xtask`, documentation too | no | cargo's choice |
//! | (no name) | what is left of the integration tests: `xdp-lb/tests/*`, `tests/tests/*` | some | cargo's choice |
//! | `prog` | `tests/tests/prog_*`: BPF_PROG_TEST_RUN | yes | 2 |
//! | `lab` | `tests/tests/lab_*`: network namespaces | yes | 1, two of them beside each other |
//! | `kube` | `tests/tests/deploy`, and tests of `unit` that want an API server, which `XDP_LB_TEST_KUBECONFIG` names; they say so where there is none | no | cargo's choice |
//!
//! `lab_kube_api` starts API servers of its own, with the means in the folder that `XDP_LB_KUBE_API` names (`start DIR`, `stop DIR`), and says so
//! where there are none; `XDP_LB_TEST_OUTAGE` is how many seconds they are away in it.
//!
//! `vm` is [`crate::vm`]. Without a part: all of the table, and what else the workspace has. cargo's own summary lines come last.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::build::{self, cargo_command};
use crate::command::{is_root, which};
use crate::lanes;
use crate::workspace;

/// Names the API server of the tests that want one.
const KUBECONFIG: &str = "XDP_LB_TEST_KUBECONFIG";
/// What these tests have in their names.
const LIVE: &str = "::tests::live::";
/// Manifests and chart, which an API server judges.
const MANIFESTS: &str = "deploy";

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Pure tests, no root.
    Unit,
    /// Packets through BPF_PROG_TEST_RUN.
    Prog,
    /// Network namespaces.
    Lab,
    /// A Kubernetes API server, by the kubeconfig that XDP_LB_TEST_KUBECONFIG names.
    Kube,
    /// Other kernels in QEMU: `cargo xtask vm-test`; never part of the others.
    Vm,
    /// Set-up in fresh Debian 12 and 13 chroots; takes many minutes, never part of the others.
    Chroot,
}

/// One call of `cargo test`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    /// Arguments of cargo, `test` first.
    cargo: Vec<String>,
    /// Arguments of the test binaries.
    binary: Vec<String>,
    /// Whether the test binaries want root.
    root: bool,
    /// Targets that are to run beside each other: a call of its own for each, once all are built. None: as it is.
    apart: Vec<String>,
}

/// Labs beside each other: they wait more than they work, and each has namespaces of its own.
const LANES: usize = 2;
/// Begin first, or they would end alone.
const LONG: [&str; 3] = ["lab_bgp", "lab_calm", "lab_peers"];

/// Runs one part or everything. `extra` goes to cargo test, and after a `--` to the test binaries.
///
/// # Errors
/// A test fails, or there is none in the part asked for.
pub fn run(part: Option<Part>, extra: &[String]) -> Result<()> {
    let root = workspace::root();
    let targets = workspace::test_targets(&root, "tests")?;
    let agent = workspace::test_targets(&root, "xdp-lb")?;
    let calls = calls(part, &targets, &agent, extra);
    if calls.is_empty() {
        bail!("there are no tests of this part in tests/tests");
    }
    if part == Some(Part::Kube) && std::env::var_os(KUBECONFIG).is_none() {
        bail!("{KUBECONFIG} must name an administrator's kubeconfig of an API server that may be written to");
    }
    if part != Some(Part::Unit) {
        // Tests start binaries of other packages, which cargo test alone does not build.
        build::run(false)?;
    }
    // All parts run, so that one report shows everything.
    let failed = calls.iter().filter(|call| succeed(call, &root).is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} parts failed, see above", calls.len());
    }
    Ok(())
}

/// Runs a call, or all that it stands for.
fn succeed(call: &Call, root: &Path) -> Result<()> {
    if call.apart.is_empty() {
        return build::succeed(&mut command(call));
    }
    let mut built = call.clone();
    built.cargo.push("--no-run".to_owned());
    build::succeed(&mut command(&built))?;
    let one = |target: &String| (target.clone(), command(&alone(call, target)));
    let folder = root.join("target/lab");
    println!("{} labs, {LANES} at a time; what each says is in {}", call.apart.len(), folder.display());
    let failed = lanes::run(call.apart.iter().map(one).collect(), LANES, &folder)?;
    ensure!(failed == 0, "{failed} of {} failed", call.apart.len());
    Ok(())
}

/// The call for one of its targets.
fn alone(call: &Call, target: &str) -> Call {
    let mut cargo = Vec::new();
    let mut words = call.cargo.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--test" => _ = words.next(),
            _ => cargo.push(word.clone()),
        }
    }
    cargo.splice(2..2, ["--test".to_owned(), target.to_owned()]);
    Call { cargo, apart: Vec::new(), ..call.clone() }
}

fn calls(
    part: Option<Part>,
    targets: &BTreeSet<String>,
    agent: &BTreeSet<String>,
    extra: &[String],
) -> Vec<Call> {
    let split = extra.iter().position(|a| a == "--").unwrap_or(extra.len());
    let (for_cargo, for_binary) = (&extra[..split], extra.get(split + 1..).unwrap_or_default());
    let call = |selection: Vec<String>, threads: Option<usize>, root| {
        let mut cargo = vec!["test".to_owned(), "--locked".to_owned(), "--no-fail-fast".to_owned()];
        cargo.extend(selection);
        cargo.extend_from_slice(for_cargo);
        let own = for_binary.iter().any(|a| a.starts_with("--test-threads"));
        let threads = threads.filter(|_| !own).map(|n| format!("--test-threads={n}"));
        let binary = threads.into_iter().chain(for_binary.iter().cloned()).collect();
        Call { cargo, binary, root, apart: Vec::new() }
    };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let flags = |name: &String| ["--test".to_owned(), name.clone()];
    let named = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        targets.iter().filter(|name| wanted(name)).flat_map(flags).collect()
    };
    let (prog, lab) = (named(&|name| name.starts_with("prog_")), named(&|name| name.starts_with("lab_")));
    let others = named(&|name| !name.starts_with("prog_") && !name.starts_with("lab_"));
    let others: Vec<String> = agent.iter().flat_map(flags).chain(others).collect();
    let prog = (!prog.is_empty()).then(|| call(prog, Some(2), true));
    let lab = (!lab.is_empty()).then(|| Call { apart: labs(targets), ..call(lab, Some(1), true) });
    match part {
        Some(Part::Unit) => {
            vec![call(words(&["-p", "xdp-lb-common", "-p", "xdp-lb", "-p", "xtask"]), None, false)]
        }
        Some(Part::Prog) => prog.into_iter().collect(),
        Some(Part::Lab) => lab.into_iter().collect(),
        Some(Part::Kube) => vec![
            call(words(&["-p", "xdp-lb", "--lib", LIVE]), None, false),
            call(words(&["-p", "xdp-lb-tests", "--test", MANIFESTS]), None, false),
        ],
        Some(Part::Vm | Part::Chroot) => Vec::new(),
        None => {
            // The default members together, as in `cargo build`: another selection would unify features
            // differently and compile everything twice.
            let mut calls = vec![call(words(&["--lib", "--bins"]), None, false)];
            calls.push(call(words(&["--doc"]), None, false));
            let others = (!others.is_empty()).then(|| call(others, None, true));
            calls.extend(others.into_iter().chain(prog).chain(lab));
            calls
        }
    }
}

/// The labs, the long ones first.
fn labs(targets: &BTreeSet<String>) -> Vec<String> {
    let mut labs: Vec<String> = targets.iter().filter(|name| name.starts_with("lab_")).cloned().collect();
    labs.sort_by_key(|name| LONG.iter().position(|long| long == name).unwrap_or(LONG.len()));
    labs
}

fn command(call: &Call) -> Command {
    let arguments =
        call.cargo.iter().map(String::as_str).chain(["--"]).chain(call.binary.iter().map(String::as_str));
    let mut command = cargo_command(arguments);
    if call.root && !is_root() {
        // cargo builds as the user, the binaries run as root: no file of root's in target/.
        let triple = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
        command.env(format!("CARGO_TARGET_{triple}_RUNNER"), "sudo -E");
        if which("sudo").is_none() {
            println!("these tests want root, and there is no sudo: run `cargo xtask test` as root");
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> BTreeSet<String> {
        ["bench_rows", "lab_survival", "prog_golden", "prog_parity"].map(str::to_owned).into()
    }

    fn agent() -> BTreeSet<String> {
        ["maglev", "plan"].map(str::to_owned).into()
    }

    fn shown(part: Option<Part>, extra: &[&str]) -> Vec<String> {
        let extra: Vec<String> = extra.iter().map(|a| (*a).to_owned()).collect();
        let line = |call: Call| format!("{} -- {}", call.cargo[2..].join(" "), call.binary.join(" "));
        calls(part, &targets(), &agent(), &extra).into_iter().map(line).collect()
    }

    #[test]
    fn everything_is_every_target_once() {
        assert_eq!(
            shown(None, &[]),
            [
                "--no-fail-fast --lib --bins -- ",
                "--no-fail-fast --doc -- ",
                "--no-fail-fast --test maglev --test plan --test bench_rows -- ",
                "--no-fail-fast --test prog_golden --test prog_parity -- --test-threads=2",
                "--no-fail-fast --test lab_survival -- --test-threads=1",
            ]
        );
    }

    #[test]
    fn extra_arguments_reach_cargo_and_the_binaries() {
        assert_eq!(
            shown(Some(Part::Prog), &["echo", "--", "--nocapture"]),
            ["--no-fail-fast --test prog_golden --test prog_parity echo -- --test-threads=2 --nocapture"]
        );
        assert_eq!(
            shown(Some(Part::Lab), &["--", "--test-threads=4"]),
            ["--no-fail-fast --test lab_survival -- --test-threads=4"]
        );
    }

    #[test]
    fn labs_run_one_by_one_the_long_ones_first() {
        let targets: BTreeSet<String> = ["lab_a", "lab_bgp", "lab_calm", "prog_x"].map(str::to_owned).into();
        let extra = ["drain".to_owned(), "--".to_owned(), "--nocapture".to_owned()];
        let lab = calls(Some(Part::Lab), &targets, &agent(), &extra).remove(0);
        assert_eq!(lab.apart, ["lab_bgp", "lab_calm", "lab_a"]);
        let one = alone(&lab, "lab_a");
        assert_eq!(one.cargo.join(" "), "test --locked --test lab_a --no-fail-fast drain");
        assert_eq!(one.binary, ["--test-threads=1", "--nocapture"]);
        assert!(one.root && one.apart.is_empty());
    }

    #[test]
    fn unit_tests_want_no_root() {
        let none = BTreeSet::new();
        let root: Vec<bool> = calls(None, &targets(), &agent(), &[]).iter().map(|call| call.root).collect();
        assert_eq!(root, [false, false, true, true, true]);
        assert!(calls(Some(Part::Lab), &none, &none, &[]).is_empty());
        assert!(
            calls(None, &targets(), &agent(), &[]).iter().all(|call| call.cargo[..2] == ["test", "--locked"])
        );
    }
}
