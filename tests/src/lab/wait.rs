//! Waiting with a bound: the one place where the lab sleeps.
//!
//! Everything that has to wait for the kernel or for another process polls a condition here; nothing in the lab
//! sleeps and hopes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Polls `look` until it returns `Some`, for at most `bound`.
///
/// # Errors
/// Names `what` and the bound when it never did.
pub fn wait_for<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        // Looking once more after the bound has passed gives a starved machine a fair last chance.
        let late = start.elapsed() >= bound;
        if let Some(found) = look() {
            return Ok(found);
        }
        if late {
            bail!("waited {bound:?} for {what}, in vain");
        }
        std::thread::sleep(pause.min(bound));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Polls `condition` until it holds, for at most `bound`.
///
/// # Errors
/// Names `what` and the bound when it never held.
pub fn wait_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, bound, || condition().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_and_says_on_what() {
        let error = wait_until("a cow to fly", Duration::from_millis(5), || false).unwrap_err();
        assert!(error.to_string().contains("a cow to fly"), "{error}");
    }

    #[test]
    fn returns_as_soon_as_it_holds() {
        let mut looks = 0;
        wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }
}
