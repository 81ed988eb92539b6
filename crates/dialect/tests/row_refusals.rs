//! What is refused, and in which words; and the small print that other writers rely on.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod writers;

use forebay_dialect::{Dialect, Error, Jsonl, Tfrecord, Webdataset};
use forebay_types::{Dtype, ErrorKind, FieldKind};
use writers::{List, example, npy, read, record, seal, tar, tar_member, tfrecord};

fn refusal(dialect: &dyn Dialect, stored: &[u8]) -> (ErrorKind, String) {
    let error = dialect.survey(stored, "data/a", 1000).unwrap_err();
    assert!(!matches!(error, Error::Write { .. }));
    (error.kind(), error.to_string())
}

fn kind(dialect: &dyn Dialect, stored: &[u8], name: &str) -> FieldKind {
    let schema = dialect.survey(stored, "data/a", 1000).unwrap().schema;
    schema.fields[schema.position(name).unwrap()].kind.clone()
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let member = |(name, data): &(&str, &[u8])| ((*name).to_owned(), Some(data.to_vec()));
    tar(&members.iter().map(member).collect::<Vec<_>>())
}

#[test]
fn files_are_claimed_by_their_names() {
    let claims: [(&dyn Dialect, &[&str], &[&str]); 3] = [
        (
            &Webdataset,
            &["a/b-000.tar", "x.tar.gz", "x.TGZ", "x.tar.zst", "./x.tar"],
            &["x.tar.idx", ".x.tar", "._x.tar", ".cache/x.tar", "tar", "x.gz", "x.json"],
        ),
        (
            &Tfrecord,
            &[
                "a.tfrecord",
                "a.tfrecords",
                "train.tfrecord-00000-of-00010",
                "train-00000-of-00010.tfrecord",
                "a.tfrecord.gz",
                "a.tfrecords-00000-of-00010.gz",
            ],
            &["a.tfrecord.idx", "a.record", "features.json", "a-00000-of-00010", "tfrecord/a.txt"],
        ),
        (
            &Jsonl,
            &["a.jsonl", "a.ndjson", "a.jsonl.gz", "en/c4.00000-of-01024.json.gz", "a.jsonl.zst"],
            &["dataset_info.json", "a.json", "a.gz", "a.jsonl.bak", ".a.jsonl"],
        ),
    ];
    for (dialect, yes, no) in claims {
        yes.iter().for_each(|path| assert!(dialect.claims(path), "{dialect:?} {path}"));
        no.iter().for_each(|path| assert!(!dialect.claims(path), "{dialect:?} {path}"));
    }
}

#[test]
fn a_file_without_rows_has_no_extents_and_no_fields() {
    for (dialect, stored) in [
        (&Webdataset as &dyn Dialect, archive(&[])),
        (&Tfrecord, vec![]),
        (&Jsonl, b"\n \n".into()),
    ] {
        let survey = dialect.survey(&stored, "a", 1000).unwrap();
        assert!(survey.cuts.is_empty() && survey.schema.fields.is_empty(), "{dialect:?}");
    }
}

#[test]
fn samples_that_do_not_agree_are_named() {
    let (kind, text) = refusal(
        &Webdataset,
        &archive(&[("a.cls", b"1"), ("b.txt", b""), ("c.cls", b"2"), ("d.txt", b"")]),
    );
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("`cls` is a number, and 2 of 4 samples lack it"), "{text}");
    assert!(text.ends_with("the first is `b`"), "{text}");

    let (_, text) = refusal(&Webdataset, &archive(&[("a.cls", b"1"), ("b.cls", b"cat")]));
    assert!(text.contains("sample `b` is the first that differs"), "{text}");

    let (kind, text) = refusal(&Webdataset, &archive(&[("a.txt", b""), ("a.TXT", b"")]));
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("sample `a` has more than one field `txt`"), "{text}");
}

#[test]
fn an_archive_field_is_what_all_its_values_are() {
    let of = |name: &str, values: &[&[u8]]| {
        let names: Vec<String> = (0..values.len()).map(|n| format!("{n}.{name}")).collect();
        let members: Vec<_> =
            names.iter().map(String::as_str).zip(values.iter().copied()).collect();
        kind(&Webdataset, &archive(&members), name)
    };
    let vector = |length| FieldKind::Tensor { dtype: Dtype::F32, shape: vec![length] };
    let ragged = FieldKind::Ragged { dtype: Dtype::F32 };
    assert_eq!(of("npy", &[&npy(&[1.0, 2.0]), &npy(&[3.0, 4.0])]), vector(2));
    assert_eq!(of("npy", &[&npy(&[1.0, 2.0]), &npy(&[3.0])]), ragged);
    assert_eq!(of("npy", &[&npy(&[1.0]), b"no numpy", &npy(&[1.0])]), FieldKind::Bytes);
    assert_eq!(of("txt", &[b"a", b"\xff"]), FieldKind::Bytes);
    assert_eq!(of("id", &[b"n01", b"n02"]), FieldKind::Text);
    assert_eq!(of("id", &[b"+1\n", b"-2"]), FieldKind::Tensor { dtype: Dtype::I64, shape: vec![] });
}

