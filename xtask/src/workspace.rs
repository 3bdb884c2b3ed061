//! Where the workspace is and which integration tests it has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The workspace's root: the folder above this crate's.
#[must_use]
pub fn root() -> PathBuf {
    // At run time by cargo, so that a moved checkout still finds itself.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

/// Names of the integration tests in a package's folder, sorted: `PACKAGE/tests/NAME.rs` or `PACKAGE/tests/NAME/main.rs`.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn test_targets(root: &Path, package: &str) -> Result<BTreeSet<String>> {
    let folder = root.join(package).join("tests");
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let mut names = BTreeSet::new();
    for entry in folder.read_dir().with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let is_target = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
        if let (true, Some(stem)) = (is_target, path.file_stem()) {
            names.insert(stem.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").exists());
        assert!(root().join("xtask/src/workspace.rs").exists());
    }

    #[test]
    fn targets_are_found_by_file() {
        let dir = std::env::temp_dir().join(format!("xtask-targets-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("tests/tests/lab_demo")).unwrap();
        std::fs::create_dir_all(dir.join("tests/tests/helpers")).unwrap();
        std::fs::write(dir.join("tests/tests/prog_golden.rs"), "").unwrap();
        std::fs::write(dir.join("tests/tests/lab_demo/main.rs"), "").unwrap();
        std::fs::write(dir.join("tests/tests/notes.txt"), "").unwrap();
        let found = test_targets(&dir, "tests");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found.unwrap().into_iter().collect::<Vec<_>>(), ["lab_demo", "prog_golden"]);
    }
}
