//! Rounds over all rows, interleaved: what disturbs the machine disturbs every row alike.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::harness::Bench;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Packets of one measurement.
    pub batch: u32,
    /// Measurements of each row, one a round.
    pub rounds: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { batch: 200_000, rounds: 15 }
    }
}

/// Nanoseconds a packet of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Best round.
    #[serde(rename = "min_ns")]
    pub min: u32,
    /// Middle round.
    #[serde(rename = "median_ns")]
    pub median: u32,
    /// Worst round.
    #[serde(rename = "max_ns")]
    pub max: u32,
    /// Half the distance between the quartiles of the rounds: what the machine's moods make of a median.
    #[serde(rename = "noise_ns")]
    pub noise: u32,
}

impl Measured {
    /// Of the rounds of one row; `None` when there were none.
    pub(super) fn of(mut rounds: Vec<u32>) -> Option<Self> {
        if rounds.is_empty() {
            return None;
        }
        rounds.sort_unstable();
        let at = |quarters: usize| rounds.get((rounds.len() - 1) * quarters / 4).copied();
        let (min, max) = (*rounds.first()?, *rounds.last()?);
        Some(Self { min, median: at(2)?, max, noise: (at(3)? - at(1)?).div_ceil(2) })
    }
}

/// Measures every row. The order changes with each round, so that no row always follows the same one.
///
/// # Errors
/// The first row that cannot be run.
pub fn measure(rows: &mut [Bench], effort: Effort) -> Result<Vec<Measured>> {
    let mut samples = vec![Vec::with_capacity(effort.rounds); rows.len()];
    for round in 0..effort.rounds.max(1) {
        for position in 0..rows.len() {
            let index = (position + round) % rows.len();
            // The caches are the last row's: not part of what this one costs.
            rows[index].run((effort.batch / 10).max(1))?;
            samples[index].push(rows[index].run(effort.batch)?);
        }
    }
    Ok(samples.into_iter().filter_map(Measured::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_round() {
        assert_eq!(Measured::of(vec![9, 1, 5]), Some(Measured { min: 1, median: 5, max: 9, noise: 2 }));
        assert_eq!(Measured::of(vec![7; 4]), Some(Measured { min: 7, median: 7, max: 7, noise: 0 }));
        assert_eq!(Measured::of(vec![]), None);
    }
}
