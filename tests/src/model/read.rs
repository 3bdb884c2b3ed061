//! Numbers in network order out of bytes; `None` beyond their end.

/// What the model reads with.
pub(super) trait Read {
    /// `N` bytes at `at`.
    fn some<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// One byte.
    fn byte(&self, at: usize) -> Option<u8> {
        self.some::<1>(at).map(|[byte]| byte)
    }

    /// Two bytes.
    fn short(&self, at: usize) -> Option<u16> {
        self.some(at).map(u16::from_be_bytes)
    }

    /// Four bytes.
    fn long(&self, at: usize) -> Option<u32> {
        self.some(at).map(u32::from_be_bytes)
    }
}

impl Read for [u8] {
    fn some<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
