//! From what is missing to the commands that bring it. Pure: a plan is data that can be printed, tested and run.

use super::detect::{Facts, LLVM_PREFIX, State};
use super::distro::Distro;
use super::requirements::{Item, REQUIREMENTS, Requirement};
use crate::command::Cmd;
use crate::toolchain::{LLVM, NIGHTLY};

/// One missing item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub item: Item,
    /// Name for people.
    pub name: &'static str,
    /// Why it is needed.
    pub why: &'static str,
    /// What was found instead.
    pub found: String,
    /// How it comes, the best way first; the next one is tried when one fails. Empty: by hand only.
    pub ways: Vec<Vec<Cmd>>,
    /// What to do when no way is left.
    pub by_hand: String,
}

/// What is missing, in the order of installation.
#[must_use]
pub fn plan(distro: Distro, facts: &Facts) -> Vec<Missing> {
    let missing = facts.items.iter().filter_map(|(item, state)| match state {
        State::Present(_) => None,
        State::Missing(found) => Some((item, found)),
    });
    missing
        .filter_map(|(item, found)| Some((REQUIREMENTS.iter().find(|row| row.item == *item)?, found)))
        .map(|(row, found)| Missing {
            item: row.item,
            name: row.name,
            why: row.why,
            found: found.clone(),
            ways: ways(row, distro, facts),
            by_hand: by_hand(row.item),
        })
        .collect()
}

/// `apt-get install`, with `{kernel}` filled in.
#[must_use]
pub fn apt_install<'a>(packages: impl IntoIterator<Item = &'a str>, kernel: &str) -> Cmd {
    let fixed = ["apt-get", "install", "-y", "--no-install-recommends"].map(str::to_owned);
    let packages = packages.into_iter().map(|name| name.replace("{kernel}", kernel));
    Cmd::root(fixed.into_iter().chain(packages)).with_env("DEBIAN_FRONTEND", "noninteractive")
}

/// `apt-get update`.
#[must_use]
pub fn apt_update() -> Cmd {
    Cmd::root(["apt-get", "update"])
}

fn ways(row: &Requirement, distro: Distro, facts: &Facts) -> Vec<Vec<Cmd>> {
    let packages = row.packages.on(distro);
    let install = || apt_install(packages.iter().copied(), &facts.kernel);
    match row.item {
        Item::Bpffs => vec![vec![Cmd::root(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])]],
        Item::BpfRust => bpf_rust(distro, facts, install),
        Item::BpfLinker => bpf_linker(distro, facts, install),
        _ if packages.is_empty() => Vec::new(),
        Item::Nginx => vec![vec![install(), stop("nginx", facts.systemd)]],
        Item::Frr => vec![vec![install(), stop("frr", facts.systemd)]],
        Item::Bird => vec![vec![install(), stop("bird", facts.systemd)]],
        Item::Cc
        | Item::Curl
        | Item::Iproute2
        | Item::Bpftool
        | Item::Nftables
        | Item::Promtool
        | Item::Qemu
        | Item::Xz
        | Item::DebianKeys => {
            vec![vec![install()]]
        }
    }
}

/// The package starts a server or a router on this host; the lab starts its own, in namespaces of its own.
fn stop(service: &str, systemd: bool) -> Cmd {
    if systemd {
        Cmd::root(["systemctl", "disable", "--now", service]).tolerated()
    } else {
        Cmd::root(["service", service, "stop"]).tolerated()
    }
}

fn bpf_rust(distro: Distro, facts: &Facts, install: impl Fn() -> Cmd) -> Vec<Vec<Cmd>> {
    let mut ways = Vec::new();
    if let (true, Some(name)) = (facts.rustup, &facts.teachable) {
        // A few megabytes, against some hundred for each of the others.
        ways.push(vec![Cmd::user(["rustup", "component", "add", "rust-src", "--toolchain", name])]);
    }
    if distro.has_llvm_and_rustc() {
        ways.push(vec![install()]);
    }
    if facts.rustup {
        ways.push(vec![Cmd::user([
            "rustup",
            "toolchain",
            "install",
            NIGHTLY,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])]);
    }
    ways
}

fn bpf_linker(distro: Distro, facts: &Facts, install: impl Fn() -> Cmd) -> Vec<Vec<Cmd>> {
    if distro == Distro::Other && !facts.llvm {
        return Vec::new();
    }
    let feature = format!("llvm-{LLVM}");
    let build = Cmd::user([
        "cargo",
        "install",
        "bpf-linker",
        "--locked",
        "--force",
        "--version",
        "^0.13",
        "--no-default-features",
        "--features",
        &feature,
    ])
    .with_env("LLVM_PREFIX", LLVM_PREFIX);
    let mut way = Vec::new();
    if !facts.llvm && !distro.has_llvm_and_rustc() {
        way.extend(apt_llvm_org(distro));
    }
    if distro != Distro::Other {
        way.push(install());
    }
    way.push(build);
    vec![way]
}

