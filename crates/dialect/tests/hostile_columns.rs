//! Hostile bytes in the column formats: an error or some value, never a panic or a hang.

use std::{fs, path::PathBuf};

use forebay_dialect::{Arrow, Cut, Dialect, Form, LitData, Mds, Parquet, Survey};
use proptest::{prelude::*, sample::Index};

fn stored(path: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/column_formats");
    fs::read(folder.join(path)).unwrap()
}

const FILES: [(&str, &str); 13] = [
    ("arrow", "arrow/stream.arrow"),
    ("arrow", "arrow/file.arrow"),
    ("arrow", "hugging_face/data-00000-of-00002.arrow"),
    ("parquet", "parquet/plain.parquet"),
    ("parquet", "parquet/snappy.parquet"),
    ("parquet", "parquet/zstd.parquet"),
    ("parquet", "parquet/images.parquet"),
    ("mds", "mds_raw/shard.00000.mds"),
    ("mds", "mds_zstd/shard.00001.mds.zstd"),
    ("mds", "mds_gzip/shard.00001.mds.gz"),
    ("litdata", "litdata/chunk-0-0.bin"),
    ("litdata", "litdata_zstd/chunk-0-0.zstd.bin"),
    ("litdata", "litdata_tokens/chunk-0-1.bin"),
];

fn dialect(name: &str, path: &str) -> Box<dyn Dialect> {
    match name {
        "arrow" => Box::new(Arrow),
        "parquet" => Box::new(Parquet),
        "mds" => Box::new(Mds),
        _ => {
            let folder = path.rsplit_once('/').unwrap().0;
            Box::new(LitData::new(&stored(&format!("{folder}/index.json"))).unwrap())
        }
    }
}

/// One thing done to a file.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Word(Index, u32),
    Cut(Index),
    Swap(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word =
        prop_oneof![Just(0), Just(u32::MAX), Just(1 << 31), Just(i32::MAX as u32), any::<u32>()];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (any::<Index>(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

fn spoil(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.len() < 4 {
        return;
    }
    match damage {
        Damage::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Damage::Word(at, word) => {
            let at = at.index(bytes.len() - 3);
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Swap(a, b) => {
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            bytes.swap(a, b);
        }
    }
}

/// Asks for everything an extent could be asked for.
fn read_extent(dialect: &dyn Dialect, stored: &[u8], cut: &Cut, survey: &Survey) {
    let mut content = Vec::new();
    if cut.form == Form::Plain {
        content.extend_from_slice(stored);
    } else if dialect.decode(stored, &cut.form, &survey.schema, "file", &mut content).is_err() {
        return;
    }
    read_content(dialect, &content, survey);
}

fn read_content(dialect: &dyn Dialect, content: &[u8], survey: &Survey) {
    let Ok(rows) = dialect.open(content, &survey.schema, &survey.context, "file") else { return };
    for range in rows.framing(content) {
        assert!(range.start <= range.end && range.end <= content.len());
    }
    // A damaged count of rows may be large; each row must hold on its own.
    for row in (0..rows.rows().min(64)).chain([rows.rows(), u32::MAX]) {
        let place = rows.place(content, row);
        assert!(place.start <= place.end && place.end <= content.len());
        for (number, field) in survey.schema.fields.iter().enumerate() {
            if let Ok(value) = rows.value(content, row, number) {
                let sound = match field.kind.fixed_bytes() {
                    Some(bytes) => value.len() == bytes,
                    None => value.len() % field.kind.item_bytes() == 0,
                };
                assert!(sound, "{} has {} bytes", field.name, value.len());
            }
        }
    }
}

fn slice<'a>(stored: &'a [u8], cut: &Cut) -> &'a [u8] {
    let start = usize::try_from(cut.offset).unwrap();
    &stored[start..start + usize::try_from(cut.bytes).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The file is damaged before it is surveyed.
    #[test]
    fn a_survey_survives(file in 0..FILES.len(), damages in prop::collection::vec(damage(), 1..5)) {
        let (name, path) = FILES[file];
        let dialect = dialect(name, path);
        let mut bytes = stored(path);
        damages.iter().for_each(|damage| spoil(&mut bytes, damage));
        if let Ok(survey) = dialect.survey(&bytes, "file", 1) {
            let mut end = 0;
            for cut in &survey.cuts {
                prop_assert!(cut.rows > 0 && cut.offset >= end);
                end = cut.offset + cut.bytes;
                prop_assert!(end <= bytes.len() as u64);
                read_extent(dialect.as_ref(), slice(&bytes, cut), cut, &survey);
            }
        }
    }

    /// An extent is damaged after a sound survey: on its way to the node.
    #[test]
    fn an_extent_survives(
        file in 0..FILES.len(),
        extent in any::<Index>(),
        damages in prop::collection::vec(damage(), 1..5),
    ) {
        let (name, path) = FILES[file];
        let dialect = dialect(name, path);
        let whole = stored(path);
        let survey = dialect.survey(&whole, "file", 1).unwrap();
        let cut = extent.get(&survey.cuts);
        let mut bytes = slice(&whole, cut).to_vec();
        damages.iter().for_each(|damage| spoil(&mut bytes, damage));
        read_extent(dialect.as_ref(), &bytes, cut, &survey);
    }

    /// Decoded content is damaged on the node.
    #[test]
    fn content_survives(
        file in 0..FILES.len(),
        extent in any::<Index>(),
        damages in prop::collection::vec(damage(), 1..5),
    ) {
        let (name, path) = FILES[file];
        let dialect = dialect(name, path);
        let whole = stored(path);
        let survey = dialect.survey(&whole, "file", 1).unwrap();
        let cut = extent.get(&survey.cuts);
        let mut content = Vec::new();
        if cut.form == Form::Plain {
            content.extend_from_slice(slice(&whole, cut));
        } else {
            dialect.decode(slice(&whole, cut), &cut.form, &survey.schema, "file", &mut content).unwrap();
        }
        damages.iter().for_each(|damage| spoil(&mut content, damage));
        read_content(dialect.as_ref(), &content, &survey);
    }

    /// LitData's index is another's file too.
    #[test]
    fn an_index_survives(damages in prop::collection::vec(damage(), 1..5)) {
        let mut index = stored("litdata/index.json");
        damages.iter().for_each(|damage| spoil(&mut index, damage));
        if let Ok(dialect) = LitData::new(&index) {
            let _ = dialect.survey(&stored("litdata/chunk-0-0.bin"), "file", 1);
        }
    }
}
