//! Every dialect by its name, as index manifests spell it.

use std::sync::Arc;

use crate::{Arrow, Dialect, Error, Jsonl, LitData, Mds, Parquet, Tfrecord, Webdataset};

/// The dialect of this name, for a dataset with this context; `None` for a name this build does
/// not know.
///
/// # Errors
/// When the context is none of that dialect's.
pub fn named(name: &str, context: &str) -> Result<Option<Arc<dyn Dialect>>, Error> {
    Ok(Some(match name {
        "webdataset" => Arc::new(Webdataset),
        "parquet" => Arc::new(Parquet),
        "arrow" => Arc::new(Arrow),
        "jsonl" => Arc::new(Jsonl),
        "tfrecord" => Arc::new(Tfrecord),
        "mds" => Arc::new(Mds),
        "litdata" => Arc::new(LitData::of_context(context)?),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_the_dialect_that_bears_it() {
        for name in ["webdataset", "parquet", "arrow", "jsonl", "tfrecord", "mds"] {
            assert_eq!(named(name, "").unwrap().unwrap().name(), name);
        }
        let litdata = named("litdata", r#"{"fields":[],"tokens":false}"#).unwrap().unwrap();
        assert_eq!(litdata.name(), "litdata");
        assert!(named("litdata", "{").is_err());
        assert!(named("hdf5", "").unwrap().is_none());
    }
}
