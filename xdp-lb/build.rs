//! Builds the kernel half for the `bpfel` target and leaves the object in `OUT_DIR`.
//!
//! It needs rustc's own library sources. A rustup nightly with `rust-src` is preferred; Debian's
//! `rustc-web cargo-web rust-web-src` with `RUSTC_BOOTSTRAP=1` does as well. The inner cargo must not see
//! what the outer one handed down, or it would build for the wrong compiler.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const OBJECTS: [&str; 2] = ["xdp-lb-bpf", "xdp-lb-bench"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=PATH");
    if env::var_os("CARGO_FEATURE_AGENT").is_none() {
        return Ok(());
    }
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for input in ["xdp-lb-ebpf/src", "xdp-lb-ebpf/Cargo.toml", "xdp-lb-common/src", "xdp-lb-common/Cargo.toml", "Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let toolchain = Toolchain::find().ok_or(
        "no Rust toolchain with library sources for the BPF target: `cargo xtask setup` brings one \
         (rustup component add rust-src --toolchain nightly, or Debian's rustc-web cargo-web rust-web-src)",
    )?;
    // Beside the profiles: OUT_DIR changes with features and profile, the kernel half does not.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    let status = toolchain.build(&root, &target_dir, &env::var("CARGO_CFG_TARGET_ARCH")?).status()?;
    if !status.success() {
        return Err(format!("building the kernel half failed ({status}); is bpf-linker installed? `cargo xtask setup`").into());
    }
    for object in OBJECTS {
        fs::copy(target_dir.join("bpfel-unknown-none/release").join(object), out.join(object))?;
    }
    Ok(())
}

/// A compiler that can build `core` for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    fn find() -> Option<Self> {
        Self::rustup().or_else(|| Self::at(Path::new("/usr/bin")))
    }

    /// rustup's nightly.
    fn rustup() -> Option<Self> {
        let which = |tool| {
            let out = Command::new("rustup").args(["which", "--toolchain", "nightly", tool]).output().ok()?;
            out.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
        };
        Self { cargo: which("cargo")?, rustc: which("rustc")? }.complete()
    }

    /// A distribution's.
    fn at(bin: &Path) -> Option<Self> {
        Self { cargo: bin.join("cargo"), rustc: bin.join("rustc") }.complete()
    }

    /// Itself, when the library sources are there and it is new enough for edition 2024.
    fn complete(self) -> Option<Self> {
        let out = Command::new(&self.rustc).env_remove("RUSTC_WRAPPER").args(["--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        let version = Command::new(&self.rustc).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
        let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        (minor >= 90 && sources.exists() && self.cargo.exists()).then_some(self)
    }

    fn build(&self, root: &Path, target_dir: &Path, arch: &str) -> Command {
        let flags = [
            "-Cdebuginfo=2",
            "-Ctarget-cpu=v3",
            "-Clink-arg=--btf",
            // Packed headers are read in words, not bytes: all supported machines allow it.
            "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
            // In order means byte by byte, for the sake of C compilers' patterns: copies are done in words.
            "-Clink-arg=--disable-expand-memcpy-in-order",
            &format!("--cfg=bpf_target_arch=\"{arch}\""),
        ]
        .join("\x1f");
        let mut cargo = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let inherited = ["CARGO", "RUSTC", "RUSTUP", "RUSTFLAGS", "RUSTDOC"].iter().any(|p| text.starts_with(p));
            if inherited && !["CARGO_HOME", "RUSTUP_HOME"].contains(&&*text) {
                cargo.env_remove(name);
            }
        }
        cargo
            .current_dir(root)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .args(["build", "--locked", "--quiet", "--package", "xdp-lb-ebpf", "--bins", "--release"])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
            .arg(target_dir);
        cargo
    }
}
