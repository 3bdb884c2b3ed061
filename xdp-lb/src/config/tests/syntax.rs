//! Files that are no configuration at all, and YAML beyond what a configuration needs.

use super::{bad, edge, errors, good, only, places};

#[test]
fn what_is_no_mapping() {
    assert_eq!(bad(""), ["line 1, column 1: the file is empty; start with `version: 1`"]);
    assert_eq!(bad("# nothing\n").len(), 1);
    assert_eq!(bad("\n\n"), bad(""));
    only("--- \n", "", "must be a mapping");
    only("[version, 1]", "", "must be a mapping (`version: ...`), is a list");
    only("hello", "", "is \"hello\"");
}

#[test]
fn broken_yaml_says_where() {
    let tab = errors("version: 1\ninterfaces:\n\t- name: eth0\n");
    assert!(tab[0].message.contains("never with tabs"), "{tab:?}");
    assert!((2..=3).contains(&tab[0].line), "{tab:?}");
    let open = errors("version: 1\nnode: { name: a\n");
    assert!(open[0].message.starts_with("not YAML: "), "{open:?}");
    assert_eq!(errors("version: 1\nnode: [a\n").len(), 1);
}

#[test]
fn one_document_a_file() {
    only("version: 1\n---\nversion: 1\n", "", "second document");
    let one = edge(" []\n");
    good(&format!("---\n{one}"));
    good(&format!("{one}...\n"));
}

#[test]
fn byte_order_mark_and_carriage_returns_do_not_matter() {
    let text = edge("  - { name: a, vip: 203.0.113.1, protocol: tcp, ports: 80, backends: [] }\n");
    assert_eq!(good(&format!("\u{feff}{text}")).desired, good(&text).desired);
    assert_eq!(good(&text.replace('\n', "\r\n")).desired, good(&text).desired);
    let wrong = format!("\u{feff}{}", text.replace("version: 1", "version: 2").replace('\n', "\r\n"));
    assert_eq!(places(&wrong), [(1, "version".to_owned())]);
}

#[test]
fn duplicate_keys_are_errors_and_the_first_counts() {
    let text = edge(" []\n").replace("version: 1", "version: 1\nversion: 7");
    assert_eq!(bad(&text), ["line 2, column 1: version: written twice, first on line 1; remove one"]);
    let text = edge(
        "  - name: a\n    vip: 203.0.113.1\n    vip: x\n    protocol: tcp\n    ports: 80\n    backends: []\n",
    );
    only(&text, "services[0].vip", "first on line 7");
}

#[test]
fn unknown_keys_with_the_nearest_known_one() {
    let text = edge(" []\n").replace("seed", "sead");
    let errors = bad(&text);
    assert_eq!(errors, ["line 3, column 11: maglev.sead: unknown key; did you mean `seed`?"]);
    only(&edge(" []\nweight: 3\n"), "weight", "`weight` belongs to services[].backends[]");
    only(&edge(" []\nzzzzzzzzz: 3\n"), "zzzzzzzzz", "known here: version, ");
    only(&edge(" []\n\"a.b\\n\": 3\n"), "\"a.b\\n\"", "unknown key");
}

#[test]
fn aliases_work_and_cannot_explode() {
    only("version: 1\nnode: &a { name: *a }\n", "node.name", "inside its own anchor");
    only("version: 1\nnode: { name: *nowhere }\n", "", "not YAML");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let alias = format!("*a{}, ", i - 1).repeat(10);
        bomb += &format!("a{i}: &a{i} [{}]\n", alias.trim_end_matches(", "));
    }
    let errors = errors(&bomb);
    assert!(errors.iter().any(|e| e.message.contains("unfold to more")), "{errors:?}");
    // The same, deep instead of wide: dropping the tree must not exhaust the stack.
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for i in 1..20_000 {
        chain += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert_eq!(super::errors(&chain).len(), 1);
    assert_eq!(super::errors(&"[".repeat(100_000)).len(), 1);
    let nested: String = (0..1_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    only(&nested, &["a"; 32].join("."), "nested too deeply");
}

#[test]
fn ten_thousand_services_over_lists_of_a_hundred_backends_unfold() {
    let list: Vec<String> = (1..=100).map(|n| format!("{{ address: 10.0.0.{n}, weight: 10 }}")).collect();
    let mut services = String::new();
    for n in 0..10_000 {
        let backends = if n == 0 { format!("&all [{}]", list.join(", ")) } else { "*all".to_owned() };
        let vip = std::net::Ipv4Addr::from_bits(0x1400_0000 + n);
        services +=
            &format!("  - {{ name: s{n}, vip: {vip}, protocol: tcp, ports: 443, backends: {backends} }}\n");
    }
    let limits = "limits: { services: 10000, vips: 10000, port_pages: 21000 }\n";
    let services = good(&(edge(&services) + limits)).desired.services;
    assert_eq!(services.iter().map(|service| service.backends.len()).sum::<usize>(), 1_000_000);
    assert!(services[9999].backends.is_same(&services[0].backends), "one list in memory");
}

#[test]
fn what_yaml_can_and_a_configuration_cannot() {
    only(&edge(" []\nnode: !mine { name: a }\n"), "node", "tags are not supported");
    only(&edge(" []\nnode: { name: !!str a }\n"), "node.name", "tags are not supported");
    let merge = edge(" []\nnode: &n { name: a }\nlog: { <<: *n }\n");
    only(&merge, "log.\"<<\"", "merge keys are not supported");
    only(&edge(" []\nnode: { [a]: b }\n"), "node", "a key must be a word");
    only(&edge(" []\nnode: { *a : b }\n"), "", "not YAML");
}

#[test]
fn scalars_are_read_by_the_wanted_type_not_by_guess() {
    let text = edge(" []\nnode: { name: 007, zone: no }\n");
    let node = good(&text).desired.node;
    assert_eq!((node.name.as_str(), node.zone.as_deref()), ("007", Some("no")));
    let mac = edge(" []\n").replace("name: eth0", "name: eth0, next_hop: { mac: 10:20:30:40:50:59 }");
    good(&mac);
    only(&edge(" []\nnode: { name: }\n"), "node.name", "has no value");
    only(&edge(" []\nnode: { name: [a] }\n"), "node.name", "is a list");
    only(&edge(" []\nnode: { name: { a: b } }\n"), "node.name", "is a mapping");
}

#[test]
fn an_error_has_the_documented_shapes() {
    let text = edge(
        "  - name: a\n    vip: 203.0.113.1\n    protocol: tcp\n    ports: 80\n    backends:\n      - address: 10.0.0.1\n        weight: 5000\n",
    );
    let [error] = &errors(&text)[..] else { panic!() };
    let path = "services[0].backends[0].weight";
    assert_eq!(error.to_string(), format!("line 12, column 17: {path}: must be 0..=1000, is 5000"));
    let value = serde_yaml::to_value(error).unwrap();
    assert_eq!(value["line"], 12);
    assert_eq!(value["column"], 17);
    assert_eq!(value["path"], path);
    assert_eq!(value["message"], "must be 0..=1000, is 5000");
}