/// Ubuntu's archive stops at LLVM 20; the LLVM project's own has the same packages under the same names.
fn apt_llvm_org(distro: Distro) -> [Cmd; 4] {
    const KEY: &str = "/etc/apt/keyrings/apt.llvm.org.asc";
    let suite = distro.codename();
    let source =
        format!("deb [signed-by={KEY}] https://apt.llvm.org/{suite}/ llvm-toolchain-{suite}-{LLVM} main");
    let write = format!("echo '{source}' > /etc/apt/sources.list.d/llvm-{LLVM}.list");
    [
        Cmd::root(["install", "-d", "-m", "0755", "/etc/apt/keyrings"]),
        Cmd::root(["curl", "-fsSL", "-o", KEY, "https://apt.llvm.org/llvm-snapshot.gpg.key"]),
        Cmd::root(["sh", "-c", &write]),
        apt_update(),
    ]
}

fn by_hand(item: Item) -> String {
    match item {
        Item::BpfRust => format!(
            "install rustup (https://rustup.rs) and run: rustup toolchain install {NIGHTLY} --profile minimal \
             --component rust-src"
        ),
        Item::BpfLinker => format!(
            "install LLVM {LLVM} with its headers and run: LLVM_PREFIX=<where it is> cargo install bpf-linker --locked \
             --version '^0.13' --no-default-features --features llvm-{LLVM}; or put the project's release binary of \
             bpf-linker 0.13 on the path"
        ),
        Item::Bpffs => "as root: mount -t bpf bpf /sys/fs/bpf".to_owned(),
        Item::Cc
        | Item::Curl
        | Item::Iproute2
        | Item::Bpftool
        | Item::Nginx
        | Item::Nftables
        | Item::Promtool
        | Item::Frr
        | Item::Bird
        | Item::Qemu
        | Item::Xz
        | Item::DebianKeys => "install it with this system's package manager".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(distro: Distro, facts: &Facts, item: Item) -> Vec<Vec<String>> {
        let row = plan(distro, facts).into_iter().find(|missing| missing.item == item).unwrap();
        row.ways.iter().map(|way| way.iter().map(|cmd| cmd.line(true)).collect()).collect()
    }

    #[test]
    fn nothing_missing_is_an_empty_plan() {
        let mut facts = Facts::fresh();
        for (_, state) in &mut facts.items {
            *state = State::Present("here".to_owned());
        }
        for distro in Distro::KNOWN {
            assert!(plan(distro, &facts).is_empty());
        }
    }

    #[test]
    fn a_fresh_known_machine_needs_no_hand() {
        for distro in Distro::KNOWN {
            for missing in plan(distro, &Facts::fresh()) {
                assert!(!missing.ways.is_empty(), "{} on {distro}", missing.name);
                assert!(missing.ways.iter().all(|way| !way.is_empty()));
            }
        }
    }

    #[test]
    fn elsewhere_packages_are_left_to_people() {
        let facts = Facts { rustup: false, teachable: None, ..Facts::fresh() };
        for missing in plan(Distro::Other, &facts) {
            assert_eq!(missing.ways.is_empty(), missing.item != Item::Bpffs, "{}", missing.name);
            assert!(!missing.by_hand.is_empty());
        }
    }

    #[test]
    fn debian_brings_llvm_itself() {
        let ways = lines(Distro::Debian13, &Facts::fresh(), Item::BpfLinker);
        assert_eq!(ways.len(), 1);
        assert!(
            ways[0][0].contains("apt-get install") && ways[0][0].contains(" llvm-22-dev libpolly-22-dev ")
        );
        assert_eq!(
            ways[0][1],
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --locked --force --version '^0.13' \
             --no-default-features --features llvm-22"
        );
    }

    #[test]
    fn ubuntu_takes_llvm_from_its_project() {
        let ways = lines(Distro::Ubuntu2204, &Facts::fresh(), Item::BpfLinker);
        assert!(ways[0].iter().any(|line| line.contains("apt.llvm.org/jammy/ llvm-toolchain-jammy-22 main")));
        assert!(ways[0][4].contains("apt-get install"));
        let with_llvm = Facts { llvm: true, ..Facts::fresh() };
        assert!(
            !lines(Distro::Ubuntu2204, &with_llvm, Item::BpfLinker)[0]
                .iter()
                .any(|l| l.contains("apt.llvm.org"))
        );
    }

    #[test]
    fn the_toolchain_comes_the_cheapest_way() {
        let ways = |distro, rustup, teachable: Option<&str>| -> Vec<String> {
            let facts = Facts { rustup, teachable: teachable.map(str::to_owned), ..Facts::fresh() };
            lines(distro, &facts, Item::BpfRust).into_iter().map(|way| way[0].clone()).collect()
        };
        let taught = ways(Distro::Debian12, true, Some("nightly"));
        assert_eq!(taught[0], "rustup component add rust-src --toolchain nightly");
        assert!(taught[1].contains("rustc-web cargo-web rust-web-src"));
        assert!(taught[2].contains(NIGHTLY));
        assert!(ways(Distro::Debian13, false, None)[0].contains("rustc-web"));
        assert!(ways(Distro::Ubuntu2404, true, None)[0].contains(NIGHTLY));
        assert!(ways(Distro::Ubuntu2404, false, None).is_empty());
    }

    #[test]
    fn ubuntus_bpftool_is_the_kernels() {
        let facts = Facts { kernel: "6.8.0-9-aws".to_owned(), ..Facts::fresh() };
        assert!(
            lines(Distro::Ubuntu2404, &facts, Item::Bpftool)[0][0]
                .ends_with("linux-tools-common linux-tools-6.8.0-9-aws")
        );
    }
}
