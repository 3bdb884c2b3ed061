//! The memory of a `BPF_F_MMAPABLE` array as this process sees it. The only `unsafe` that touches map memory.
//!
//! ```text
//!   page: | element 0 | pad to 8 | element 1 | pad | ...       index * stride + offset_of!(T, field)
//! ```
//!
//! Packets read the same memory while we write it. Whole elements are moved in 8-byte words, so a copy is torn at
//! most between words; what changes under traffic is one aligned field, stored at once. Everything is an atomic
//! access: to the language a program on another CPU is one more thread.

use std::{
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use bytemuck::Pod;
use xdp_lb_common::memory::{copy_in, copy_out};

use super::errors;

const WORD: usize = size_of::<u64>();

/// The elements of an array map.
pub struct Mapped<T> {
    base: NonNull<u8>,
    bytes: NonZeroUsize,
    elements: u32,
    writable: bool,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone, is unmapped with it, and is accessed by atomics only.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Bytes from one element to the next: the kernel rounds values up to 8.
    const STRIDE: usize = size_of::<T>().next_multiple_of(WORD);
    const WHOLE_WORDS: () = assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0);

    /// Maps `elements` elements of the array `map`.
    ///
    /// # Errors
    /// What `mmap` says: `EPERM` for a map that is not mappable or frozen, `EINVAL` when it is smaller.
    pub fn new(map: BorrowedFd<'_>, elements: u32, writable: bool) -> io::Result<Self> {
        let () = Self::WHOLE_WORDS;
        let bytes = NonZeroUsize::new(elements as usize * Self::STRIDE)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a map without elements"))?;
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice; no memory of ours is replaced.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes.get(), protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { base, bytes, elements, writable, element: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> u32 {
        self.elements
    }

    /// A copy of an element; `None` outside the map.
    pub fn read(&self, index: u32) -> Option<T> {
        let mut value = T::zeroed();
        copy_out(self.words(index, 1)?, bytemuck::bytes_of_mut(&mut value));
        Some(value)
    }

    /// Copies of up to `most` elements in a row; fewer where the map ends.
    pub fn read_row(&self, first: u32, most: usize) -> Vec<T> {
        let mut row = vec![T::zeroed(); most.min(self.elements.saturating_sub(first) as usize)];
        if let Some(words) = self.words(first, row.len()) {
            copy_out(words, bytemuck::cast_slice_mut(&mut row));
        }
        row
    }

    /// One aligned 4-byte field of an element, with what was stored before it; `None` outside the map.
    pub fn load_u32(&self, index: u32, offset: usize) -> Option<u32> {
        let field = self.field::<u32>(index, offset)?;
        // SAFETY: `field` checked bounds and alignment; the mapping lives as long as `self`.
        Some(unsafe { AtomicU32::from_ptr(field) }.load(Ordering::Acquire))
    }

    /// Writes an element word by word; packets that look at it meanwhile may see a part.
    pub fn write(&self, index: u32, value: &T) -> io::Result<()> {
        self.may_write()?;
        copy_in(self.words(index, 1).ok_or_else(errors::outside)?, bytemuck::bytes_of(value));
        Ok(())
    }

    /// Writes a part of an element in 4-byte words; packets must not be looking at it.
    pub fn write_part<P: Pod>(&self, index: u32, offset: usize, part: &P) -> io::Result<()> {
        const { assert!(size_of::<P>().is_multiple_of(4)) };
        for (word, bytes) in bytemuck::bytes_of(part).chunks_exact(4).enumerate() {
            let mut to_store = [0; 4];
            to_store.copy_from_slice(bytes);
            self.store_u32(index, offset + 4 * word, u32::from_ne_bytes(to_store))?;
        }
        Ok(())
    }

    /// Stores a 2-byte field at once, after everything stored before.
    pub fn store_u16(&self, index: u32, offset: usize, value: u16) -> io::Result<()> {
        let field = self.writable_field::<u16>(index, offset)?;
        // SAFETY: `field` checked bounds and alignment; the mapping lives as long as `self`.
        unsafe { AtomicU16::from_ptr(field) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Stores a 4-byte field at once, after everything stored before.
    pub fn store_u32(&self, index: u32, offset: usize, value: u32) -> io::Result<()> {
        let field = self.writable_field::<u32>(index, offset)?;
        // SAFETY: as in `store_u16`.
        unsafe { AtomicU32::from_ptr(field) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Stores an 8-byte field at once, after everything stored before.
    pub fn store_u64(&self, index: u32, offset: usize, value: u64) -> io::Result<()> {
        let field = self.writable_field::<u64>(index, offset)?;
        // SAFETY: as in `store_u16`.
        unsafe { AtomicU64::from_ptr(field) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Replaces a 2-byte field if it still is `old`; says whether it was.
    pub fn swap_u16(&self, index: u32, offset: usize, old: u16, new: u16) -> io::Result<bool> {
        let field = self.writable_field::<u16>(index, offset)?;
        // SAFETY: as in `store_u16`.
        let field = unsafe { AtomicU16::from_ptr(field) };
        Ok(field.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Replaces an 8-byte field if it still is `old`; says whether it was.
    pub fn swap_u64(&self, index: u32, offset: usize, old: u64, new: u64) -> io::Result<bool> {
        let field = self.writable_field::<u64>(index, offset)?;
        // SAFETY: as in `store_u16`.
        let field = unsafe { AtomicU64::from_ptr(field) };
        Ok(field.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// The words of `len` elements from `first` on; `None` when one is outside the map.
    fn words(&self, first: u32, len: usize) -> Option<&[AtomicU64]> {
        let first = first as usize;
        if first.checked_add(len)? > self.elements as usize {
            return None;
        }
        // SAFETY: all of it is inside the mapping, which starts with a page and holds whole words; the borrow of `self`
        // keeps it.
        Some(unsafe {
            let start = self.base.add(first * Self::STRIDE).cast::<AtomicU64>();
            std::slice::from_raw_parts(start.as_ptr(), len * Self::STRIDE / WORD)
        })
    }

    fn writable_field<F>(&self, index: u32, offset: usize) -> io::Result<*mut F> {
        self.may_write()?;
        self.field(index, offset).ok_or_else(errors::outside)
    }

    /// A field inside an element, aligned to its own size; the base is a page, elements are multiples of 8.
    fn field<F>(&self, index: u32, offset: usize) -> Option<*mut F> {
        let fits =
            offset.checked_add(size_of::<F>())? <= size_of::<T>() && offset.is_multiple_of(size_of::<F>());
        if index >= self.elements || !fits {
            return None;
        }
        // SAFETY: inside the mapping: index < elements and the field ends inside the element.
        Some(unsafe { self.base.add(index as usize * Self::STRIDE + offset) }.cast().as_ptr())
    }

    fn may_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `mmap` gave; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes.get()) };
    }
}
