//! How stored bytes become the content that is read.

use serde::{Deserialize, Serialize};

/// How the content of an extent is made from its stored bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// They are the content.
    #[default]
    Plain,
    /// By decompressing a gzip stream (of one or more members).
    Gzip,
    /// By decompressing a zstd stream (of one or more frames).
    Zstd,
    /// By its dialect, which needs this to know how: for Parquet, the part of the footer that
    /// describes the extent's row group.
    Dialect(String),
}
