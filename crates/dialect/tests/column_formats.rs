//! Files of the column formats as their own libraries wrote them, read from survey to value.
//!
//! `fixtures/make_column_formats.py` makes the files and says what went in.

use std::{fs, path::PathBuf};

use forebay_dialect::{Arrow, Cut, Dialect, Error, Form, LitData, Mds, Parquet, Survey};
use forebay_types::{Field, Schema};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    dialect: String,
    path: String,
    fields: Vec<Field>,
    /// How many extents there are when each is as small as can be.
    extents: Option<usize>,
    /// Values as hexadecimal; null where asking is an error.
    rows: Vec<Vec<Option<String>>>,
    /// A word of the refusal, if the file cannot be fed.
    refused: Option<String>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn stored(path: &str) -> Vec<u8> {
    fs::read(fixtures().join("column_formats").join(path)).unwrap()
}

fn expectations() -> Vec<Expected> {
    let text = fs::read(fixtures().join("expected_columns.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The dialect of a file; LitData's needs the index beside it.
fn dialect(name: &str, path: &str) -> Result<Box<dyn Dialect>, Error> {
    Ok(match name {
        "arrow" => Box::new(Arrow),
        "parquet" => Box::new(Parquet),
        "mds" => Box::new(Mds),
        "litdata" => {
            let folder = path.rsplit_once('/').unwrap().0;
            Box::new(LitData::new(&stored(&format!("{folder}/index.json")))?)
        }
        _ => panic!("unknown dialect {name}"),
    })
}

fn content(
    dialect: &dyn Dialect,
    stored: &[u8],
    cut: &Cut,
    schema: &Schema,
) -> Result<Vec<u8>, Error> {
    let start = usize::try_from(cut.offset).unwrap();
    let stored = &stored[start..start + usize::try_from(cut.bytes).unwrap()];
    if cut.form == Form::Plain {
        return Ok(stored.to_vec());
    }
    let mut content = Vec::new();
    dialect.decode(stored, &cut.form, schema, "file", &mut content)?;
    Ok(content)
}

/// All values as hexadecimal, extent by extent; none where asking is an error.
fn values(dialect: &dyn Dialect, stored: &[u8], survey: &Survey) -> Vec<Vec<Option<String>>> {
    let mut found = Vec::new();
    for cut in &survey.cuts {
        let content = content(dialect, stored, cut, &survey.schema).unwrap();
        let rows = dialect.open(&content, &survey.schema, &survey.context, "file").unwrap();
        assert_eq!(rows.rows(), cut.rows);
        for framing in rows.framing(&content) {
            assert!(framing.end <= content.len());
        }
        for row in 0..rows.rows() {
            let place = rows.place(&content, row);
            let value = |(number, field): (usize, &Field)| {
                let value = rows.value(&content, row, number).ok()?;
                if let Some(bytes) = field.kind.fixed_bytes() {
                    assert_eq!(value.len(), bytes, "{}", field.name);
                }
                if let std::borrow::Cow::Borrowed(value) = value
                    && !value.is_empty()
                {
                    let start = value.as_ptr() as usize - content.as_ptr() as usize;
                    assert!(place.start <= start && start + value.len() <= place.end);
                }
                Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
            };
            found.push(survey.schema.fields.iter().enumerate().map(value).collect());
        }
        assert!(rows.value(&content, rows.rows(), 0).is_err());
        assert!(rows.value(&content, 0, survey.schema.fields.len()).is_err());
    }
    found
}

/// Surveys and decodes, as the indexer and a node would.
fn all(name: &str, path: &str, extent_bytes: u64) -> Result<(Survey, Vec<u8>), Error> {
    let dialect = dialect(name, path)?;
    let stored = stored(path);
    let survey = dialect.survey(&stored, path, extent_bytes)?;
    for cut in &survey.cuts {
        content(dialect.as_ref(), &stored, cut, &survey.schema)?;
    }
    Ok((survey, stored))
}

#[test]
fn every_value_is_what_went_in() {
    let expectations = expectations();
    assert!(expectations.len() > 25);
    for expected in expectations.iter().filter(|expected| expected.refused.is_none()) {
        let path = &expected.path;
        let dialect = dialect(&expected.dialect, path).unwrap();
        assert!(dialect.claims(path), "{path}");
        for extent_bytes in [1, u64::MAX] {
            let (survey, stored) = all(&expected.dialect, path, extent_bytes).unwrap();
            assert_eq!(survey.schema.fields, expected.fields, "{path}");
            if let Some(extents) = expected.extents.filter(|_| extent_bytes == 1) {
                assert_eq!(survey.cuts.len(), extents, "{path}");
            }
            let found = values(dialect.as_ref(), &stored, &survey);
            assert_eq!(found.len(), expected.rows.len(), "{path}");
            for (row, (found, wanted)) in found.iter().zip(&expected.rows).enumerate() {
                for ((field, found), wanted) in survey.schema.fields.iter().zip(found).zip(wanted) {
                    assert_eq!(found, wanted, "{path}, row {row}, field {}", field.name);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_fed_is_refused_by_name() {
    for expected in expectations() {
        let Some(word) = &expected.refused else { continue };
        let error = all(&expected.dialect, &expected.path, 1).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{}: {error}", expected.path);
        assert!(error.to_string().to_lowercase().contains(word), "{}: {error}", expected.path);
    }
}

#[test]
fn batches_join_up_to_the_wanted_size() {
    let stored = stored("arrow/stream.arrow");
    let one = Arrow.survey(&stored, "file", u64::MAX).unwrap();
    assert_eq!(one.cuts.len(), 1);
    assert_eq!(one.cuts[0].rows, 29);
    let two = Arrow.survey(&stored, "file", one.cuts[0].bytes / 2).unwrap();
    assert_eq!(two.cuts.len(), 2);
    assert_eq!(two.cuts[0].offset + two.cuts[0].bytes, two.cuts[1].offset);
}

#[test]
fn files_of_one_dataset_have_one_context() {
    let surveys: Vec<_> = ["arrow/stream.arrow", "arrow/file.arrow", "arrow/plain.feather"]
        .map(|path| Arrow.survey(&stored(path), path, 1).unwrap())
        .into();
    assert_eq!(surveys[0].context, surveys[1].context);
    assert_eq!(surveys[0].context, surveys[2].context);
}

#[test]
fn side_files_are_not_claimed() {
    for path in ["state.json", "dataset_info.json", "a/cache-0123.arrow", "index.json", "LICENSE"] {
        assert!(!Arrow.claims(path) && !Parquet.claims(path) && !Mds.claims(path), "{path}");
    }
    let lit = dialect("litdata", "litdata/x").unwrap();
    assert!(lit.claims("a/chunk-0-0.zstd.bin") && !lit.claims("index.json"));
}

#[test]
fn values_lie_where_they_are_not_expanded() {
    let (survey, stored) = all("arrow", "arrow/stream.arrow", 1).unwrap();
    let cut = &survey.cuts[0];
    let content = content(&Arrow, &stored, cut, &survey.schema).unwrap();
    let rows = Arrow.open(&content, &survey.schema, &survey.context, "file").unwrap();
    for name in ["i32", "text", "blob", "vector", "grid"] {
        let field = survey.schema.position(name).unwrap();
        let value = rows.value(&content, 4, field).unwrap();
        assert!(matches!(value, std::borrow::Cow::Borrowed(_)), "{name}");
    }
}

/// The layout that nodes keep is read by every later build.
#[test]
fn columns_are_golden() {
    let path = "parquet/images.parquet";
    let (survey, stored) = all("parquet", path, 1).unwrap();
    let content = content(&Parquet, &stored, &survey.cuts[0], &survey.schema).unwrap();
    let golden = fixtures().join("images.columns");
    if std::env::var_os("FOREBAY_WRITE_GOLDEN").is_some() {
        fs::write(&golden, &content).unwrap();
    }
    assert!(fs::read(golden).unwrap() == content, "the columns layout has changed");
}

/// A node must never see content of a decoder that was killed as if it were whole.
#[test]
fn cut_columns_are_refused() {
    let (survey, stored) = all("parquet", "parquet/images.parquet", 1).unwrap();
    let content = content(&Parquet, &stored, &survey.cuts[0], &survey.schema).unwrap();
    for length in 0..content.len() {
        assert!(Parquet.open(&content[..length], &survey.schema, "", "file").is_err());
    }
    let mut newer = content;
    newer[8] = 2;
    let error = Parquet.open(&newer, &survey.schema, "", "file").unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
}

/// A disk that is full is not a damaged file.
#[test]
fn a_full_disk_is_told_as_such() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for (name, path) in
        [("parquet", "parquet/zstd.parquet"), ("mds", "mds_gzip/shard.00000.mds.gz")]
    {
        let (survey, stored) = all(name, path, 1).unwrap();
        let cut = &survey.cuts[0];
        let start = usize::try_from(cut.offset).unwrap();
        let stored = &stored[start..start + usize::try_from(cut.bytes).unwrap()];
        let dialect = dialect(name, path).unwrap();
        let error =
            dialect.decode(stored, &cut.form, &survey.schema, "file", &mut Full).unwrap_err();
        assert_eq!(error.kind(), forebay_types::ErrorKind::Full);
    }
}
