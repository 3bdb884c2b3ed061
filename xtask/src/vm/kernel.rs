//! A kernel on disk: found, downloaded once, unpacked below `target/vm/kernels`.
//!
//! ```text
//!  kernels/wanted-6.1              the name of the folder
//!  kernels/6.1.0-56-cloud-amd64/   the unpacked packages: vmlinuz and modules
//! ```
//!
//! What is there is taken without asking the archive, so that a run needs no network; `--update` asks.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::archive::Archive;
use super::modinfo::Catalogue;
use super::version::{Wanted, kernel_parts, pick};

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The folder that holds `modules.builtin`.
    modules: PathBuf,
}

/// The archive, opened when it is first asked.
pub struct Store {
    folder: PathBuf,
    archive: Option<Archive>,
    update: bool,
}

impl Store {
    /// Below `folder`; with `update` the archive is asked even for what is there.
    #[must_use]
    pub fn new(folder: PathBuf, update: bool) -> Self {
        Self { folder, archive: None, update }
    }

    /// The kernel that is wanted.
    ///
    /// # Errors
    /// The archive has none, or it cannot be fetched.
    pub fn get(&mut self, wanted: &Wanted) -> Result<Kernel> {
        let kernels = self.folder.join("kernels");
        let note = kernels.join(format!("wanted-{wanted}"));
        let known = fs::read_to_string(&note).ok().filter(|_| !self.update);
        if let Some(Ok(kernel)) = known.map(|name| Kernel::find(&kernels.join(name.trim()))) {
            return Ok(kernel);
        }
        let archive = match &mut self.archive {
            Some(archive) => archive,
            none => none.insert(Archive::open(self.folder.join("apt"))?),
        };
        let images = archive.images()?;
        let package = pick(images.iter().map(String::as_str), wanted)
            .with_context(|| format!("Debian has no kernel {wanted} for clouds"))?;
        let name = package.trim_start_matches("linux-image-").to_owned();
        let folder = kernels.join(&name);
        let kernel = match Kernel::find(&folder) {
            Ok(kernel) => kernel,
            Err(_) => fetch(archive, package, &folder)?,
        };
        fs::write(&note, name)?;
        Ok(kernel)
    }
}

/// Unpacks beside the place and moves there when it is whole.
fn fetch(archive: &Archive, package: &str, folder: &Path) -> Result<Kernel> {
    let mut packages: Vec<String> = kernel_parts(&archive.depends(package)?)
        .into_iter()
        .map(|(name, version)| format!("{name}={version}"))
        .collect();
    // An image that depends on no part of a kernel is one.
    if packages.is_empty() {
        packages.push(package.to_owned());
    }
    println!("fetching {}", packages.join(", "));
    let new = folder.with_extension("new");
    drop(fs::remove_dir_all(&new));
    fs::create_dir_all(&new).with_context(|| format!("make {}", new.display()))?;
    archive.unpack(&packages, &new)?;
    drop(fs::remove_dir_all(folder));
    fs::rename(&new, folder)?;
    Kernel::find(folder)
}

impl Kernel {
    /// Looks into unpacked packages: Debian's layout has changed with the years.
    fn find(folder: &Path) -> Result<Self> {
        for lib in ["usr/lib/modules", "lib/modules"] {
            let Some(modules) = only_entry(&folder.join(lib)) else { continue };
            let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let places = [modules.join("vmlinuz"), folder.join(format!("boot/vmlinuz-{release}"))];
            if let Some(image) = places.into_iter().find(|place| place.is_file()) {
                return Ok(Self { release, image, modules });
            }
        }
        bail!("{} holds no kernel with modules", folder.display())
    }

    /// One that is nowhere.
    #[cfg(test)]
    pub fn for_tests(release: &str) -> Self {
        Self { release: release.to_owned(), image: "/vmlinuz".into(), modules: PathBuf::new() }
    }

    /// The modules for `wanted`, those first that others need: names and uncompressed bytes.
    ///
    /// # Errors
    /// This kernel lacks one, or it cannot be read.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut catalogue = Catalogue::default();
        collect(&self.modules.join("kernel"), &mut catalogue)?;
        let built_in = fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let name = |line: &str| Catalogue::name_of(Path::new(line));
        catalogue.built_in = built_in.lines().filter_map(name).collect();
        catalogue.closure(wanted, &mut |path| uncompressed(path))
    }
}

fn only_entry(folder: &Path) -> Option<PathBuf> {
    let mut entries = folder.read_dir().ok()?.flatten();
    let first = entries.next()?.path();
    entries.next().is_none().then_some(first)
}

fn collect(folder: &Path, catalogue: &mut Catalogue) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, catalogue)?;
        } else if let Some(name) = Catalogue::name_of(&path) {
            catalogue.files.insert(name, path);
        }
    }
    Ok(())
}

/// A module's bytes. Newer kernels' packages hold them compressed by xz.
fn uncompressed(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("read {}", path.display());
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(reading);
    }
    let mut command = Command::new("xz");
    command.arg("-dc").arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("start xz")?;
    let mut bytes = Vec::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_end(&mut bytes).with_context(reading)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("xz -dc {}: {status}", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_folder(test: impl FnOnce(&Path)) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("xtask-kernel-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        test(&folder);
        fs::remove_dir_all(&folder).unwrap();
    }

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn every_layout_is_found() {
        with_folder(|folder| {
            touch(folder.join("old/boot/vmlinuz-5.10.0-1"));
            touch(folder.join("old/lib/modules/5.10.0-1/modules.builtin"));
            let old = Kernel::find(&folder.join("old")).unwrap();
            assert_eq!(
                (old.release.as_str(), old.image.ends_with("boot/vmlinuz-5.10.0-1")),
                ("5.10.0-1", true)
            );

            touch(folder.join("new/usr/lib/modules/7.3.4/vmlinuz"));
            touch(folder.join("new/usr/lib/modules/7.3.4/kernel/drivers/net/veth.ko"));
            let new = Kernel::find(&folder.join("new")).unwrap();
            assert_eq!(new.image, folder.join("new/usr/lib/modules/7.3.4/vmlinuz"));
            assert!(new.modules(&["tun"]).unwrap_err().to_string().contains("no module tun"));

            touch(folder.join("half/usr/lib/modules/7.3.4/modules.builtin"));
            assert!(Kernel::find(&folder.join("half")).is_err(), "modules and no kernel");
        });
    }

    #[test]
    fn what_is_there_needs_no_archive() {
        with_folder(|folder| {
            touch(folder.join("kernels/6.1.0-56/boot/vmlinuz-6.1.0-56"));
            touch(folder.join("kernels/6.1.0-56/lib/modules/6.1.0-56/modules.builtin"));
            fs::write(folder.join("kernels/wanted-6.1"), "6.1.0-56\n").unwrap();
            let mut store = Store::new(folder.to_path_buf(), false);
            assert_eq!(store.get(&Wanted::Series("6.1".to_owned())).unwrap().release, "6.1.0-56");
            assert!(store.archive.is_none());
        });
    }
}
