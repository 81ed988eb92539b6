//! Bytes that start at a page: a GPU driver can lock them, and any element type can be read.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// What a buffer is made of: a page of every common system.
const PAGE_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// Bytes that start at a page. Growing keeps them, shrinking gives no memory back.
#[derive(Debug, Default)]
pub(crate) struct AlignedBytes {
    pages: Vec<Page>,
    bytes: usize,
}

impl AlignedBytes {
    /// Makes it `bytes` long; what is new is zero or what stood there before.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let pages = bytes.div_ceil(PAGE_BYTES);
        if pages > self.pages.len() {
            self.pages.resize(pages, Page::zeroed());
        }
        self.bytes = bytes;
    }

    /// The memory it holds.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        (self.pages.capacity() * PAGE_BYTES) as u64
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.bytes]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_a_page_and_keeps_its_bytes() {
        let mut bytes = AlignedBytes::default();
        assert!(bytes.is_empty());
        bytes.resize(5);
        bytes.copy_from_slice(b"hello");
        bytes.resize(9000);
        assert_eq!((&bytes[..5], bytes.len()), (&b"hello"[..], 9000));
        assert_eq!(bytes.as_ptr() as usize % PAGE_BYTES, 0);
        bytes.resize(3);
        assert_eq!(&*bytes, b"hel");
    }
}
