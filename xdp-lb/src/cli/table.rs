//! Aligned columns for people: two spaces between them, numbers to the right, no lines drawn.

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed with its header, or not at all when it has no rows.
pub struct Table {
    header: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(header: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each with its end.
    pub fn render(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.header[column].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header: Vec<String> = self.header.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), (_, align)) in row.iter().zip(&widths).zip(&self.header) {
                match align {
                    Align::Left => line += &format!("{cell:<width$}  "),
                    Align::Right => line += &format!("{cell:>width$}  "),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// `name: value` lines with the values in one column.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count() + 1).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{:<width$} {value}\n", format!("{name}:"))).collect()
}

/// Bytes with a binary prefix: `512 B`, `8.0 MiB`.
pub fn bytes(n: u64) -> String {
    const PREFIXES: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut prefix = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && prefix + 1 < PREFIXES.len() {
        value /= 1024.0;
        prefix += 1;
    }
    format!("{value:.1} {}", PREFIXES[prefix])
}

/// Seconds as people say them, two units at most: `45s`, `3m 20s`, `2h 5m`, `4d 1h`.
pub fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|&(unit, _)| seconds >= unit) else { return "0s".to_owned() };
    let (unit, name) = UNITS[first];
    let text = format!("{}{name}", seconds / unit);
    match UNITS.get(first + 1) {
        Some(&(next, name)) if seconds % unit >= next => format!("{text} {}{name}", seconds % unit / next),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let mut table = Table::new([("NAME", Align::Left), ("PACKETS", Align::Right), ("NOTE", Align::Left)]);
        assert_eq!(table.render(), "");
        table.row(["sip".into(), "7".into(), String::new()]);
        table.row(["turn-relay".into(), "12345678".into(), "ü".into()]);
        assert_eq!(
            table.render(),
            "NAME         PACKETS  NOTE\nsip                7\nturn-relay  12345678  ü\n"
        );
    }

    #[test]
    fn numbers_as_people_say_them() {
        assert_eq!(
            [0, 1023, 1024, 1536, 8 << 20, (1 << 20) - 1, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "8.0 MiB", "1.0 MiB", "16384.0 PiB"]
        );
        assert_eq!(
            [0, 59, 60, 200, 3600, 7500, 86_400 * 4 + 3700].map(duration),
            ["0s", "59s", "1m", "3m 20s", "1h", "2h 5m", "4d 1h"]
        );
    }
}
