//! The command line of `xdp-lb-lab`, which is that of `cargo xtask run`.

use std::time::Duration;

use clap::Parser;

/// Shorter, and requests lost to a dead backend would not fail within the step that kills it.
pub const SHORTEST: Duration = Duration::from_secs(12);
/// Longer, and the traffic's own bound would end it.
pub const LONGEST: Duration = Duration::from_secs(1800);

/// Shows the balancer at work in a lab of network namespaces on this machine.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "xdp-lb-lab", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 every request was answered (those to the killed backend, until it was marked down, \
are reported and excused), 1 something was lost or could not be shown, 2 bad usage, 130 Ctrl-C before there was anything \
to show. Ctrl-C later ends the show in order: the code then says what was lost until then."
)]
pub struct Arguments {
    /// How long the traffic runs: 30s, 2m. Without it the show takes 34 s, and on a terminal goes on until Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    pub length: Option<Duration>,
    /// Leave the lab up, and say how to look around in it
    #[arg(long)]
    pub keep: bool,
    /// Take away the labs that earlier runs left up with --keep, and end
    #[arg(long, conflicts_with_all = ["length", "keep", "bgp"])]
    pub clean: bool,
    /// The router is FRR, and the edge nodes announce the VIPs to it by BGP
    #[arg(long)]
    pub bgp: bool,
    /// No colours, as with NO_COLOR=1
    #[arg(long)]
    pub no_color: bool,
}

/// A number with a unit.
fn length(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("write a number and a unit: 30s, 2m, 15000ms".into()),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{digits:?} is no whole number"))?;
    let length = Duration::from_millis(number.saturating_mul(unit));
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(length)
    } else {
        Err(format!("the show takes {} s to {} m", SHORTEST.as_secs(), LONGEST.as_secs() / 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units_and_bounds() {
        assert_eq!(length("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(length("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(length("12500ms"), Ok(Duration::from_millis(12500)));
        for bad in ["30", "s", "", "3h", "-5s", "1.5m", "11s", "31m", "99999999999999999999s"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert_eq!(parse("x --for 30s --keep").unwrap().length, Some(Duration::from_secs(30)));
        assert!(parse("x --for=1m --no-color").unwrap().no_color);
        assert!(parse("x --bgp --for 30s").unwrap().bgp);
        assert!(parse("x --clean --keep").is_err());
    }
}
