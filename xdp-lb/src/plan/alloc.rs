//! Finds room in a map for a range of consecutive entries: first fit among what is not in use.

/// Ranges in use of one map.
#[derive(Debug, Default)]
pub struct Ranges {
    /// Sorted by start, disjoint.
    used: Vec<(u32, u32)>,
    capacity: u32,
}

impl Ranges {
    /// Of a map with `capacity` entries where `used` ranges (start, length) are taken.
    pub fn new(capacity: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut used: Vec<_> = used.into_iter().filter(|&(_, len)| len > 0).collect();
        used.sort_unstable();
        Self { used, capacity }
    }

    /// Takes `len` consecutive entries; `None` when there is no such gap.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let mut start = 0u32;
        let mut at = self.used.len();
        for (i, &(s, l)) in self.used.iter().enumerate() {
            if s.checked_sub(start)? >= len {
                at = i;
                break;
            }
            start = s.checked_add(l)?;
        }
        if start.checked_add(len)? > self.capacity {
            return None;
        }
        self.used.insert(at, (start, len));
        Some(start)
    }

    /// Entries that are not taken.
    pub fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.used.iter().map(|&(_, len)| len).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fit() {
        let mut r = Ranges::new(20, [(12, 4), (0, 4)]);
        assert_eq!(r.take(9), None);
        assert_eq!(r.take(8), Some(4));
        assert_eq!(r.take(1), Some(16));
        assert_eq!(r.free(), 3);
        assert_eq!(r.take(3), Some(17));
        assert_eq!(r.take(1), None);
    }
}
