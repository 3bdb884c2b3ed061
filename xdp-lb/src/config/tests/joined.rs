//! Configurations in several files.

use super::super::{Checked, parse, parse_all};
use super::{edge, service};

fn texts<const N: usize>(texts: [(&str, &str); N]) -> Vec<(String, String)> {
    texts.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec()
}

fn good<const N: usize>(files: [(&str, &str); N]) -> Checked {
    parse_all(&texts(files)).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn bad<const N: usize>(files: [(&str, &str); N]) -> Vec<String> {
    parse_all(&texts(files)).expect_err("a mistake went unnoticed").iter().map(ToString::to_string).collect()
}

fn of(services: &[String]) -> String {
    format!("version: 1\nservices:\n{}", services.concat())
}

#[test]
fn files_are_what_one_file_with_all_lists_would_be() {
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        service(name, &format!("203.0.113.{}", 10 + u32::from(name.as_bytes()[0])), "tcp", "80", "")
    });
    let whole = parse(&edge(&[a.clone(), b.clone(), c.clone()].concat())).unwrap();
    let joined = good([("10-node.yaml", &edge(&a)), ("20-b.yaml", &of(&[b])), ("30-c.yaml", &of(&[c]))]);
    assert_eq!(joined.desired, whole.desired);
    // One file in a directory is that file.
    assert_eq!(good([("x.yaml", &edge(&a))]).desired, parse(&edge(&a)).unwrap().desired);
}

#[test]
fn a_mistake_is_told_with_its_file_and_the_path_in_that_file() {
    let [a, b] =
        [("a", "80"), ("b", "81")].map(|(name, port)| service(name, "203.0.113.10", "tcp", port, ""));
    let wrong = service("c", "203.0.113.10", "tcp", "82", ", colour: blue");
    let said = bad([("10.yaml", &edge(&a)), ("20.yaml", &of(&[b, wrong]))]);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(
        said[0].starts_with("20.yaml, line 4, column ") && said[0].contains("services[1].colour"),
        "{said:?}"
    );
}

#[test]
fn what_two_files_say_is_refused_with_both_places() {
    let [a, b] =
        [("a", "80"), ("b", "81")].map(|(name, port)| service(name, "203.0.113.10", "tcp", port, ""));
    // The name of a service.
    let said = bad([("10.yaml", &edge(&a)), ("20.yaml", &of(&[b.clone(), a.replace("80", "90")]))]);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with("20.yaml, line 4") && said[0].contains("services[1].name"), "{said:?}");
    assert!(said[0].contains("services[0].name in 10.yaml, line 6"), "{said:?}");
    // Its packets.
    let said = bad([("10.yaml", &edge(&a)), ("20.yaml", &of(&[b.replace("81", "80")]))]);
    assert!(
        said[0].starts_with("20.yaml") && said[0].contains("services[0].ports in 10.yaml, line 6"),
        "{said:?}"
    );
    // A key that is no list.
    let said = bad([("10.yaml", &edge(&a)), ("20.yaml", "version: 1\nmaglev: { seed: 8 }\n")]);
    assert_eq!(
        said,
        [
            "20.yaml, line 2, column 1: maglev: stands in another file, too (maglev in 10.yaml, line 3); one file alone may have it"
        ]
    );
    // An interface.
    let said = bad([("10.yaml", &edge(&a)), ("20.yaml", "version: 1\ninterfaces: [{ name: eth0 }]\n")]);
    assert!(said[0].contains("first as interfaces[0].name in 10.yaml, line 2"), "{said:?}");
}

#[test]
fn every_file_says_its_version_and_holds_a_mapping() {
    let a = edge(&service("a", "203.0.113.10", "tcp", "80", ""));
    let b = of(&[service("b", "203.0.113.10", "tcp", "81", "")]);
    let said = bad([("10.yaml", &a), ("20.yaml", &b.replace("version: 1\n", ""))]);
    assert_eq!(said, ["20.yaml, line 1, column 1: version: missing; add `version: 1`"]);
    let said = bad([("10.yaml", &a), ("20.yaml", &b.replace("version: 1", "version: 2"))]);
    assert!(said[0].starts_with("20.yaml, line 1, column 10: version: must be 1"), "{said:?}");
    let said = bad([("10.yaml", &a.replace("version: 1", "version: 3")), ("20.yaml", &b)]);
    assert!(said.len() == 1 && said[0].starts_with("10.yaml, line 1, column 10: version"), "{said:?}");
    assert!(
        bad([("10.yaml", &a), ("20.yaml", "- a\n")])[0]
            .starts_with("20.yaml, line 1, column 1: must be a mapping")
    );
    assert!(
        bad([("10.yaml", &a), ("20.yaml", "")])[0]
            .starts_with("20.yaml, line 1, column 1: the file is empty")
    );
    assert_eq!(bad([]).len(), 1);
}
