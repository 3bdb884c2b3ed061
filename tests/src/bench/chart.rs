//! The result as a picture: a bar for each row, split where the limit ends.

use std::fmt::Write as _;

use super::report::{FLOOR, LIMIT, Report};

const WIDTH: u32 = 860;
const LEFT: u32 = 230;
const ROW: u32 = 22;
const TOP: u32 = 46;

/// An SVG document.
#[must_use]
pub fn svg(report: &Report) -> String {
    let of =
        |name: &str| report.rows.iter().find(|line| line.name == name).map_or(0, |line| line.measured.median);
    let (floor, limit) = (of(FLOOR), of(LIMIT));
    let longest = report.rows.iter().map(|line| line.measured.median).max().unwrap_or(1).max(1);
    let room = f64::from(WIDTH - LEFT - 110);
    let x = |ns: u32| f64::from(ns) / f64::from(longest) * room;
    let height = TOP + ROW * report.rows.len() as u32 + 30;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\" font-weight=\"bold\">Nanoseconds a packet: harness, limit, and what \
         the balancer adds</text>\n<text x=\"10\" y=\"34\" fill=\"#555\">{}</text>\n",
        escape(&report.machine)
    );
    for (n, line) in report.rows.iter().enumerate() {
        let (y, ns) = (TOP + ROW * n as u32, line.measured.median);
        let parts =
            [(0, ns.min(floor), "#c8ccd2"), (floor, ns.min(limit), "#8fa3bf"), (limit, ns, "#c8553d")];
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            y + 14,
            escape(&line.name)
        );
        for (from, to, colour) in parts.into_iter().filter(|(from, to, _)| to > from) {
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>",
                f64::from(LEFT) + x(from),
                y + 3,
                x(to) - x(from),
                ROW - 6
            );
        }
        let above = i64::from(ns) - i64::from(limit);
        let label = if line.name == FLOOR || line.name == LIMIT {
            format!("{ns}")
        } else {
            format!("{ns}  ({above:+})")
        };
        let _ =
            writeln!(out, "<text x=\"{:.1}\" y=\"{}\">{label}</text>", f64::from(LEFT) + x(ns) + 6.0, y + 14);
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#555\">grey: harness (floor), blue: one adjust_head and a constant header \
         (limit), red: above the limit</text>\n</svg>",
        height - 10
    );
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
