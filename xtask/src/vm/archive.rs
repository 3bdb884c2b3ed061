//! Debian's archive by an apt of our own: other suites than this machine's, nothing installed, all state below
//! `target/vm/apt`. Wants no root. The machine's settings for downloads (proxies) and its mirror are taken over.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{finish, is_root};
use crate::setup::DEBIAN_KEYS;

/// Where kernels come from: mirror's suffix, suite.
const SUITES: [(&str, &str); 6] = [
    ("-security", "bullseye-security"),
    ("", "bookworm"),
    ("-security", "bookworm-security"),
    ("", "trixie"),
    ("-security", "trixie-security"),
    ("", "trixie-backports"),
];
/// Names a mirror where this machine's apt knows none, as on Ubuntu.
const MIRROR: &str = "XDP_LB_DEBIAN_MIRROR";
/// The lists are some tens of megabytes, a kernel is as much.
const LIMIT: Duration = Duration::from_secs(600);

/// The apt of our own.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Makes it below `folder` and fetches the lists of packages.
    ///
    /// # Errors
    /// There is no mirror, or it does not answer.
    pub fn open(folder: PathBuf) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        }
        fs::write(folder.join("sources.list"), sources(&mirror()?))?;
        let downloads = output(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
        fs::write(folder.join("apt.conf"), settings(&folder, &downloads, is_root()))?;
        let archive = Self { folder };
        finish(archive.command("apt-get", ["-qq", "update"]), LIMIT).context("apt-get update for kernels")?;
        Ok(archive)
    }

    /// Names of all packages of kernel images.
    ///
    /// # Errors
    /// apt fails.
    pub fn images(&self) -> Result<Vec<String>> {
        let names = output(&mut self.command("apt-cache", ["pkgnames", "linux-image-"]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The `Depends` of a package.
    ///
    /// # Errors
    /// apt fails, or there is no such package.
    pub fn depends(&self, package: &str) -> Result<String> {
        let record = output(&mut self.command("apt-cache", ["--no-all-versions", "show", package]))?;
        Ok(record.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default().to_owned())
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them together into `target`.
    ///
    /// # Errors
    /// A download fails, or there is no room.
    pub fn unpack(&self, packages: &[String], target: &Path) -> Result<()> {
        let folder = self.folder.join("debs");
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let arguments = ["-qq", "download"].into_iter().chain(packages.iter().map(String::as_str));
        let mut download = self.command("apt-get", arguments);
        download.current_dir(&folder);
        finish(download, LIMIT).with_context(|| format!("download {}", packages.join(", ")))?;
        let mut seen = 0;
        for entry in folder.read_dir()? {
            let deb = entry?.path();
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(&deb).arg(target).stdin(Stdio::null());
            finish(unpack, LIMIT).with_context(|| format!("unpack {}", deb.display()))?;
            seen += 1;
        }
        if seen != packages.len() {
            bail!("asked for {}, got {seen} files", packages.join(", "));
        }
        Ok(fs::remove_dir_all(&folder)?)
    }

    fn command<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command.stdin(Stdio::null());
        command
    }
}

/// `sources.list` for a mirror like `http://HOST/debian`.
fn sources(mirror: &str) -> String {
    let mirror = mirror.trim_end_matches('/');
    let line = |(suffix, suite): (&str, &str)| {
        format!("deb [arch=amd64 signed-by={DEBIAN_KEYS}] {mirror}{suffix} {suite} main\n")
    };
    SUITES.map(line).concat()
}

/// Everything below `folder`, none of the machine's hooks, its ways to download.
fn settings(folder: &Path, downloads: &str, root: bool) -> String {
    let folder = folder.display();
    // apt drops its privileges to a user that may not read a developer's folders.
    let sandbox = if root { "APT::Sandbox::User \"root\";\n" } else { "" };
    format!(
        "{downloads}
Acquire::Languages \"none\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
Dir::Etc::main \"/dev/null\";
Dir::Etc::parts \"/dev/null\";
Dir::Etc::sourcelist \"{folder}/sources.list\";
Dir::Etc::sourceparts \"/dev/null\";
Dir::Etc::preferences \"/dev/null\";
Dir::Etc::preferencesparts \"/dev/null\";
Dir::State::lists \"{folder}/lists\";
Dir::Cache \"{folder}/cache\";
APT::Architecture \"amd64\";
{sandbox}"
    )
}

/// The mirror that this machine's apt uses, or the one that a person names.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var(MIRROR) {
        return Ok(mirror);
    }
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
    let found = targets.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    found.map(str::to_owned).with_context(|| {
        format!("this machine's apt knows no Debian mirror; name one: {MIRROR}=http://HOST/debian")
    })
}

/// Runs a command that answers at once.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {}", program.display()))?;
    if !output.status.success() {
        bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_updates_have_a_place_of_their_own() {
        let text = sources("http://mirror.example/debian/");
        assert_eq!(text.lines().count(), SUITES.len());
        assert!(text.contains(" http://mirror.example/debian trixie main\n"), "{text}");
        assert!(text.contains(" http://mirror.example/debian-security bookworm-security main\n"), "{text}");
        assert!(text.lines().all(|line| line.contains("signed-by=/")), "{text}");
    }

    #[test]
    fn nothing_of_the_machine_is_touched() {
        let text = settings(Path::new("/w/target/vm/apt"), "Acquire::http::Proxy \"http://p:1\";", false);
        for line in
            ["Dir::State::lists \"/w/", "Dir::Cache \"/w/", "Dir::Etc::sourceparts \"/dev/null\"", "Proxy"]
        {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains("Sandbox"));
        assert!(settings(Path::new("/w"), "", true).contains("APT::Sandbox::User \"root\";"));
    }
}
