//! The place of a row, for extents of any size, against a plain model; and pages that lie.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;

use forebay_format::{
    record,
    v1::index::{ExtentEntry, IndexPage, IndexPageEntry, IndexSplit, index_page_key},
};
use forebay_lake::{Lake, Purpose};
use forebay_runtime::Runtime;
use forebay_testing::{TempTiers, key};
use forebay_transfer::{Error, dataset::PAGES_MAX, index::Extents};
use forebay_types::{Digest, ErrorKind, Form, Split};
use proptest::prelude::*;

fn extent(number: usize, rows: u32) -> ExtentEntry {
    ExtentEntry {
        file: key("a.tar"),
        offset: number as u64,
        stored_bytes: 1,
        form: Form::Plain,
        digest: Digest::of(&number.to_le_bytes()),
        bytes: 1,
        rows,
        blocks_crc32c: vec![0],
    }
}

/// A split of extents of `rows` rows each, `per_page` on a page.
fn split(lake: &Lake, rows: &[u32], per_page: usize) -> IndexSplit {
    let extents: Vec<ExtentEntry> =
        rows.iter().enumerate().map(|(n, &rows)| extent(n, rows)).collect();
    let (mut first_extent, mut first_row) = (0, 0);
    let mut pages = Vec::new();
    for page in extents.chunks(per_page) {
        let (bytes, digest) = record::encode(&IndexPage { extents: page.to_vec() }).unwrap();
        lake.write(&index_page_key(digest), Purpose::Manifest, &bytes).unwrap();
        pages.push(IndexPageEntry { digest, first_extent, first_row });
        first_extent += page.len() as u64;
        first_row += page.iter().map(|extent| u64::from(extent.rows)).sum::<u64>();
    }
    IndexSplit {
        split: Split::Train,
        rows: first_row,
        rows_per_portion: 1,
        extents: first_extent,
        content_bytes: first_extent,
        extent_bytes_max: 1,
        pages,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_row_lies_where_a_walk_from_the_front_finds_it(
        rows in proptest::collection::vec(1_u32..5, 1..60),
        per_page in 1_usize..9,
    ) {
        let lake = Lake::open("memory://", &Runtime::system()).unwrap();
        let split = split(&lake, &rows, per_page);
        let extents = Extents::new(&lake, &split);
        let mut row = 0;
        for (number, &count) in rows.iter().enumerate() {
            let wanted = (row, number as u64);
            let (entry, first, found) = extents.get(number as u64).unwrap();
            prop_assert_eq!(((first, found), entry.rows), (wanted, count));
            for row in row..row + u64::from(count) {
                let (entry, first, found) = extents.extent_of(row).unwrap();
                prop_assert_eq!((first, found), wanted);
                prop_assert_eq!(entry.digest, extent(number, count).digest);
                let portion = (row / u64::from(split.rows_per_portion)) as u32;
                prop_assert!(extents.portions_of(entry.digest).unwrap().contains(&portion));
            }
            row += u64::from(count);
        }
        let (from, to) = (row / 3, row - row / 4);
        let found: Vec<u64> = extents.extents_of(from..to).unwrap().iter().map(|it| it.2).collect();
        let mut wanted: Vec<u64> = (from..to).map(|row| extents.extent_of(row).unwrap().2).collect();
        wanted.dedup();
        prop_assert_eq!(found, wanted);
        prop_assert!(extents.extents_of(to..to).unwrap().is_empty());
    }
}

#[test]
fn a_bounded_number_of_pages_is_kept() {
    let tiers = TempTiers::new(1000);
    let pages = PAGES_MAX as u64 + 2;
    let split = split(&tiers.lake, &vec![1; pages as usize], 1);
    let extents = Extents::new(&tiers.lake, &split);
    let reads = || tiers.lake.traffic().get(&Purpose::Manifest).map_or(0, |traffic| traffic.reads);
    for row in 0..pages {
        extents.extent_of(row).unwrap();
        extents.extent_of(0).unwrap();
    }
    assert_eq!(reads(), pages);
    assert_eq!(extents.portions_of(extent(1, 1).digest), Some(1..=1), "although its page is gone");
    extents.extent_of(1).unwrap();
    assert_eq!(reads(), pages + 1, "it was used longest ago");
}

#[test]
fn a_page_that_is_not_the_one_named_is_refused() {
    let tiers = TempTiers::new(1000);
    let honest = split(&tiers.lake, &[2, 3, 4, 5], 2);
    let kind = |split: &IndexSplit| Extents::new(&tiers.lake, split).extent_of(0).unwrap_err();
    let shifted = |change: fn(&mut IndexSplit)| {
        let mut split = honest.clone();
        change(&mut split);
        kind(&split).kind()
    };
    assert_eq!(shifted(|split| split.pages[1].first_row = 6), ErrorKind::Corrupt);
    assert_eq!(shifted(|split| split.pages[1].first_extent = 1), ErrorKind::Corrupt);
    let path =
        |index: usize| tiers.lake_path().join(index_page_key(honest.pages[index].digest).as_str());
    fs::copy(path(1), path(0)).unwrap();
    assert_eq!(kind(&honest).kind(), ErrorKind::Corrupt);
    fs::remove_file(path(0)).unwrap();
    assert!(matches!(kind(&honest), Error::Missing { .. }));
}
