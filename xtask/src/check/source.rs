//! Reads this workspace's Rust sources: which files there are, and their code without comments and literals.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Folders of the workspace's members.
const MEMBERS: [&str; 5] = ["xdp-lb-common", "xdp-lb-ebpf", "xdp-lb", "tests", "xtask"];

/// All `.rs` files of the workspace, relative to its root, sorted.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = MEMBERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        if !full.exists() {
            continue;
        }
        for entry in full.read_dir().with_context(|| format!("read {}", full.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The code with comments, strings and character literals blanked; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = at + literal_or_comment(&bytes[at..], at.checked_sub(1).map(|i| bytes[i]));
        if end == at {
            out.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { '?' });
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Length of the comment or literal that begins here; 0 when code does.
fn literal_or_comment(rest: &[u8], previous: Option<u8>) -> usize {
    let upto = |mark: &[u8], from: usize| {
        let found = rest.get(from..).and_then(|tail| tail.windows(mark.len()).position(|w| w == mark));
        found.map_or(rest.len(), |i| from + i + mark.len())
    };
    match rest {
        [b'/', b'/', ..] => upto(b"\n", 0),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, 1),
        [b'r', b'"' | b'#', ..]
            if !previous.is_some_and(|p| p.is_ascii_alphanumeric() && p != b'b' && p != b'c') =>
        {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            // `r#name` is an identifier.
            if rest.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            let mark: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            upto(&mark, hashes + 2)
        }
        [b'\'', b'\\', _, ..] => upto(b"'", 3),
        // A lifetime has no closing quote: 'a' is a literal, 'a is not.
        [b'\'', ..] => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]))
                .ok()
                .and_then(|text| text.chars().next())
                .map_or(1, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let blank = |text| code_only(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(blank("a // unsafe\nb /* unsafe /* x */ y */ c"), "a b c");
        assert_eq!(blank(r#"let s = "unsafe \" {"; t"#), "let s = ; t");
        assert_eq!(blank("r#\"unsafe \" x\"# after"), "after");
        assert_eq!(blank("br\"un\\\" after"), "b after");
        assert_eq!(
            blank("fn f<'a>(x: &'a str) { '\\''; '\"'; 'é'; unsafe {} }"),
            "fn f<'a>(x: &'a str) { ; ; ; unsafe {} }"
        );
        assert_eq!(blank("r#type + 1"), "r#type + 1");
    }

    #[test]
    fn lines_stay() {
        let text = "/* a\nb */\n\"c\nd\"\ne";
        assert_eq!(code_only(text).lines().count(), text.lines().count());
    }
}
