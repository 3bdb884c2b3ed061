//! What xdp-lb needs from a machine, as data: what, why, and which packages bring it.
//!
//! [`super::detect`] finds out what is there, [`mod@super::plan`] turns the rest into commands.

use super::distro::Distro;
use crate::vm::EMULATOR;

/// One thing that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A linker for host programs.
    Cc,
    /// Downloads, and the client of the lab.
    Curl,
    /// A toolchain that can build for BPF.
    BpfRust,
    /// The linker of BPF objects.
    BpfLinker,
    /// `ip`.
    Iproute2,
    /// `bpftool`.
    Bpftool,
    /// The lab's web server.
    Nginx,
    /// The lab's service proxy.
    Nftables,
    /// Checks the text of the metrics.
    Promtool,
    /// The lab's router.
    Frr,
    /// Another router for the tests.
    Bird,
    /// `/sys/fs/bpf`.
    Bpffs,
    /// The emulator of other machines.
    Qemu,
    /// Unpacks kernel modules.
    Xz,
    /// The keys of Debian's archive.
    DebianKeys,
}

/// What it is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Building is enough reason.
    Build,
    /// Only running and testing want it.
    Run,
    /// Only tests on other kernels want it.
    Vm,
}

impl Need {
    /// Whether a row that is there for `other` must be met for this: what runs must have been built, but a virtual
    /// machine needs nothing of the lab.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other == self || other == Self::Build
    }
}

/// Where Debian's packages of keys put the archive's.
pub const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A row of the table.
pub struct Requirement {
    /// What.
    pub item: Item,
    /// Name for people.
    pub name: &'static str,
    /// Why.
    pub why: &'static str,
    /// What for.
    pub need: Need,
    /// Program that proves its presence, and the argument that makes it answer; empty where more is to be looked at.
    pub probe: (&'static str, &'static str),
    /// Package names.
    pub packages: Packages,
}

/// Package names by distribution. `{kernel}` stands for the running kernel's release.
pub struct Packages {
    /// Debian 12 and 13.
    pub debian: &'static [&'static str],
    /// Ubuntu 22.04 and 24.04.
    pub ubuntu: &'static [&'static str],
}

impl Packages {
    /// The names on one distribution; none where they are not known.
    #[must_use]
    pub fn on(&self, distro: Distro) -> &'static [&'static str] {
        match distro {
            Distro::Debian12 | Distro::Debian13 => self.debian,
            Distro::Ubuntu2204 | Distro::Ubuntu2404 => self.ubuntu,
            Distro::Other => &[],
        }
    }
}

const fn everywhere(names: &'static [&'static str]) -> Packages {
    Packages { debian: names, ubuntu: names }
}

