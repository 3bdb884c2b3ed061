//! Which modules a module needs, from its own `.modinfo`: `depmod` without depmod.
//!
//! A `.ko` is an ELF file whose section `.modinfo` holds strings, each ended by a NUL: `depends=a,b`,
//! `softdep=pre: c post: d`, `name=veth` ... Names there are with underscores, file names may have dashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The strings of a module that say what must be loaded before it: hard ones, and soft ones that may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Without these it does not link.
    pub hard: Vec<String>,
    /// These it would ask for itself.
    pub soft: Vec<String>,
}

/// Reads what the uncompressed module `ko` needs.
///
/// # Errors
/// It is no 64-bit little-endian ELF file with a `.modinfo`.
pub fn needs(ko: &[u8]) -> Result<Needs> {
    let mut needs = Needs::default();
    for string in section(ko, ".modinfo").context("a module without .modinfo")?.split(|byte| *byte == 0) {
        let Ok(string) = std::str::from_utf8(string) else { continue };
        if let Some(names) = string.strip_prefix("depends=") {
            needs.hard.extend(names.split(',').filter(|name| !name.is_empty()).map(canonical));
        } else if let Some(soft) = string.strip_prefix("softdep=") {
            let before = soft.split("post:").next().unwrap_or_default();
            needs.soft.extend(before.trim_start_matches("pre:").split_whitespace().map(canonical));
        }
    }
    Ok(needs)
}

/// A section's bytes.
fn section<'a>(elf: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        let value = field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    // 64 bits, little endian.
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count, names) =
        (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let content = |at: usize| {
        let (offset, length) = (number(at + 0x18, 8)?, number(at + 0x20, 8)?);
        elf.get(offset..offset.checked_add(length)?)
    };
    let strings = content(header(names)?)?;
    let name = |at: usize| strings.get(number(at, 4)?..)?.split(|byte| *byte == 0).next();
    (0..count).filter_map(header).find(|at| name(*at) == Some(wanted.as_bytes())).and_then(content)
}

/// The name of a module as `.modinfo` spells it.
#[must_use]
pub fn canonical(name: &str) -> String {
    name.trim().replace('-', "_")
}

/// A kernel's modules: name to file, and the names that are part of the kernel itself.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Files, `.ko` or compressed.
    pub files: BTreeMap<String, PathBuf>,
    /// From `modules.builtin`.
    pub built_in: Vec<String>,
}

impl Catalogue {
    /// The name of the module in a file `NAME.ko` or `NAME.ko.xz`.
    #[must_use]
    pub fn name_of(path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?;
        let (stem, rest) = name.split_once(".ko")?;
        matches!(rest, "" | ".xz" | ".gz" | ".zst").then(|| canonical(stem))
    }

    /// The modules for `wanted`, those first that others need. `read` returns a module's uncompressed bytes.
    ///
    /// # Errors
    /// One is missing or cannot be read, or they need each other in a circle.
    pub fn closure(
        &self,
        wanted: &[&str],
        read: &mut dyn FnMut(&Path) -> Result<Vec<u8>>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&canonical(name), read, &mut order, &mut Vec::new())?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        read: &mut dyn FnMut(&Path) -> Result<Vec<u8>>,
        order: &mut Vec<(String, Vec<u8>)>,
        above: &mut Vec<String>,
    ) -> Result<()> {
        if order.iter().any(|(done, _)| done == name) || self.built_in.iter().any(|built_in| built_in == name)
        {
            return Ok(());
        }
        if above.iter().any(|other| other == name) {
            bail!("module {name} needs itself: {}", above.join(" -> "));
        }
        let path = self.files.get(name).with_context(|| format!("this kernel has no module {name}"))?;
        let content = read(path)?;
        let needs = needs(&content).with_context(|| path.display().to_string())?;
        above.push(name.to_owned());
        for other in &needs.hard {
            self.visit(other, read, order, above)?;
        }
        for other in needs.soft.iter().filter(|other| self.files.contains_key(*other)) {
            self.visit(other, read, order, above)?;
        }
        above.pop();
        order.push((name.to_owned(), content));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with the sections "", `.modinfo` and `.shstrtab`.
    fn module(modinfo: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0_u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let at = elf.len();
        elf.extend_from_slice(modinfo.as_bytes());
        let names_at = elf.len();
        elf.extend_from_slice(names);
        let table = elf.len() as u64;
        for (name, offset, length) in [(0_u32, 0, 0), (1, at, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0_u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        elf
    }

    fn catalogue(modules: &[(&str, &str)]) -> (Catalogue, BTreeMap<PathBuf, Vec<u8>>) {
        let mut contents = BTreeMap::new();
        let mut catalogue = Catalogue::default();
        for (file, modinfo) in modules {
            let path = PathBuf::from(file);
            catalogue.files.insert(Catalogue::name_of(&path).unwrap(), path.clone());
            contents.insert(path, module(modinfo));
        }
        (catalogue, contents)
    }

    fn order(modules: &[(&str, &str)], wanted: &[&str]) -> Result<Vec<String>> {
        let (catalogue, contents) = catalogue(modules);
        let mut read = |path: &Path| Ok(contents[path].clone());
        Ok(catalogue.closure(wanted, &mut read)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn needs_are_read() {
        let read = |text| needs(&module(text)).unwrap();
        assert_eq!(read("license=GPL\0depends=\0name=veth\0"), Needs::default());
        let both = read("depends=ip-tunnel,tunnel4\0softdep=pre: crypto-crc32c sha1 post: x\0");
        assert_eq!(both.hard, ["ip_tunnel", "tunnel4"]);
        assert_eq!(both.soft, ["crypto_crc32c", "sha1"]);
        assert!(read("softdep=post: x\0").soft.is_empty());
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        let whole = module("depends=a\0");
        for length in 0..whole.len() {
            drop(needs(&whole[..length]));
        }
        assert!(needs(&whole[..80]).is_err());
        assert!(needs(b"#!/bin/sh").is_err());
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let modules = [
            ("d/ipip.ko.xz", "depends=ip_tunnel,tunnel4\0"),
            ("d/ip-tunnel.ko.xz", "depends=\0softdep=pre: missing\0"),
            ("d/tunnel4.ko", "depends=ip_tunnel\0"),
        ];
        assert_eq!(order(&modules, &["ipip", "tunnel4"]).unwrap(), ["ip_tunnel", "tunnel4", "ipip"]);
        assert!(order(&modules, &["veth"]).unwrap_err().to_string().contains("veth"));
    }

    #[test]
    fn a_circle_is_an_error() {
        let modules = [("a.ko", "depends=b\0"), ("b.ko", "depends=a\0")];
        assert!(order(&modules, &["a"]).is_err());
    }

    #[test]
    fn built_in_modules_are_not_looked_for() {
        let (mut catalogue, contents) = catalogue(&[("a.ko", "depends=core\0")]);
        catalogue.built_in.push("core".to_owned());
        let mut read = |path: &Path| Ok(contents[path].clone());
        assert_eq!(catalogue.closure(&["a"], &mut read).unwrap().len(), 1);
    }

    #[test]
    fn names_follow_from_files() {
        let name = |path| Catalogue::name_of(Path::new(path));
        assert_eq!(name("kernel/net/ip-tunnel.ko.xz").as_deref(), Some("ip_tunnel"));
        assert_eq!(name("kernel/drivers/veth.ko").as_deref(), Some("veth"));
        assert_eq!(name("modules.builtin"), None);
    }
}
