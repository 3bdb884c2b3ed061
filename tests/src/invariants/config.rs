//! Configuration: every answer is the same twice, and errors stand inside the text and say something.
//!
//! Input: the file.

use xdp_lb::config;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let first = config::parse(&text);
    assert_eq!(config::parse(&text), first);
    let lines = u32::try_from(text.split(['\n', '\r']).count()).expect("a short text");
    let placed = |line: u32, column: u32, message: &str| {
        assert!(
            (1..=lines + 1).contains(&line) && column >= 1,
            "{line}:{column} of {lines} lines: {message}"
        );
        assert!(!message.is_empty());
        assert!(!message.contains("please report"), "{message}");
    };
    match first {
        Ok(checked) => {
            for warning in &checked.warnings {
                placed(warning.line, warning.column, &warning.message);
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.is_sorted_by_key(|error| error.line), "{errors:?}");
            for error in &errors {
                placed(error.line, error.column, &error.message);
            }
        }
    }
}