#[test]
fn archives_that_are_not_sound_are_refused_where_they_are_not() {
    let sound = archive(&[("a.bin", &[7; 600]), ("b.bin", b"x")]);
    let mut flipped = sound.clone();
    flipped[1536] ^= 1;
    let (kind, text) = refusal(&Webdataset, &flipped);
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("data/a: byte 1536") && text.contains("checksum"), "{text}");

    let (_, text) = refusal(&Webdataset, &sound[..900]);
    assert!(text.contains("cut off"), "{text}");

    // A size of nearly 2^63, as base-256.
    let mut huge = sound.clone();
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    seal(&mut huge[..512]);
    assert!(refusal(&Webdataset, &huge).1.contains("cut off"));

    let mut sparse = Vec::new();
    tar_member(&mut sparse, b"a.bin", b'S', b"x");
    let (kind, text) = refusal(&Webdataset, &sparse);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("sparse"), "{text}");

    for malformed in ["9 path=", "99999999999999999999 path=a\n", "path=a\n", "3 a\n", "0 a=b\n"] {
        let mut pax = Vec::new();
        tar_member(&mut pax, b"p", b'x', malformed.as_bytes());
        tar_member(&mut pax, b"a.bin", b'0', b"x");
        assert!(refusal(&Webdataset, &pax).1.contains("pax record"), "{malformed}");
    }
}

/// The checksum's field is shorter than the others, and a first bit that is set means that a
/// number is bytes, not digits: the number was taken from bytes before the field, and the survey
/// panicked.
#[test]
fn a_checksum_that_is_no_octal_number_is_refused() {
    let mut stored = archive(&[("a.bin", b"x")]);
    stored[148] = 0x80;
    assert!(refusal(&Webdataset, &stored).1.contains("its checksum is wrong"));
}

#[test]
fn pax_states_path_and_size() {
    let mut stored = Vec::new();
    tar_member(&mut stored, b"pax", b'x', b"18 path=k\xc3\xb6/1.txt\n9 size=3\n");
    tar_member(&mut stored, b"other.bin", b'0', b"");
    stored.extend_from_slice(b"abc");
    stored.resize(stored.len().next_multiple_of(512), 0);
    let survey = Webdataset.survey(&stored, "a", 1000).unwrap();
    let rows = read(&Webdataset, &stored, &survey, &survey.schema).unwrap();
    assert_eq!(rows[0]["__key__"], "kö/1".as_bytes());
    assert_eq!(rows[0]["txt"], b"abc");
}

#[test]
fn records_that_are_not_sound_are_refused_where_they_are_not() {
    let sound = tfrecord(
        &[vec![("a", List::Integers(vec![1]))], vec![("a", List::Integers(vec![2]))]],
        true,
    );
    let second = sound.len() / 2;
    for (at, what) in [(second, "length"), (second + 8, "length"), (second + 14, "data")] {
        let mut stored = sound.clone();
        stored[at] ^= 1;
        let (kind, text) = refusal(&Tfrecord, &stored);
        assert_eq!(kind, ErrorKind::Corrupt);
        assert!(text.contains(&format!("the record at byte {second}")), "{text}");
        assert!(text.contains(&format!("the {what} is not what its checksum says")), "{text}");
    }
    for cut in 1..sound.len() {
        if cut != second {
            assert!(refusal(&Tfrecord, &sound[..cut]).1.contains("cut off"), "{cut}");
        }
    }
}

#[test]
fn features_that_cannot_be_fed_are_named() {
    let several = List::Bytes(vec![b"x".to_vec(), b"y".to_vec()]);
    let (kind, text) = refusal(&Tfrecord, &tfrecord(&[vec![("names", several)]], true));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("feature `names` has 2 byte strings"), "{text}");

    let mixed = [vec![("x", List::Integers(vec![1]))], vec![("x", List::Floats(vec![1.0]))]];
    let (_, text) = refusal(&Tfrecord, &tfrecord(&mixed, false));
    assert!(text.contains("`x` is a float_list here and a int64_list"), "{text}");

    let sequence = [&example(&[], true)[..], &[0x12, 0]].concat();
    assert!(refusal(&Tfrecord, &record(&sequence)).1.contains("SequenceExample"));
    assert!(refusal(&Tfrecord, &record(b"")).1.contains("no record has a feature"));
}

