//! Values out of memory that packets write meanwhile. Here, because this crate is optimized in test builds too: the agent
//! reads whole tables with it, before every change.

use core::sync::atomic::{AtomicU64, Ordering};

/// Copies `words` to `bytes`, as far as both go: torn at most between words.
pub fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(size_of::<u64>())) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
}

/// Copies `bytes` to `words`, as far as both go: who looks meanwhile may see a part.
pub fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    for (word, bytes) in words.iter().zip(bytes.as_chunks().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_is_what_went_in_and_no_more() {
        let words = [const { AtomicU64::new(7) }; 3];
        copy_in(&words, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9]);
        let mut bytes = [0; 24];
        copy_out(&words, &mut bytes);
        assert_eq!(bytes[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(bytes[16..], 7u64.to_ne_bytes());
        let mut fewer = [0; 8];
        copy_out(&words, &mut fewer);
        assert_eq!(fewer, bytes[..8]);
    }
}
