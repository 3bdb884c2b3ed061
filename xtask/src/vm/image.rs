//! The guest's file system in memory: a few static programs, a console and the modules that this kernel lacks.

use std::fs;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::guest::Guest;
use super::kernel::Kernel;

/// What the checks need and clouds' kernels have as modules.
const MODULES: [&str; 5] = ["veth", "sch_ingress", "cls_bpf", "8021q", "bonding"];

/// Builds the initramfs for `kernel`.
///
/// # Errors
/// A program was not built, or the kernel lacks a module.
pub fn build(guest: &Guest, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["dev", "bin", "tests", "modules"] {
        archive.directory(folder);
    }
    // The kernel opens it for process 1 before anybody can mount anything.
    archive.device("dev/console", 5, 1);
    let tests = guest.tests.iter().map(|(name, path)| (format!("tests/{name}"), path));
    let programs = [("init".to_owned(), &guest.init), ("bin/xdp-lb".to_owned(), &guest.product)];
    for (name, path) in programs.into_iter().chain(tests) {
        archive.file(&name, &fs::read(path).with_context(|| format!("read {}", path.display()))?);
    }
    let mut order = String::new();
    for (name, content) in kernel.modules(&MODULES)? {
        let file = format!("{name}.ko");
        archive.file(&format!("modules/{file}"), &content);
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}
