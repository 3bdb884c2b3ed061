//! Which entries of which directories decide what a path means: every symbolic link on the way, and the file at its end.
//!
//! ```text
//!   /etc/xdp-lb/edge.yaml -> ..data/edge.yaml        entries edge.yaml and ..data of /etc/xdp-lb,
//!   /etc/xdp-lb/..data -> ..2026_07_01               entry edge.yaml of /etc/xdp-lb/..2026_07_01
//! ```
//!
//! So a ConfigMap's swap of `..data` is seen as well as an edit of the file. A plain directory that is moved away is not:
//! the look at the files' times finds that.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::file::{Stamp, stamp::is_named};

/// Links followed, as in the kernel.
const MOST_LINKS: usize = 40;

/// Entries that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    entries: BTreeSet<PathBuf>,
    /// The directory whose files are the configuration.
    directory: Option<PathBuf>,
}

impl Places {
    /// Those of a configuration, which may be a file, a directory or missing.
    ///
    /// # Errors
    /// When the working directory of a relative path is gone.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut places = Self::default();
        let end = places.follow(&std::path::absolute(path)?);
        if end.is_dir() {
            let files: Vec<PathBuf> =
                Stamp::of(&end).iter().flat_map(Stamp::files).map(Path::to_owned).collect();
            for file in files {
                places.follow(&file);
            }
            places.directory = Some(end);
        }
        Ok(places)
    }

    /// Directories to watch.
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        let parents = self.entries.iter().filter_map(|entry| entry.parent());
        parents.chain(self.directory.as_deref()).map(Path::to_owned).collect()
    }

    /// Whether a change of this entry may be one of the configuration.
    pub fn concern(&self, entry: &Path) -> bool {
        let joins = |name: &OsStr| entry.parent() == self.directory.as_deref() && is_named(name);
        self.entries.contains(entry) || entry.file_name().is_some_and(joins) || self.is_watched(entry)
    }

    /// A directory itself: it went away, or another came in its place.
    fn is_watched(&self, entry: &Path) -> bool {
        self.directory.as_deref() == Some(entry) || self.entries.iter().any(|own| own.parent() == Some(entry))
    }

    /// Adds what decides about `path`, which is absolute, and returns what it leads to.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let mut at = PathBuf::new();
        let mut rest: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                at.pop();
                continue;
            }
            // The root is absolute, and takes the place of all before it.
            let next = at.join(&part);
            match fs::read_link(&next) {
                Ok(target) if links < MOST_LINKS => {
                    links += 1;
                    self.entries.insert(next);
                    rest.extend(parts(&target));
                }
                _ => at = next,
            }
        }
        self.entries.insert(at.clone());
        at
    }
}

/// Components from last to first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let all = path.components().filter(|part| *part != Component::CurDir);
    all.rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xdp-lb-places-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }

        fn write(&self, name: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "version: 1\n").unwrap();
        }

        fn link(&self, name: &str, target: &str) {
            symlink(target, self.0.join(name)).unwrap();
        }

        fn places(&self, name: &str) -> (Vec<String>, Vec<String>) {
            let short = |path: &PathBuf| path.strip_prefix(&self.0).unwrap().display().to_string();
            let places = Places::of(&self.0.join(name)).unwrap();
            let directories = places.directories();
            (places.entries.iter().map(short).collect(), directories.iter().map(short).collect())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_plain_file_is_an_entry_of_its_directory() {
        let scratch = Scratch::new("plain");
        scratch.write("a/edge.yaml");
        let expected = (vec!["a/edge.yaml".to_owned()], vec!["a".to_owned()]);
        assert_eq!(scratch.places("a/edge.yaml"), expected);
        assert_eq!(scratch.places("a/../a/./edge.yaml"), expected);
        fs::remove_file(scratch.0.join("a/edge.yaml")).unwrap();
        assert_eq!(scratch.places("a/edge.yaml"), expected, "it may come back");
    }

    #[test]
    fn every_link_of_a_config_map_counts() {
        let scratch = Scratch::new("map");
        scratch.write("map/..1/edge.yaml");
        scratch.link("map/..data", "..1");
        scratch.link("map/edge.yaml", "..data/edge.yaml");
        scratch.link("current", "map");
        let (entries, directories) = scratch.places("current/edge.yaml");
        assert_eq!(entries, ["current", "map/..1/edge.yaml", "map/..data", "map/edge.yaml"]);
        assert_eq!(directories, ["", "map", "map/..1"]);
        // As a directory of files, the same and whatever may come.
        let places = Places::of(&scratch.0.join("map")).unwrap();
        for (name, concerns) in [
            ("..data", true),
            ("edge.yaml", true),
            ("new.yaml", true),
            ("new.txt", false),
            ("..2", false),
            ("..1/edge.yaml", true),
        ] {
            assert_eq!(places.concern(&scratch.0.join("map").join(name)), concerns, "{name}");
        }
    }

    #[test]
    fn links_in_a_circle_end() {
        let scratch = Scratch::new("circle");
        scratch.link("a", "b");
        scratch.link("b", "a");
        assert_eq!(scratch.places("a").0, ["a", "b"]);
    }
}
