//! Version 1 of every format. `docs/format/` draws the bytes.

pub mod dataset;
