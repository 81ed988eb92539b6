//! Every dialect by its name, as index manifests spell it.

use std::sync::Arc;

use crate::{Arrow, Dialect, Error, Jsonl, LitData, Mds, Parquet, Tfrecord, Webdataset};

/// The formats this build reads. All but the last need nothing but their files ([`plain`]).
pub const FORMATS: [&str; 7] =
    ["webdataset", "parquet", "arrow", "jsonl", "tfrecord", "mds", LITDATA];
/// The one format whose files say nothing about their fields: its dialect is made from an index.
const LITDATA: &str = "litdata";

/// The dialects that need to know nothing beforehand.
#[must_use]
pub fn plain() -> [Arc<dyn Dialect>; 6] {
    [
        Arc::new(Webdataset),
        Arc::new(Parquet),
        Arc::new(Arrow),
        Arc::new(Jsonl),
        Arc::new(Tfrecord),
        Arc::new(Mds),
    ]
}

/// The dialect of this name, for a dataset with this context; `None` for a name this build does
/// not know.
///
/// # Errors
/// When the context is none of that dialect's.
pub fn named(name: &str, context: &str) -> Result<Option<Arc<dyn Dialect>>, Error> {
    if name == LITDATA {
        return Ok(Some(Arc::new(LitData::of_context(context)?)));
    }
    Ok(plain().into_iter().find(|dialect| dialect.name() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_the_dialect_that_bears_it() {
        for name in FORMATS {
            let context = r#"{"fields":[],"tokens":false}"#;
            assert_eq!(named(name, context).unwrap().unwrap().name(), name);
        }
        assert!(named("litdata", "{").is_err());
        assert!(named("hdf5", "").unwrap().is_none());
    }
}