/// The table, in the order of installation: curl fetches keys for what follows.
pub const REQUIREMENTS: [Requirement; 15] = [
    Requirement {
        item: Item::Cc,
        name: "cc",
        why: "links host programs and build scripts, compiles the C of ring (TLS)",
        need: Need::Build,
        probe: ("cc", "--version"),
        // xtask itself is linked by cc: xtask/linker.sh brings these two when the very first build finds none.
        packages: everywhere(&["gcc", "libc6-dev"]),
    },
    Requirement {
        item: Item::Curl,
        name: "curl",
        why: "downloads keys of package archives; the client of the lab's tests",
        need: Need::Build,
        probe: ("curl", "--version"),
        packages: everywhere(&["curl", "ca-certificates"]),
    },
    Requirement {
        item: Item::BpfRust,
        name: "a Rust toolchain for BPF",
        why: "builds core for bpfel-unknown-none from its sources",
        need: Need::Build,
        probe: ("", ""),
        packages: Packages { debian: &["rustc-web", "cargo-web", "rust-web-src"], ubuntu: &[] },
    },
    Requirement {
        item: Item::BpfLinker,
        name: "bpf-linker 0.13",
        why: "links the XDP programs; its LLVM must read rustc's bitcode",
        need: Need::Build,
        probe: ("", ""),
        // What bpf-linker is built with. Ubuntu takes LLVM 22 from apt.llvm.org, under the same names.
        packages: everywhere(&[
            "llvm-22-dev",
            "libpolly-22-dev",
            "libzstd-dev",
            "zlib1g-dev",
            "libxml2-dev",
            "g++",
        ]),
    },
    Requirement {
        item: Item::Iproute2,
        name: "iproute2",
        why: "ip: looking around in the lab's network namespaces",
        need: Need::Run,
        probe: ("ip", "-V"),
        packages: everywhere(&["iproute2"]),
    },
    Requirement {
        item: Item::Bpftool,
        name: "bpftool",
        why: "tests read pinned maps with it, as users will",
        need: Need::Run,
        probe: ("bpftool", "version"),
        // Ubuntu's bpftool is a wrapper around the tools of the running kernel.
        packages: Packages { debian: &["bpftool"], ubuntu: &["linux-tools-common", "linux-tools-{kernel}"] },
    },
    Requirement {
        item: Item::Nginx,
        name: "nginx",
        why: "an ordinary server behind the balancer in the lab's tests",
        need: Need::Run,
        probe: ("nginx", "-v"),
        packages: everywhere(&["nginx-light"]),
    },
    Requirement {
        item: Item::Nftables,
        name: "nft",
        why: "imitates kube-proxy's rules in the lab's tests of health checks",
        need: Need::Run,
        probe: ("nft", "--version"),
        packages: everywhere(&["nftables"]),
    },
    Requirement {
        item: Item::Promtool,
        name: "promtool",
        why: "checks what the metrics endpoint serves",
        need: Need::Run,
        probe: ("promtool", "--version"),
        packages: everywhere(&["prometheus"]),
    },
    Requirement {
        item: Item::Frr,
        name: "FRR",
        why: "a router that the lab's BGP tests and `run --bgp` announce to",
        need: Need::Run,
        probe: ("vtysh", "--help"),
        packages: everywhere(&["frr"]),
    },
    Requirement {
        item: Item::Bird,
        name: "BIRD 2",
        why: "another router, for the lab's BGP tests",
        need: Need::Run,
        probe: ("bird", "--version"),
        packages: everywhere(&["bird2"]),
    },
    Requirement {
        item: Item::Bpffs,
        name: "/sys/fs/bpf",
        why: "the BPF file system, where programs and maps are pinned",
        need: Need::Run,
        probe: ("", ""),
        packages: everywhere(&[]),
    },
    Requirement {
        item: Item::Qemu,
        name: "qemu",
        why: "the machines in which other kernels run",
        need: Need::Vm,
        probe: (EMULATOR, "--version"),
        packages: everywhere(&["qemu-system-x86"]),
    },
    Requirement {
        item: Item::Xz,
        name: "xz",
        why: "newer kernels' modules are compressed by it",
        need: Need::Vm,
        probe: ("xz", "--version"),
        packages: everywhere(&["xz-utils"]),
    },
    Requirement {
        item: Item::DebianKeys,
        name: "keys of Debian's archive",
        why: "kernels come from there, on every distribution",
        need: Need::Vm,
        probe: ("", ""),
        packages: everywhere(&["debian-archive-keyring"]),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_item_and_say_why() {
        assert!(REQUIREMENTS.windows(2).all(|w| w[0].item < w[1].item));
        assert!(REQUIREMENTS.iter().all(|r| !r.why.is_empty() && !r.name.is_empty()));
    }

    #[test]
    fn running_needs_no_emulator_and_an_emulator_no_lab() {
        let needed = |need: Need| -> Vec<Item> {
            REQUIREMENTS.iter().filter(|row| need.covers(row.need)).map(|row| row.item).collect()
        };
        assert!(needed(Need::Run).contains(&Item::Nginx) && !needed(Need::Run).contains(&Item::Qemu));
        assert!(needed(Need::Vm).contains(&Item::Qemu) && !needed(Need::Vm).contains(&Item::Nginx));
        for need in [Need::Build, Need::Run, Need::Vm] {
            assert!(needed(need).contains(&Item::BpfLinker));
        }
    }

    #[test]
    fn every_tool_has_packages_everywhere() {
        for row in REQUIREMENTS.iter().filter(|row| !row.probe.0.is_empty()) {
            for distro in Distro::KNOWN {
                assert!(!row.packages.on(distro).is_empty(), "{} on {distro}", row.name);
            }
            assert!(row.packages.on(Distro::Other).is_empty());
        }
    }

    #[test]
    fn package_names_look_like_package_names() {
        for name in REQUIREMENTS.iter().flat_map(|r| r.packages.debian.iter().chain(r.packages.ubuntu)) {
            let bare = name.replace("{kernel}", "6.8.0-1-generic");
            assert!(
                bare.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c)),
                "{name}"
            );
        }
    }

    #[test]
    fn debian_and_ubuntu_differ_where_they_must() {
        let packages =
            |item, distro| REQUIREMENTS.iter().find(|r| r.item == item).unwrap().packages.on(distro);
        assert_eq!(packages(Item::Bpftool, Distro::Debian13), ["bpftool"]);
        assert_eq!(
            packages(Item::Bpftool, Distro::Ubuntu2204),
            ["linux-tools-common", "linux-tools-{kernel}"]
        );
        assert!(
            packages(Item::BpfRust, Distro::Ubuntu2404).is_empty(),
            "Ubuntu's newest rustc with LLVM 22 is none"
        );
    }
}
