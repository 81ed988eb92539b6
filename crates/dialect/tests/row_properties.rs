//! What holds for every file of samples in rows: what was written is read, however the file is
//! cut; files that merge are read under their common schema; bytes that anyone changed give an
//! error or a value, never a panic.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod writers;

use forebay_dialect::{Dialect, Jsonl, Tfrecord, Webdataset};
use proptest::{collection::vec, option, prelude::*, sample::Index};
use writers::{List, Row, npy, read, record, tar, tfrecord};

/// A file, and what must be read from it.
#[derive(Clone, Debug)]
struct Sample {
    dialect: &'static dyn Dialect,
    stored: Vec<u8>,
    rows: Vec<Row>,
}

fn row<const N: usize>(values: [(&str, Vec<u8>); N]) -> Row {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn integers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Fields that no row has are no fields.
fn without_absent(rows: &mut [Row], name: &str, absent: bool) {
    if absent {
        rows.iter_mut().for_each(|row| drop(row.remove(name)));
    }
}

fn webdataset() -> impl Strategy<Value = Sample> {
    let sample = (
        vec(any::<u8>(), 0..1500),
        option::of(".{0,20}"),
        any::<i64>(),
        option::of(vec(-1e3_f32..1e3, 1..4)),
        any::<bool>(),
        prop_oneof![Just(4_usize), Just(120)],
    );
    vec(sample, 1..12).prop_map(|samples| {
        let (mut members, mut rows) = (Vec::new(), Vec::new());
        for (number, (blob, text, label, vector, folder, width)) in samples.iter().enumerate() {
            let key = format!("d.x/{number:0width$}");
            if *folder {
                members.push(("d.x/".to_owned(), None));
                members.push((format!("__{number}__/note.txt"), Some(b"note".to_vec())));
                members.push((format!("d.x/._{number}.txt"), Some(b"fork".to_vec())));
            }
            members.push((format!("{key}.BIN"), Some(blob.clone())));
            members.push((format!("{key}.cls"), Some(format!(" {label}\n").into_bytes())));
            members.extend(
                text.iter().map(|text| (format!("{key}.a.txt"), Some(text.clone().into_bytes()))),
            );
            members.extend(vector.iter().map(|x| (format!("{key}.npy"), Some(npy(x)))));
            rows.push(row([
                ("__key__", key.into_bytes()),
                ("bin", blob.clone()),
                ("cls", integers(&[*label])),
                ("a.txt", text.clone().unwrap_or_default().into_bytes()),
                ("npy", floats(vector.as_deref().unwrap_or_default())),
            ]));
        }
        without_absent(&mut rows, "a.txt", samples.iter().all(|sample| sample.1.is_none()));
        without_absent(&mut rows, "npy", samples.iter().all(|sample| sample.3.is_none()));
        Sample { dialect: &Webdataset, stored: tar(&members), rows }
    })
}

fn tfrecords() -> impl Strategy<Value = Sample> {
    let record = (
        vec(any::<u8>(), 0..500),
        option::of(vec(-1e3_f32..1e3, 0..4)),
        option::of(vec(any::<i64>(), 0..4)),
        any::<i64>(),
    );
    (vec(record, 1..12), any::<bool>()).prop_map(|(records, packed)| {
        let (mut all, mut rows) = (Vec::new(), Vec::new());
        for (blob, vector, tokens, label) in &records {
            let mut features = vec![
                ("label", List::Integers(vec![*label])),
                ("blob", List::Bytes(vec![blob.clone()])),
            ];
            features.extend(vector.iter().map(|x| ("vector", List::Floats(x.clone()))));
            features.extend(tokens.iter().map(|x| ("tokens", List::Integers(x.clone()))));
            all.push(features);
            rows.push(row([
                ("label", integers(&[*label])),
                ("blob", blob.clone()),
                ("vector", floats(vector.as_deref().unwrap_or_default())),
                ("tokens", integers(tokens.as_deref().unwrap_or_default())),
            ]));
        }
        without_absent(&mut rows, "vector", records.iter().all(|record| record.1.is_none()));
        without_absent(&mut rows, "tokens", records.iter().all(|record| record.2.is_none()));
        Sample { dialect: &Tfrecord, stored: tfrecord(&all, packed), rows }
    })
}

fn jsonl() -> impl Strategy<Value = Sample> {
    let line = (
        any::<String>(),
        option::of(any::<i64>()),
        option::of(-1e300_f64..1e300),
        option::of(vec(any::<i64>(), 0..4)),
        any::<bool>(),
        prop_oneof![Just(""), Just("\n \n"), Just("\r")],
    );
    vec(line, 1..12).prop_map(|lines| {
        let (mut stored, mut rows) = (String::new(), Vec::new());
        for (text, number, float, vector, flag, space) in &lines {
            let object = serde_json::json!({
                "text": text, "number": number, "float": float, "vector": vector, "flag": flag,
                "mixed": if *flag { text.clone().into() } else { serde_json::json!([text, 1]) },
            });
            stored += &format!("{object}{space}\n");
            let mixed = if *flag { text.clone() } else { serde_json::json!([text, 1]).to_string() };
            rows.push(row([
                ("text", text.clone().into_bytes()),
                ("number", number.map_or(Vec::new(), |number| integers(&[number]))),
                ("float", float.unwrap_or(f64::NAN).to_le_bytes().to_vec()),
                ("vector", integers(vector.as_deref().unwrap_or_default())),
                ("flag", vec![u8::from(*flag)]),
                ("mixed", mixed.into_bytes()),
            ]));
        }
        without_absent(&mut rows, "number", lines.iter().all(|line| line.1.is_none()));
        without_absent(&mut rows, "float", lines.iter().all(|line| line.2.is_none()));
        without_absent(&mut rows, "vector", lines.iter().all(|line| line.3.is_none()));
        Sample { dialect: &Jsonl, stored: stored.into_bytes(), rows }
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![webdataset(), tfrecords(), jsonl()]
}

fn two_samples() -> impl Strategy<Value = (Sample, Sample)> {
    prop_oneof![(webdataset(), webdataset()), (tfrecords(), tfrecords()), (jsonl(), jsonl())]
}

/// How files may start.
const STARTS: &[&[u8]] = &[b"", b"{", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"];

/// What somebody does to bytes.
#[derive(Clone, Debug)]
enum Harm {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip(at, 1 << bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        any::<Index>().prop_map(Harm::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Harm::Remove(a, b)),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Harm::Repeat(a, b)),
    ]
}

fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        if bytes.is_empty() {
            break;
        }
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            a.min(b)..a.max(b)
        };
        match harm {
            Harm::Flip(at, bit) => *at.get_mut(&mut bytes[..]) ^= bit,
            Harm::Set(at, byte) => *at.get_mut(&mut bytes[..]) = *byte,
            Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Harm::Remove(a, b) => drop(bytes.drain(range(a, b))),
            Harm::Repeat(a, b) => {
                let again = bytes[range(a, b)].to_vec();
                bytes.extend_from_slice(&again);
            }
        }
    }
    bytes
}

