//! Files made by the libraries whose formats they are, read as a feed would read them: surveyed,
//! decoded extent by extent, opened, value by value. `fixtures/make_row_formats.py` makes them,
//! and keeps what those libraries read back.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::BTreeMap, path::Path};

use forebay_dialect::{Dialect, Form, Jsonl, Survey, Tfrecord, Webdataset};
use forebay_types::Schema;

const FOLDER: &str = "tests/fixtures/row_formats";

fn dialects() -> [Box<dyn Dialect>; 3] {
    [Box::new(Webdataset), Box::new(Tfrecord), Box::new(Jsonl)]
}

/// What is expected of each file; a compressed one holds what the plain one does.
fn expected() -> BTreeMap<String, serde_json::Value> {
    let text = std::fs::read(Path::new(FOLDER).join("expected.json")).unwrap();
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let plain = |value: &serde_json::Value| match value.as_str() {
        Some(name) => all[name].clone(),
        None => value.clone(),
    };
    all.iter().map(|(name, value)| (name.clone(), plain(value))).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every value of a file under `schema`, row by row. Values are read from a copy in which all
/// that the row does not own, and its framing does not cover, is overwritten.
fn values(dialect: &dyn Dialect, stored: &[u8], survey: &Survey) -> Vec<BTreeMap<String, String>> {
    let mut rows = Vec::new();
    for cut in &survey.cuts {
        let part = &stored[cut.offset as usize..(cut.offset + cut.bytes) as usize];
        let mut content = part.to_vec();
        if cut.form != Form::Plain {
            content.clear();
            dialect.decode(part, &cut.form, &survey.schema, "f", &mut content).unwrap();
        }
        let mut framed = vec![0xa5; content.len()];
        let found = dialect.open(&content, &survey.schema, &survey.context, "f").unwrap();
        for range in found.framing(&content) {
            framed[range.clone()].copy_from_slice(&content[range]);
        }
        let found = dialect.open(&framed, &survey.schema, &survey.context, "f").unwrap();
        assert_eq!(found.rows(), cut.rows);
        for row in 0..cut.rows {
            let mut own = vec![0xa5; content.len()];
            let place = found.place(&framed, row);
            own[place.clone()].copy_from_slice(&content[place]);
            let mut values = BTreeMap::new();
            for (number, field) in survey.schema.fields.iter().enumerate() {
                let value = found.value(&own, row, number).unwrap();
                values.insert(field.name.clone(), hexadecimal(&value));
            }
            if let Some(label) = found.label(&own, row) {
                assert_eq!(hexadecimal(label.as_bytes()), values["__key__"]);
            }
            rows.push(values);
        }
    }
    rows
}

#[test]
fn every_file_reads_as_its_own_library_reads_it() {
    let expected = expected();
    assert_eq!(expected.len(), 12);
    for (name, expected) in &expected {
        let stored = std::fs::read(Path::new(FOLDER).join(name)).unwrap();
        let dialects = dialects();
        let claiming: Vec<_> = dialects.iter().filter(|dialect| dialect.claims(name)).collect();
        assert_eq!(claiming.len(), 1, "{name}");
        let dialect = &**claiming[0];
        assert_eq!(dialect.name(), expected["dialect"], "{name}");
        let schema: Schema = serde_json::from_value(expected["fields"].clone()).unwrap();
        let rows: Vec<BTreeMap<String, String>> =
            serde_json::from_value(expected["rows"].clone()).unwrap();
        for extent_bytes in [0, 1000, 5000, u64::MAX] {
            let survey = dialect.survey(&stored, name, extent_bytes).unwrap();
            assert_eq!(survey.schema, schema, "{name}");
            let compressed = name.ends_with(".gz") || name.ends_with(".zst");
            match extent_bytes {
                0 if !compressed => assert_eq!(survey.cuts.len(), rows.len(), "{name}"),
                u64::MAX => assert_eq!(survey.cuts.len(), 1, "{name}"),
                _ => {}
            }
            assert_eq!(values(dialect, &stored, &survey), rows, "{name} by {extent_bytes}");
        }
    }
}