#[test]
fn fixed_lengths_are_found_and_merged() {
    let file = |lengths: &[usize]| {
        let record = |&length: &usize| vec![("x", List::Floats(vec![0.5; length]))];
        tfrecord(&lengths.iter().map(record).collect::<Vec<_>>(), true)
    };
    let of = |lengths: &[usize]| kind(&Tfrecord, &file(lengths), "x");
    let tensor = |shape: &[u32]| FieldKind::Tensor { dtype: Dtype::F32, shape: shape.to_vec() };
    let ragged = FieldKind::Ragged { dtype: Dtype::F32 };
    assert_eq!(of(&[1, 1, 1]), tensor(&[]));
    assert_eq!(of(&[3, 3]), tensor(&[3]));
    assert_eq!(of(&[3, 4, 3, 3]), ragged);
    assert_eq!(of(&[3, 3, 4]), ragged);
    assert_eq!(of(&[0, 0]), ragged);
    let schema = |lengths| Tfrecord.survey(&file(lengths), "a", 1000).unwrap().schema;
    let merged = Tfrecord.merge(&schema(&[1, 1]), &schema(&[3, 3])).unwrap();
    assert_eq!(merged.fields[0].kind, ragged);
    // Under another schema than that, a record says what it has.
    let survey = Tfrecord.survey(&file(&[3]), "a", 1000).unwrap();
    let error = read(&Tfrecord, &file(&[3]), &survey, &schema(&[2, 2])).unwrap_err().to_string();
    assert!(error.contains("feature `x`: it has 3 values, not 2"), "{error}");
}

#[test]
fn a_malformed_line_is_named() {
    let (kind, text) = refusal(&Jsonl, b"{\"a\": 1}\n\n{\"a\": 1,}\n");
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(text.contains("data/a: line 3, byte 9"), "{text}");
    assert!(refusal(&Jsonl, b"{}\n[1]\n").1.contains("line 2, byte 1"));
    let (_, text) = refusal(&Jsonl, b"{\"a\": 1}\n{\"a\": \"\xff\"}");
    assert!(text.contains("data/a: line 2") && text.contains("not UTF-8"), "{text}");
    assert!(refusal(&Jsonl, b"{}\n{\"a\": null}").1.contains("none of its objects has a value"));
}

#[test]
fn a_json_field_is_what_all_its_values_are() {
    let of = |values: &[&str]| {
        let lines: Vec<String> =
            values.iter().map(|value| format!("{{\"x\": {value}, \"y\": 1}}")).collect();
        kind(&Jsonl, lines.join("\n").as_bytes(), "x")
    };
    let number = |dtype| FieldKind::Tensor { dtype, shape: vec![] };
    let vector = |dtype| FieldKind::Ragged { dtype };
    assert_eq!(of(&["1", "-2"]), number(Dtype::I64));
    assert_eq!(of(&["1", "2.0"]), number(Dtype::F64));
    assert_eq!(of(&["1", "null", "2.5"]), number(Dtype::F64));
    assert_eq!(of(&["1", "null"]), vector(Dtype::I64));
    assert_eq!(of(&["true", "false"]), number(Dtype::Bool));
    assert_eq!(of(&["true", "null"]), vector(Dtype::Bool));
    assert_eq!(of(&["[1]", "[]", "null"]), vector(Dtype::I64));
    assert_eq!(of(&["[1]", "[0.5]"]), vector(Dtype::F64));
    for mixed in [["1", "true"], ["1", "\"1\""], ["[1]", "[[1]]"], ["9223372036854775808", "1"]] {
        assert_eq!(of(&mixed), FieldKind::Text, "{mixed:?}");
    }
}

#[test]
fn of_two_members_of_one_key_the_last_holds() {
    let stored = b"\xef\xbb\xbf{\"a\": \"x\", \"\\u0061\": 7}\n{\"a\": 8}";
    let survey = Jsonl.survey(stored, "a", 0).unwrap();
    assert_eq!(survey.schema.fields.len(), 1);
    let rows = read(&Jsonl, stored, &survey, &survey.schema).unwrap();
    assert_eq!(rows.iter().map(|row| row["a"][0]).collect::<Vec<_>>(), [7, 8]);
}

/// A dataset whose samples have ever new fields would cost more to keep than it holds.
#[test]
fn fields_are_bounded() {
    let names: Vec<String> = (0..5000).map(|number| format!("a.{number:x}")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
    assert!(refusal(&Webdataset, &archive(&members)).1.contains("more than 4096 fields"));
    let line: Vec<String> = (0..5000).map(|number| format!("\"{number}\":1")).collect();
    let line = format!("{{{}}}", line.join(","));
    assert!(refusal(&Jsonl, line.as_bytes()).1.contains("more than 4096 keys"));
    let features: Vec<(&str, List)> =
        names.iter().map(|name| (&name[..], List::Integers(vec![1]))).collect();
    assert!(refusal(&Tfrecord, &tfrecord(&[features], true)).1.contains("more than 4096 features"));
}
