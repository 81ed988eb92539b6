//! Store URLs.

use std::{path::Path, sync::Arc};

use forebay_runtime::Runtime;

use crate::{Absent, Directory, Error, Memory, Store};

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
        Some(("memory", "")) => Ok(Arc::new(Memory::new(runtime))),
        Some((scheme, _)) => Err(refuse(format!(
            "this build knows file:///path, a plain path and memory://, and no `{scheme}`"
        ))),
    }
}
