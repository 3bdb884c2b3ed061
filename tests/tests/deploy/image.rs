//! The Dockerfile, as far as it can be judged without building it.

use std::collections::BTreeSet;

use super::{deploy, read};

/// Instructions with their arguments, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.trim().to_owned())).collect()
}

#[test]
fn images_can_be_replaced_and_what_is_copied_is_there() {
    let instructions = instructions();
    let of = |name: &str| -> Vec<&str> {
        instructions.iter().filter(|(i, _)| i == name).map(|(_, arguments)| arguments.as_str()).collect()
    };
    let given: BTreeSet<String> =
        of("ARG").iter().map(|arg| format!("${{{}}}", arg.split('=').next().unwrap())).collect();
    let from = of("FROM");
    assert_eq!(from.len(), 2, "built in one, run in another");
    for image in &from {
        assert!(given.contains(image.split(' ').next().unwrap()), "{image}");
    }
    for copy in of("COPY").iter().filter(|copy| !copy.starts_with("--from=")) {
        let words: Vec<&str> = copy.split(' ').collect();
        for source in &words[..words.len() - 1] {
            assert!(deploy().join("..").join(source).exists(), "{source}");
        }
    }
    assert!(of("RUN").iter().any(|run| run.contains("/out/usr/bin/xdp-lb")));
    assert_eq!(of("ENTRYPOINT"), ["[\"/usr/bin/xdp-lb\"]"], "manifests give arguments alone");
    let version = concat!("VERSION=", env!("CARGO_PKG_VERSION"));
    assert!(of("ARG").contains(&version), "not {version}");
}
