//! Whatever the text: no panic, errors inside the text, and no meaning in the order of keys.

use proptest::prelude::*;
use serde_yaml::{Mapping, Value};

use super::super::{ConfigError, parse};
use super::examples;
use super::good;

/// What holds for every answer.
fn sane(text: &str) -> Result<(), TestCaseError> {
    let Err(errors) = parse(text) else { return Ok(()) };
    prop_assert!(!errors.is_empty());
    let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap();
    for ConfigError { line, column, message, .. } in &errors {
        prop_assert!((1..=lines + 1).contains(line), "{errors:?}");
        prop_assert!(*column >= 1 && !message.is_empty(), "{errors:?}");
        prop_assert!(!message.contains("please report"), "{errors:?}");
    }
    Ok(())
}

fn example() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(examples::ALL.iter().map(|(_, text)| *text).collect::<Vec<_>>())
}

/// Bits that change the structure of YAML.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "\n",
            "  ",
            "\t",
            ":",
            ": ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&a ",
            "*a",
            "!!str ",
            "|",
            ">",
            "\"",
            "'",
            "#",
            "---\n",
            "...",
            "? ",
            "<<: ",
            "~",
            "%",
            "@",
            "\u{feff}",
            "\r",
            "\0",
            "services:",
            "address: ",
            "\u{85}",
            "é",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ]
}

/// Reverses, rotates or keeps the keys of every mapping.
fn reorder(value: Value, by: &mut impl FnMut(usize) -> usize) -> Value {
    match value {
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(|item| reorder(item, by)).collect()),
        Value::Mapping(mapping) => {
            let mut entries: Vec<_> = mapping.into_iter().collect();
            for i in (1..entries.len()).rev() {
                entries.swap(i, by(i + 1));
            }
            Value::Mapping(
                entries.into_iter().map(|(key, value)| (key, reorder(value, by))).collect::<Mapping>(),
            )
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        sane(&text)?;
    }

    #[test]
    fn any_structure(parts in proptest::collection::vec(fragment(), 0..60)) {
        sane(&parts.concat())?;
    }

    #[test]
    fn damaged_examples(text in example(), damage in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, fragment()), 1..6)) {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, remove, insert) in damage {
            let at = at.index(chars.len() + 1);
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        sane(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn shuffled_lines(text in example(), swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4)) {
        let mut lines: Vec<&str> = text.lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        sane(&lines.join("\n"))?;
    }

    /// Another YAML library writes the same configuration with its keys shuffled and its aliases followed.
    #[test]
    fn the_order_of_keys_means_nothing(text in example(), seed in any::<u64>()) {
        let mut state = seed | 1;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % n
        };
        let value: Value = serde_yaml::from_str(text).unwrap();
        let written = serde_yaml::to_string(&reorder(value, &mut next)).unwrap();
        prop_assert_eq!(good(&written).desired, good(text).desired, "{}", written);
    }

    #[test]
    fn the_order_of_backends_means_nothing(order in Just(vec![1, 2, 3, 4, 5]).prop_shuffle()) {
        let file = |order: &[u8]| {
            let backends: Vec<_> = order.iter().map(|i| format!("{{ address: 10.0.0.{i}, weight: {i} }}")).collect();
            super::edge(&format!(
                "  - {{ name: a, vip: 203.0.113.1, protocol: tcp, ports: 80, backends: [{}] }}\n",
                backends.join(", ")
            ))
        };
        prop_assert_eq!(good(&file(&order)).desired, good(&file(&[1, 2, 3, 4, 5])).desired);
    }
}

/// A large file takes well under a second even unoptimised: nothing in reading or judging is quadratic.
#[test]
fn a_large_file_is_read_in_time() {
    let services: String = (0..4000u32)
        .map(|i| {
            let backends: Vec<_> = (1..5).map(|b| format!("{{ address: 10.{b}.{}.{} }}", i / 250, i % 250 + 1)).collect();
            format!(
                "  - {{ name: s{i}, vip: 203.0.113.1, protocol: tcp, ports: {}, table_size: 251, backends: [{}] }}\n",
                i + 1,
                backends.join(", ")
            )
        })
        .collect();
    let text = super::edge(&services);
    let start = std::time::Instant::now();
    assert_eq!(good(&text).desired.services.len(), 4000);
    let took = start.elapsed();
    println!("{took:?}");
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}
