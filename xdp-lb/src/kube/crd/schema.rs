//! Pieces that the schemas of [`super::sections`] are made of: one kind of value each, as strict as a schema can say it.
//!
//! Rules in CEL judge what types cannot. Whatever still slips through is told by the file's readers, on the node.

use serde_json::{Map, Value, json};

/// A key, its schema, and whether the mapping cannot be without it.
pub(super) struct Key {
    name: &'static str,
    schema: Value,
    is_required: bool,
}

/// A key that may be there.
pub(super) fn key(name: &'static str, schema: Value, description: &str) -> Key {
    Key { name, schema: described(schema, description), is_required: false }
}

impl Key {
    /// One that must be there.
    pub fn required(self) -> Self {
        Self { is_required: true, ..self }
    }
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

/// A mapping; the API server refuses other keys, or drops them where it is not asked to be strict.
pub(super) fn object(keys: impl IntoIterator<Item = Key>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for Key { name, schema, is_required } in keys {
        if is_required {
            required.push(name);
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The schema with one more rule.
pub(super) fn rule(mut schema: Value, rule: &str, message: &str) -> Value {
    let mut rules = schema["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
    rules.push(json!({ "rule": rule, "message": message }));
    schema["x-kubernetes-validations"] = rules.into();
    schema
}

pub(super) fn list(items: Value, most: u32) -> Value {
    json!({ "type": "array", "items": items, "maxItems": most })
}

pub(super) fn boolean() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn integer(least: i64, most: i64) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": least, "maximum": most })
}

pub(super) fn power_of_two(least: i64, most: i64) -> Value {
    let values: Vec<i64> = (0..62).map(|n| 1 << n).filter(|n| (least..=most).contains(n)).collect();
    json!({ "type": "integer", "format": "int64", "enum": values })
}

pub(super) fn choice(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

/// A number, or a word in its place.
pub(super) fn word_or(word: &str, least: i64, most: i64) -> Value {
    let mut schema = number_or(&format!("^({word}|[0-9]+)$"), least);
    schema["maximum"] = most.into();
    schema
}

/// A number, or what the pattern says: bounds are for numbers, the pattern for strings.
pub(super) fn number_or(pattern: &str, least: i64) -> Value {
    json!({ "x-kubernetes-int-or-string": true, "minimum": least, "pattern": pattern })
}

/// A word in place of a mapping. No type fits both: what else the mapping holds is for the file's readers.
pub(super) fn either(mut mapping: Value, pattern: &str) -> Value {
    if let Some(schema) = mapping.as_object_mut() {
        schema.remove("type");
    }
    mapping["x-kubernetes-preserve-unknown-fields"] = true.into();
    mapping["pattern"] = pattern.into();
    mapping
}

pub(super) fn text(pattern: &str, most: u32) -> Value {
    json!({ "type": "string", "pattern": pattern, "minLength": 1, "maxLength": most })
}

/// `250ms`, `30s`, `2h5m`, inside the bounds.
pub(super) fn duration(least: &str, most: &str) -> Value {
    of_duration("^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", &bounds(least, most), least, most)
}

/// The same of whole seconds.
pub(super) fn seconds(least: &str, most: &str) -> Value {
    of_duration("^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", &bounds(least, most), least, most)
}

/// `0s`, or whole seconds inside the bounds.
pub(super) fn never_or_seconds(least: &str, most: &str) -> Value {
    let bounds = format!("duration(self) == duration('0s') || {}", bounds(least, most));
    of_duration("^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", &bounds, least, most)
}

fn bounds(least: &str, most: &str) -> String {
    format!("duration(self) >= duration('{least}') && duration(self) <= duration('{most}')")
}

fn of_duration(pattern: &str, bounds: &str, least: &str, most: &str) -> Value {
    let schema = json!({ "type": "string", "pattern": pattern, "minLength": 2, "maxLength": 24 });
    rule(schema, bounds, &format!("must be a duration {least}..={most}"))
}

/// Addresses of one family, or of both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    Any,
}

/// Whether `${XDP_LB_...}` may stand in a value that each node has of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Yes,
    No,
}

/// What is not known here, for each node says it.
const OWN: &str = "self.contains('${XDP_LB_') || ";

/// A unicast address.
pub(super) fn address(family: Family, own: Own) -> Value {
    let (of, what) = match family {
        Family::V4 => (" && ip(self).family() == 4", "an IPv4 address"),
        Family::V6 => (" && ip(self).family() == 6", "an IPv6 address"),
        Family::Any => ("", "an IPv4 or IPv6 address"),
    };
    let own = if own == Own::Yes { OWN } else { "" };
    let schema = json!({ "type": "string", "minLength": 2, "maxLength": 64 });
    let known = format!("{own}(isIP(self) && ip(self).isGlobalUnicast(){of})");
    rule(schema, &known, &format!("must be {what} of one host"))
}

/// A network address and a prefix length.
pub(super) fn prefix(family: Family, least: u8, own: Own) -> Value {
    let (of, what) = match family {
        Family::V4 => (" && cidr(self).ip().family() == 4", "an IPv4 prefix"),
        Family::V6 => (" && cidr(self).ip().family() == 6", "an IPv6 prefix"),
        Family::Any => ("", "a prefix"),
    };
    let own = if own == Own::Yes { OWN } else { "" };
    let schema = json!({ "type": "string", "minLength": 4, "maxLength": 64 });
    let known = format!(
        "{own}(isCIDR(self) && cidr(self) == cidr(self).masked() && cidr(self).prefixLength() >= {least}{of})"
    );
    rule(schema, &known, &format!("must be {what} of length {least} or more, without bits set after it"))
}

/// Whether an address has a port behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Must,
    May,
}

/// An address with a port, `10.0.0.11:9411` or `[fd00::11]:9411`.
pub(super) fn endpoint(port: Port, own: Own) -> Value {
    let with = "(self.matches('^[0-9.]+:[0-9]{1,5}$') && isIP(self.substring(0, self.lastIndexOf(':'))) || \
                self.matches('^[[][^]]+[]]:[0-9]{1,5}$') && isIP(self.substring(1, self.lastIndexOf(']'))))";
    let (bare, what) = match port {
        Port::Must => ("", "an address and a port, as in ${XDP_LB_NODE_IP}:9411"),
        Port::May => ("isIP(self) && ip(self).isGlobalUnicast() || ", "an address, with or without a port"),
    };
    let own = if own == Own::Yes { OWN } else { "" };
    let schema = json!({ "type": "string", "minLength": 2, "maxLength": 64 });
    rule(schema, &format!("{own}{bare}{with}"), &format!("must be {what}"))
}
