//! The index records of version 1, as they were first written, are read by every later build.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::PathBuf};

use forebay_format::{
    record::{self, Record},
    v1::index::{
        BLOCK_BYTES, EXTENTS_PER_PAGE, ExtentEntry, FileSurvey, IndexManifest, IndexPage,
        IndexPageEntry, IndexSplit,
    },
};
use forebay_types::{
    Digest, Dtype, ErrorKind, Field, FieldKind, Form, Key, Name, Nonce, Schema, Split, Version,
};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

fn schema() -> Schema {
    let field = |name: &str, kind| Field { name: name.into(), kind };
    Schema {
        fields: vec![
            field("jpg", FieldKind::Bytes),
            field("cls", FieldKind::Tensor { dtype: Dtype::I64, shape: vec![] }),
            field("embedding", FieldKind::Ragged { dtype: Dtype::F32 }),
            field("txt", FieldKind::Text),
        ],
    }
}

fn extent(file: &str, number: u32, form: Form) -> ExtentEntry {
    let bytes = 2 * BLOCK_BYTES + 5;
    ExtentEntry {
        file: Key::new(file).unwrap(),
        offset: 512 * u64::from(number),
        stored_bytes: if form == Form::Plain { bytes } else { 999 },
        form,
        digest: Digest::of(&number.to_le_bytes()),
        bytes,
        rows: 100 + number,
        blocks_crc32c: vec![0, number, u32::MAX],
    }
}

fn page() -> IndexPage {
    let forms = [Form::Plain, Form::Gzip, Form::Zstd, Form::Dialect("{\"group\":1}".into())];
    let extents = (0..).zip(forms).map(|(n, form)| extent("laion/a-00001.tar", n, form));
    IndexPage { extents: extents.collect() }
}

fn survey() -> FileSurvey {
    FileSurvey {
        file: Key::new("laion/a-00001.tar").unwrap(),
        part: 0,
        parts: 1,
        schema: schema(),
        context: "utf-8".into(),
        extents: page().extents,
    }
}

fn manifest() -> IndexManifest {
    let page = |name: &str, first_extent, first_row| IndexPageEntry {
        digest: Digest::of(name.as_bytes()),
        first_extent,
        first_row,
    };
    let split = |split, rows, extents, pages| IndexSplit {
        split,
        rows,
        rows_per_portion: 101,
        extents,
        content_bytes: 2_097_157 * extents,
        extent_bytes_max: 2_097_157,
        pages,
    };
    IndexManifest {
        name: Name::new("laion").unwrap(),
        version: Version::FIRST.next(),
        parent: Some(Version::FIRST),
        identity: Digest::of(b"identity"),
        created_unix_ms: 1_767_225_600_000,
        nonce: Nonce::from_bits(9),
        dialect: "webdataset".into(),
        context: "utf-8".into(),
        store: Some("s3://laion".into()),
        paths: vec!["laion".into()],
        schema: schema(),
        splits: vec![
            split(Split::Train, 27_000, 260, vec![page("one", 0, 0), page("two", 256, 26_500)]),
            split(Split::Validation, 0, 0, vec![]),
        ],
        files: 26,
        file_bytes: 545_260_820,
        passed_over: [("json".into(), 26), ("md".into(), 1)].into(),
    }
}

fn holds<R: Record + PartialEq + std::fmt::Debug>(file: &str, record: &R) {
    let bytes = fs::read(golden(file)).unwrap();
    let (found, digest) = record::decode::<R>(&bytes, file).unwrap();
    assert_eq!(&found, record);
    assert_eq!(record::encode(record).unwrap(), (bytes, digest));
}

#[test]
fn the_first_index_records_are_still_read_and_still_written_alike() {
    holds("index.json", &manifest());
    holds("index-page.json", &page());
    holds("index-survey.json", &survey());
}

#[test]
fn every_changed_byte_of_an_index_record_is_found() {
    fn check<R: Record + std::fmt::Debug>(file: &str) {
        let bytes = fs::read(golden(file)).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 0x01;
            let error = record::decode::<R>(&changed, file).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat), "{index}");
            assert!(record::decode::<R>(&bytes[..index], file).is_err(), "cut at {index}");
        }
    }
    check::<IndexManifest>("index.json");
    check::<IndexPage>("index-page.json");
    check::<FileSurvey>("index-survey.json");
}

#[test]
fn manifests_whose_pages_cannot_be_are_refused() {
    type Spoil = fn(&mut IndexSplit);
    let spoils: [Spoil; 11] = [
        |split| split.rows_per_portion = 0,
        |split| split.pages.clear(),
        |split| split.extents = 0,
        |split| split.rows = 0,
        |split| split.rows = 26_500,
        |split| split.extents = 256 + u64::from(EXTENTS_PER_PAGE) + 1,
        |split| split.pages[0].first_row = 1,
        |split| split.pages[0].first_extent = 1,
        |split| split.pages[1].first_extent = 0,
        |split| split.pages[1].first_row = 255,
        |split| split.pages.swap(0, 1),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let mut manifest = manifest();
        spoil(&mut manifest.splits[0]);
        assert!(record::encode(&manifest).is_err(), "{number}");
    }
}

#[test]
fn extents_that_cannot_be_are_refused() {
    type Spoil = fn(&mut ExtentEntry);
    let spoils: [Spoil; 5] = [
        |extent| extent.rows = 0,
        |extent| extent.bytes = 2 * BLOCK_BYTES,
        |extent| extent.stored_bytes += 1,
        |extent| extent.offset = u64::MAX,
        |extent| extent.blocks_crc32c.truncate(2),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let (mut page, mut survey) = (page(), survey());
        spoil(&mut page.extents[0]);
        spoil(&mut survey.extents[0]);
        assert!(record::encode(&page).is_err(), "{number}");
        assert!(record::encode(&survey).is_err(), "{number}");
    }
    let strange = FileSurvey { file: Key::new("other").unwrap(), ..survey() };
    assert!(record::encode(&strange).is_err());
    assert!(record::encode(&FileSurvey { part: 1, ..survey() }).is_err());
    let many = IndexPage { extents: vec![page().extents.remove(0); 257] };
    assert!(record::encode(&many).is_err());
}

#[test]
fn checksums_have_one_spelling() {
    let text = serde_json::to_string(&extent("a", 0xabc, Form::Plain)).unwrap();
    let digits = "0000000000000abcffffffff";
    assert!(text.contains(digits), "{text}");
    for other in ["0000000000000ABCffffffff", "000000000000+abcffffffff", "0", "é0000000"] {
        assert!(serde_json::from_str::<ExtentEntry>(&text.replace(digits, other)).is_err());
    }
}

/// Writes what is missing in `golden/v1`; what is there is never written again.
#[test]
#[ignore = "run by hand when a format is added"]
fn write_what_is_missing() {
    let files = [
        ("index.json", record::encode(&manifest()).unwrap().0),
        ("index-page.json", record::encode(&page()).unwrap().0),
        ("index-survey.json", record::encode(&survey()).unwrap().0),
    ];
    for (name, bytes) in files.into_iter().filter(|(name, _)| !golden(name).exists()) {
        fs::write(golden(name), bytes).unwrap();
    }
}
