//! Builds the kernel half for the `bpfel` target and leaves the objects in `OUT_DIR`.
//!
//! `xtask/src/toolchain.rs` decides which compiler does it: what set-up promised is what the build takes.

#[path = "../xtask/src/toolchain.rs"]
#[expect(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use toolchain::{LLVM, OVERRIDE, Toolchain};

const INPUTS: [&str; 7] = [
    "xdp-lb-ebpf/src",
    "xdp-lb-ebpf/Cargo.toml",
    "xdp-lb-common/src",
    "xdp-lb-common/Cargo.toml",
    "xtask/src/toolchain.rs",
    "Cargo.toml",
    "Cargo.lock",
];
const OBJECTS: [&str; 3] = ["xdp-lb-bpf", "xdp-lb-bench", "xdp-lb-probe"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    if env::var_os("CARGO_FEATURE_AGENT").is_none() {
        println!("cargo:rerun-if-changed=build.rs");
        return Ok(());
    }
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for input in INPUTS {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Beside the profiles: OUT_DIR changes with features and profile, the kernel half does not.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    let toolchain = toolchain::find(Some(LLVM)).map_err(
        |_| "no Rust toolchain with library sources for the BPF target: `cargo xtask setup` brings one",
    )?;
    let status = build(&toolchain, &root, &target_dir, &env::var("CARGO_CFG_TARGET_ARCH")?).status()?;
    if !status.success() {
        let hint = "is bpf-linker installed? `cargo xtask setup`";
        return Err(format!("building the kernel half failed ({status}); {hint}").into());
    }
    for object in OBJECTS {
        fs::copy(target_dir.join("bpfel-unknown-none/release").join(object), out.join(object))?;
    }
    Ok(())
}

fn build(toolchain: &Toolchain, root: &Path, target_dir: &Path, arch: &str) -> Command {
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
    let mut cargo = toolchain.command("cargo");
    cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // Cut into small units the same source is another program, which the verifier has never seen.
        .env("CARGO_INCREMENTAL", "0")
        .args(["build", "--locked", "--quiet", "--package", "xdp-lb-ebpf", "--bins", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir);
    cargo
}