/// Asks for everything that can be asked, whatever the answers.
fn ask_all(dialect: &dyn Dialect, content: &[u8], other: &[u8], schema: &forebay_types::Schema) {
    let Ok(rows) = dialect.open(content, schema, "", "f") else { return };
    for content in [content, other] {
        let _ = rows.framing(content);
        for row in 0..rows.rows() + 1 {
            let _ = (rows.place(content, row), rows.label(content, row));
            for field in 0..schema.fields.len() + 1 {
                let _ = rows.value(content, row, field).map(|value| value.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_however_it_is_cut(
        sample in sample(),
        extent_bytes in prop_oneof![Just(0), 1_u64..9000, Just(u64::MAX)],
        packing in 0..3,
    ) {
        use std::io::Write as _;
        let stored = match packing {
            0 => sample.stored,
            1 => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                writer.write_all(&sample.stored).unwrap();
                writer.finish().unwrap()
            }
            _ => zstd::encode_all(&sample.stored[..], 1).unwrap(),
        };
        let survey = sample.dialect.survey(&stored, "f", extent_bytes).unwrap();
        let found = read(sample.dialect, &stored, &survey, &survey.schema).unwrap();
        prop_assert_eq!(found, sample.rows);
    }

    #[test]
    fn files_that_merge_are_read_under_their_common_schema((a, b) in two_samples()) {
        let dialect = a.dialect;
        let surveys =
            [&a, &b].map(|sample| dialect.survey(&sample.stored, "f", 2000).unwrap());
        let merged = dialect.merge(&surveys[0].schema, &surveys[1].schema).unwrap();
        let turned = dialect.merge(&surveys[1].schema, &surveys[0].schema).unwrap();
        for field in &merged.fields {
            let position = turned.position(&field.name).unwrap();
            prop_assert_eq!(&turned.fields[position], field);
        }
        for (sample, survey) in [&a, &b].into_iter().zip(&surveys) {
            let found = read(dialect, &sample.stored, survey, &merged).unwrap();
            for (found, row) in found.iter().zip(&sample.rows) {
                for (name, value) in row {
                    prop_assert_eq!(&found[name], value, "{}", name);
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_give_an_error_or_values(
        sample in sample(),
        harms in vec(harm(), 1..4),
        extent_bytes in 0_u64..9000,
    ) {
        let dialect = sample.dialect;
        let sound = dialect.survey(&sample.stored, "f", u64::MAX).unwrap();
        let stored = harmed(sample.stored.clone(), &harms);
        ask_all(dialect, &stored, &sample.stored, &sound.schema);
        ask_all(dialect, &sample.stored, &stored, &sound.schema);
        if let Ok(survey) = dialect.survey(&stored, "f", extent_bytes) {
            // What a survey accepts, a feed can read.
            prop_assert!(read(dialect, &stored, &survey, &survey.schema).is_ok());
        }
    }

    /// Checksums hide the messages from harm; here they are right.
    #[test]
    fn hostile_examples_give_an_error_or_values(
        sample in tfrecords(),
        harms in vec(harm(), 1..4),
    ) {
        let length = u64::from_le_bytes(sample.stored[..8].try_into().unwrap()) as usize;
        let data = harmed(sample.stored[12..12 + length].to_vec(), &harms);
        let stored = [&record(&data)[..], &sample.stored].concat();
        let sound = Tfrecord.survey(&sample.stored, "f", u64::MAX).unwrap();
        ask_all(&Tfrecord, &stored, &sample.stored, &sound.schema);
        if let Ok(survey) = Tfrecord.survey(&stored, "f", 0) {
            prop_assert!(read(&Tfrecord, &stored, &survey, &survey.schema).is_ok());
        }
    }

    /// A header's checksum hides it from harm; here it is right.
    #[test]
    fn hostile_headers_give_an_error_or_values(
        sample in webdataset(),
        harms in vec((prop_oneof![0..160_usize, 124..136_usize, 257..512_usize], any::<u8>()), 1..9),
        pax in option::of("[0-9]{1,3} (path|size|GNU.sparse.x|other)=[0-9a-z./]{0,9}\n?[0-9]{0,2}"),
    ) {
        let mut header = sample.stored[..512].to_vec();
        for (at, byte) in harms {
            header[at] = byte;
        }
        writers::seal(&mut header);
        let mut stored = Vec::new();
        if let Some(pax) = pax {
            writers::tar_member(&mut stored, b"pax", b'x', pax.as_bytes());
        }
        stored.extend_from_slice(&header);
        stored.extend_from_slice(&sample.stored[512..]);
        let sound = Webdataset.survey(&sample.stored, "f", u64::MAX).unwrap();
        ask_all(&Webdataset, &stored, &sample.stored, &sound.schema);
        if let Ok(survey) = Webdataset.survey(&stored, "f", 0) {
            prop_assert!(read(&Webdataset, &stored, &survey, &survey.schema).is_ok());
        }
    }

    /// Bytes of no format at all, which start as one does.
    #[test]
    fn noise_gives_an_error_or_values(
        start in prop::sample::select(STARTS),
        noise in vec(any::<u8>(), 0..2000),
    ) {
        let stored = [start, &noise].concat();
        for dialect in [&Webdataset as &dyn Dialect, &Tfrecord, &Jsonl] {
            if let Ok(survey) = dialect.survey(&stored, "f", 100) {
                prop_assert!(read(dialect, &stored, &survey, &survey.schema).is_ok());
            }
        }
    }
}
