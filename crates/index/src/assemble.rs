//! Files' extents become the pages of splits.

use forebay_format::{
    record,
    v1::index::{
        EXTENTS_PER_PAGE, ExtentEntry, IndexPage, IndexPageEntry, IndexSplit, index_page_key,
    },
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::crash_point;
use forebay_types::{Digest, DigestWriter, Form, Split};

use crate::Error;

/// The most that the entries of one page may take, roughly: a record is at most 16 MiB, and may
/// spell a character of a form with six.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// The bytes that an entry takes on a page, roughly.
fn entry_bytes(extent: &ExtentEntry) -> usize {
    let form = if let Form::Dialect(text) = &extent.form { text.len() } else { 0 };
    512 + extent.file.as_str().len() + 8 * extent.blocks_crc32c.len() + form
}

/// Divides extents into runs that fit on a page.
pub(crate) fn pages(mut extents: &[ExtentEntry]) -> impl Iterator<Item = &[ExtentEntry]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |extent: &&ExtentEntry| {
            bytes += entry_bytes(extent);
            bytes <= PAGE_BYTES_MAX
        };
        let count = extents.iter().take(EXTENTS_PER_PAGE as usize).take_while(fits).count();
        let (page, rest) = extents.split_at(count.max(1).min(extents.len()));
        extents = rest;
        (!page.is_empty()).then_some(page)
    })
}

/// A split on its way; holds the extents of one page at most.
#[derive(Debug)]
pub(crate) struct Assembly<'a> {
    lake: &'a Lake,
    entry: IndexSplit,
    page: Vec<ExtentEntry>,
    page_bytes: usize,
    /// Over every extent's digest and rows.
    identity: DigestWriter,
}

impl<'a> Assembly<'a> {
    pub(crate) fn new(lake: &'a Lake, split: Split) -> Self {
        let entry = IndexSplit {
            split,
            rows: 0,
            rows_per_portion: 1,
            extents: 0,
            content_bytes: 0,
            extent_bytes_max: 0,
            pages: Vec::new(),
        };
        let mut identity = DigestWriter::for_context("forebay index 1: extents of a split");
        identity.update(split.as_str().as_bytes());
        Self { lake, entry, page: Vec::new(), page_bytes: 0, identity }
    }

    pub(crate) const fn split(&self) -> Split {
        self.entry.split
    }

    /// Adds the extent that follows.
    pub(crate) fn add(&mut self, extent: ExtentEntry) -> Result<(), Error> {
        let bytes = entry_bytes(&extent);
        let full = self.page.len() >= EXTENTS_PER_PAGE as usize
            || self.page_bytes.saturating_add(bytes) > PAGE_BYTES_MAX;
        if full {
            self.write_page()?;
        }
        self.identity.update(extent.digest.as_bytes()).update(&extent.rows.to_le_bytes());
        self.entry.rows += u64::from(extent.rows);
        self.entry.extents += 1;
        self.entry.content_bytes += extent.bytes;
        self.entry.extent_bytes_max = self.entry.extent_bytes_max.max(extent.bytes);
        self.page_bytes += bytes;
        self.page.push(extent);
        Ok(())
    }

    /// The split, all its pages written, and the digest of its extents.
    pub(crate) fn finish(mut self) -> Result<(IndexSplit, Digest), Error> {
        self.write_page()?;
        self.entry.rows_per_portion = rows_per_portion(self.entry.rows, self.entry.extents);
        Ok((self.entry, self.identity.finish()))
    }

    fn write_page(&mut self) -> Result<(), Error> {
        let page = IndexPage { extents: std::mem::take(&mut self.page) };
        self.page_bytes = 0;
        if page.extents.is_empty() {
            return Ok(());
        }
        let rows: u64 = page.extents.iter().map(|extent| u64::from(extent.rows)).sum();
        let (first_extent, first_row) =
            (self.entry.extents - page.extents.len() as u64, self.entry.rows - rows);
        let (bytes, digest) = record::encode(&page)?;
        let key = index_page_key(digest);
        if self.lake.size(&key)? != Some(bytes.len() as u64) {
            self.lake.write(&key, Purpose::Manifest, &bytes)?;
        }
        crash_point("index.page");
        self.entry.pages.push(IndexPageEntry { digest, first_extent, first_row });
        Ok(())
    }
}

/// The mean rows of an extent, so that a portion lies in one extent or two where they are alike:
/// smaller portions would fetch the same extent for several, larger ones several for each.
fn rows_per_portion(rows: u64, extents: u64) -> u32 {
    let mean = (rows + extents / 2).checked_div(extents).unwrap_or(1);
    u32::try_from(mean).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use forebay_types::Key;

    use super::*;

    fn extent(form: Form) -> ExtentEntry {
        ExtentEntry {
            file: Key::new("a.parquet").unwrap(),
            offset: 0,
            stored_bytes: 1,
            form,
            digest: Digest::of(b"a"),
            bytes: 1,
            rows: 1,
            blocks_crc32c: vec![7],
        }
    }

    #[test]
    fn portions_are_as_large_as_the_mean_extent() {
        let found = [(0, 0), (1, 1), (7, 2), (10, 3), (u64::MAX / 2, 1)]
            .map(|(rows, extents)| rows_per_portion(rows, extents));
        assert_eq!(found, [1, 1, 4, 3, u32::MAX]);
    }

    #[test]
    fn pages_end_with_their_count_or_their_bytes() {
        let lengths = |extents: &[ExtentEntry]| pages(extents).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&vec![extent(Form::Plain); 513]), [256, 256, 1]);
        // The worst that JSON does to a character is to spell it with six.
        let wide = extent(Form::Dialect("\u{1}".repeat(1 << 20)));
        assert_eq!(lengths(&vec![wide.clone(); 3]), [1, 1, 1]);
        let wide = vec![extent(Form::Dialect("\u{1}".repeat(30_000))); 256];
        for page in pages(&wide) {
            record::encode(&IndexPage { extents: page.to_vec() }).unwrap();
        }
        // What fits on no page has one of its own; whether it can be written, its record says.
        let vast = extent(Form::Dialect("x".repeat(3 << 20)));
        assert_eq!(lengths(&[vast.clone(), vast]), [1, 1]);
    }
}
