//! Store URLs.

use std::{env, path::Path, sync::Arc};

use forebay_runtime::Runtime;

use crate::{Absent, Directory, Error, Memory, S3, S3Settings, Store};

/// Opens the store that `url` names.
pub(crate) fn open(url: &str, absent: Absent, runtime: &Runtime) -> Result<Arc<dyn Store>, Error> {
    let refuse = |why: String| Error::Url { url: url.to_owned(), why };
    match url.split_once("://") {
        None if url.is_empty() => Err(refuse("it is empty".into())),
        None => Ok(Arc::new(Directory::open_or(Path::new(url), absent, runtime)?)),
        Some(("file", path)) if path.starts_with('/') => {
            Ok(Arc::new(Directory::open_or(Path::new(path), absent, runtime)?))
        }
        Some(("file", _)) => {
            Err(refuse("a file URL names an absolute path: file:///srv/lake".into()))
        }
        Some(("s3", _)) => {
            let store = S3::new(url, variables(), S3Settings::default(), runtime)?;
            store.check()?;
            Ok(Arc::new(store))
        }
        Some(("memory", "")) => Ok(Arc::new(Memory::new(runtime))),
        Some((scheme, _)) => Err(refuse(format!(
            "this build knows file:///path, a plain path, s3://bucket/prefix and memory://, and no `{scheme}`"
        ))),
    }
}

/// The environment, as far as it is text.
fn variables() -> impl Iterator<Item = (String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
