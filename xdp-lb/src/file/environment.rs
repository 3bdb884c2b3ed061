//! What differs from node to node and one file cannot know: `${XDP_LB_NODE_IP}` in a configuration is what the
//! environment says. Called when texts are read, so that everything behind sees plain text.

use crate::config::{ConfigError, Document};

/// How such a name begins, in the text.
const BEGINS: &str = "${XDP_LB_";

/// The text with every `${XDP_LB_...}` replaced by what `get` says of that name. Other `${` stay as they are.
///
/// # Errors
/// Every name that is not set, or whose value is empty or would not stay on its line, with its place.
pub(crate) fn expand(text: &str, get: impl Fn(&str) -> Option<String>) -> Result<String, Vec<ConfigError>> {
    let mut expanded = String::with_capacity(text.len());
    let mut errors = Vec::new();
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let mut rest = line;
        while let Some(at) = rest.find(BEGINS) {
            let (before, from) = rest.split_at(at);
            expanded.push_str(before);
            let name: &str = &from[2..];
            let length = name.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
            let length = length.filter(|end| name[*end..].starts_with('}'));
            let fault = match length.map(|length| get(&name[..length])) {
                Some(Some(value)) if value.is_empty() => "is empty in the environment",
                Some(Some(value)) if value.contains(char::is_control) => {
                    "has more than one line in the environment"
                }
                Some(Some(value)) => {
                    expanded.push_str(&value);
                    ""
                }
                Some(None) => "is not set in the environment",
                None => "must be capitals, digits and _, and end with a brace",
            };
            let end = length.map_or(from.len(), |length| 2 + length + 1);
            if !fault.is_empty() {
                let column = line.len() - from.len();
                let column = u32::try_from(line[..column].chars().count() + 1).unwrap_or(u32::MAX);
                errors.push(ConfigError {
                    file: None,
                    line: number,
                    column,
                    path: String::new(),
                    message: format!("{} {fault}", from[..end].trim_end()),
                });
            }
            rest = &from[end..];
        }
        expanded.push_str(rest);
    }
    if errors.is_empty() { Ok(expanded) } else { Err(errors) }
}

/// The same of resources, whose mistakes have no lines.
///
/// # Errors
/// As [`expand`].
pub(crate) fn expand_all(
    documents: &[Document],
    get: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Document>, Vec<ConfigError>> {
    let (mut expanded, mut errors) = (Vec::new(), Vec::new());
    for document in documents {
        match expand(&document.text, &get) {
            Ok(text) => expanded.push(Document { text, ..document.clone() }),
            Err(found) => errors.extend(found.into_iter().map(|error| ConfigError {
                file: Some(document.name.clone()),
                line: 0,
                column: 0,
                path: "spec".to_owned(),
                ..error
            })),
        }
    }
    if errors.is_empty() { Ok(expanded) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Vec<String>> {
        let get = |name: &str| match name {
            "XDP_LB_NODE_IP" => Some("10.0.0.1".to_owned()),
            "XDP_LB_EMPTY" => Some(String::new()),
            "XDP_LB_LINES" => Some("a\nb".to_owned()),
            _ => None,
        };
        let show = |e: ConfigError| format!("{}:{} {}", e.line, e.column, e.message);
        expand(text, get).map_err(|errors| errors.into_iter().map(show).collect())
    }

    #[test]
    fn names_become_values_and_all_else_stays() {
        let text = "a: ${XDP_LB_NODE_IP}/32 # ${XDP_LB_NODE_IP}\nb: ${HOME} $5 ${ é\n";
        let wanted = "a: 10.0.0.1/32 # 10.0.0.1\nb: ${HOME} $5 ${ é\n";
        assert_eq!(expanded(text), Ok(wanted.to_owned()));
        assert_eq!(expanded("no newline"), Ok("no newline".to_owned()));
    }

    #[test]
    fn every_mistake_has_its_place() {
        let text = "é: ${XDP_LB_NODE} ${XDP_LB_EMPTY}\n- ${XDP_LB_LINES}\n- ${XDP_LB_x}\n- ${XDP_LB_NODE_IP";
        let wanted = [
            "1:4 ${XDP_LB_NODE} is not set in the environment",
            "1:19 ${XDP_LB_EMPTY} is empty in the environment",
            "2:3 ${XDP_LB_LINES} has more than one line in the environment",
            "3:3 ${XDP_LB_x} must be capitals, digits and _, and end with a brace",
            "4:3 ${XDP_LB_NODE_IP must be capitals, digits and _, and end with a brace",
        ];
        assert_eq!(expanded(text), Err(wanted.map(str::to_owned).to_vec()));
    }
}
