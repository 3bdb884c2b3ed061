//! What the allocator does with memory that is freed.

/// Blocks of this size and more, in bytes, are mappings of their own, given back when they are freed: glibc's first
/// threshold.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: i32 = 128 << 10;

/// Keeps glibc from raising its threshold with every large block that is freed: a configuration of ten thousand services
/// is read, put in force and freed again, and its holes stayed the agent's for ever. Elsewhere it does nothing. To be
/// called before there are other threads.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a parameter of the allocator is set, by the only thread. It cannot fail for a valid parameter, and where it
    // did the program would only be larger.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}
