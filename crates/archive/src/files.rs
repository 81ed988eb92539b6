//! The files of a package, but for the weights and what follows from the others.

use forebay_format::{
    record,
    v1::{journal::encode_entry, package::PackageFile},
};
use forebay_types::Key;

use crate::{
    Error, card, checkpoint::Weights, digests::Digests, list::LINEAGE, metrics, report,
    story::Story,
};

/// A small file.
pub(crate) struct File {
    pub path: Key,
    pub body: Vec<u8>,
}

impl File {
    pub(crate) fn new(path: &'static str, body: Vec<u8>) -> Self {
        Self { path: key(path), body }
    }

    pub(crate) fn entry(&self) -> PackageFile {
        Digests::of(&self.body).entry(self.path.clone())
    }
}

/// The path of a file that every package has.
pub(crate) fn key(path: &'static str) -> Key {
    Key::new(path).expect("the files of a package have sound names")
}

/// All small files but `SHA256SUMS`, ordered by path.
pub(crate) fn of(
    story: &Story,
    weights: &Weights,
    feed: &serde_json::Value,
) -> Result<Vec<File>, Error> {
    let (lineage, _) = record::encode(&story.lineage(feed, weights))?;
    let mut files = vec![
        File::new("MODEL_CARD.md", card::markdown(story, weights.parameters()).into_bytes()),
        File::new("config.json", pretty(&story.run.configuration)),
        File::new("evaluation.json", story.evaluation_bytes.clone()),
        File::new("journal.jsonl", journal(story)?),
        File::new(LINEAGE, lineage),
        File::new("metrics.csv", metrics::csv(&story.entries).into_bytes()),
        File::new("report.html", report::html(&story.run, &story.entries).into_bytes()),
        File::new("run.json", story.run_bytes.clone()),
    ];
    files.sort_by(|one, next| one.path.cmp(&next.path));
    Ok(files)
}

fn journal(story: &Story) -> Result<Vec<u8>, Error> {
    let mut lines = Vec::new();
    for entry in &story.entries {
        lines.extend(encode_entry(entry)?);
    }
    Ok(lines)
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    format!("{sorted:#}\n").into_bytes()
}

/// What `sha256sum -c` reads.
pub(crate) fn sums(files: &[PackageFile]) -> String {
    files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect()
}
