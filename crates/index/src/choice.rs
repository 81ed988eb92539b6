//! Which dialect reads the files.
//!
//! Formats are told apart by file names: the one that claims most bytes is taken. Whether a file
//! is what its name says, its survey finds out.

use std::{collections::BTreeSet, fmt, sync::Arc};

use forebay_dialect::{Dialect, FORMATS, LitData, plain};
use forebay_lake::Purpose;
use forebay_types::Key;

use crate::{
    Error,
    source::{Endings, File, Opened},
};

const LITDATA: &str = "litdata";
/// What describes the chunks of a LitData folder.
const LITDATA_INDEX: &str = "index.json";
/// The largest such file: some hundred bytes for each chunk.
const LITDATA_INDEX_BYTES_MAX: u64 = 256 << 20;

/// How the dialect is chosen.
#[derive(Clone, Default)]
pub enum Choice {
    /// By the files' names.
    #[default]
    Detect,
    /// By the name of its format, one of [`FORMATS`].
    Named(String),
    /// This one.
    Given(Arc<dyn Dialect>),
}

impl Choice {
    pub(crate) fn decide(
        &self,
        source: &Opened,
        files: &[File],
    ) -> Result<Arc<dyn Dialect>, Error> {
        match self {
            Self::Given(dialect) => Ok(dialect.clone()),
            Self::Named(format) if format == LITDATA => litdata(source, files)?.ok_or_else(|| {
                let (path, store) = (format!("…/{LITDATA_INDEX}"), source.url().into());
                Error::NothingThere { path, store }
            }),
            Self::Named(format) => plain()
                .into_iter()
                .find(|dialect| dialect.name() == format)
                .ok_or_else(|| Error::Format { format: format.clone(), known: FORMATS.join(", ") }),
            Self::Detect => {
                let mut dialects = plain().to_vec();
                dialects.extend(litdata(source, files)?);
                detect(dialects, source, files)
            }
        }
    }
}

fn detect(
    dialects: Vec<Arc<dyn Dialect>>,
    source: &Opened,
    files: &[File],
) -> Result<Arc<dyn Dialect>, Error> {
    let claimed = |dialect: &Arc<dyn Dialect>| {
        let claimed = files.iter().filter(|file| dialect.claims(&file.path));
        claimed.fold((0, 0), |(bytes, count), file| (bytes + file.bytes, count + 1))
    };
    let mut ranked: Vec<((u64, u64), Arc<dyn Dialect>)> =
        dialects.into_iter().map(|dialect| (claimed(&dialect), dialect)).collect();
    ranked.retain(|((_, count), _)| *count > 0);
    ranked.sort_by_key(|(claimed, _)| std::cmp::Reverse(*claimed));
    match &ranked[..] {
        [] => {
            let mut endings = Endings::default();
            files.iter().for_each(|file| endings.count(file));
            let (store, passed_over) = (source.url().into(), endings.text());
            Err(Error::NoFiles { store, files: files.len() as u64, passed_over })
        }
        [(most, first), (as_many, second), ..] if most == as_many => Err(Error::Ambiguous {
            store: source.url().into(),
            first: first.name(),
            second: second.name(),
        }),
        [(_, dialect), ..] => Ok(dialect.clone()),
    }
}

/// LitData's dialect, made from the index beside its chunks; none if there is no such folder.
fn litdata(source: &Opened, files: &[File]) -> Result<Option<Arc<dyn Dialect>>, Error> {
    let is_chunk = |name: &str| name.starts_with("chunk-") && name.ends_with(".bin");
    let folders: BTreeSet<&str> = files
        .iter()
        .filter(|file| is_chunk(file.key.file_name()))
        .map(|file| above(&file.key))
        .collect();
    let mut decided: Option<(Key, LitData)> = None;
    for file in files.iter().filter(|file| file.key.file_name() == LITDATA_INDEX) {
        if !folders.contains(above(&file.key)) {
            continue;
        }
        let bytes = source.lake.read(&file.key, Purpose::Source, LITDATA_INDEX_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| source.changed(&file.key))?;
        let dialect = LitData::new(&bytes)
            .map_err(|error| Error::Dialect { store: source.url().into(), source: error })?;
        match &decided {
            // Its settings are all it consists of, and what it prints as.
            Some((first, other)) if format!("{other:?}") != format!("{dialect:?}") => {
                return Err(Error::Contexts { first: first.clone(), second: file.key.clone() });
            }
            Some(_) => {}
            None => decided = Some((file.key.clone(), dialect)),
        }
    }
    Ok(decided.map(|(_, dialect)| Arc::new(dialect) as Arc<dyn Dialect>))
}

fn above(key: &Key) -> &str {
    key.as_str().rsplit_once('/').map_or("", |(above, _)| above)
}

impl fmt::Debug for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detect => formatter.write_str("Detect"),
            Self::Named(format) => formatter.debug_tuple("Named").field(format).finish(),
            Self::Given(dialect) => formatter.debug_tuple("Given").field(&dialect.name()).finish(),
        }
    }
}
