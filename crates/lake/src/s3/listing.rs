//! One page of a listing.
//!
//! Read here and not by `object_store`, which fails a whole page for one foreign name it does not
//! like; what has no sound key is passed over, as by every engine.

use chrono::{DateTime, Utc};
use forebay_types::Key;
use serde::Deserialize;

use crate::Listed;

/// A page of a listing, as it came.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Page {
    #[serde(default)]
    contents: Vec<Entry>,
    /// Where the next page begins; none: this is the last.
    #[serde(default)]
    pub(super) next_continuation_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    size: u64,
    last_modified: DateTime<Utc>,
}

impl Page {
    pub(super) fn read(body: &[u8]) -> Result<Self, quick_xml::DeError> {
        quick_xml::de::from_reader(body)
    }

    /// The objects below `root`, which is empty or ends with `/`.
    pub(super) fn objects(&self, root: &str) -> impl Iterator<Item = Listed> {
        self.contents.iter().filter_map(move |entry| {
            let key = Key::new(entry.key.strip_prefix(root)?).ok()?;
            let modified_unix_ms = u64::try_from(entry.last_modified.timestamp_millis());
            let modified_unix_ms = modified_unix_ms.unwrap_or_default();
            Some(Listed { key, bytes: entry.size, modified_unix_ms })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_passed_over_and_entities_are_read() {
        let entry = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
                 <ETag>\"x\"</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        };
        let keys =
            ["lake/a/b", "lake/a//b", "lake/", "lake/.x", "other/c", "lake/x&amp;y", "lake/z"];
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>{}\
             <NextContinuationToken>t&amp;u</NextContinuationToken></ListBucketResult>",
            keys.map(entry).concat()
        );
        let page = Page::read(body.as_bytes()).unwrap();
        assert_eq!(page.next_continuation_token.as_deref(), Some("t&u"));
        let found: Vec<_> = page.objects("lake/").collect();
        let names: Vec<_> = found.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(names, ["a/b", "z"]);
        assert_eq!((found[0].bytes, found[0].modified_unix_ms), (7, 1_767_323_045_678));
    }
}
