//! The recipe: everything that decides the samples, and nothing else.
//!
//! How many workers there are, how much memory they may use and where the source lies is not part
//! of it: the same recipe and source give the same bytes everywhere.

use serde::{Deserialize, Serialize};

/// How raw text becomes a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// The fields of a JSON record that hold its text, joined by an empty line.
    pub text_fields: Vec<String>,
    /// A field of JSON records by which they belong together: all records with the same value
    /// come into the same split. Records of plain text have none.
    pub group_field: Option<String>,
    /// What a record of a plain-text file is.
    pub text_records: TextRecords,
    /// Records longer than this go to quarantine.
    pub record_bytes_max: u64,
    /// Whether texts are brought into Unicode's normalization form C.
    pub nfc: bool,
    /// Whether line ends become `\n`, runs of blanks one blank, runs of empty lines one empty
    /// line, and blanks at the ends of lines and texts go.
    pub whitespace: bool,
    /// Whether control characters other than line ends and tabs go.
    pub control_characters: bool,
    /// Texts of fewer characters are dropped.
    pub characters_min: u32,
    /// Whether only the first of several equal texts is kept.
    pub deduplicate: bool,
    /// `byte`, or the path of a `tokenizer.json`.
    pub tokenizer: String,
    /// The token of a `tokenizer.json` that ends each document.
    pub end_of_document: String,
    /// Tokens in a row.
    pub row_tokens: u32,
    /// The share of documents that becomes the validation split, from 0 to 1.
    pub validation_share: f64,
    /// Decides splits and the global shuffle.
    pub seed: u64,
    /// About how large a shard is.
    pub shard_bytes: u64,
    /// About how large a record batch in a shard is.
    pub batch_bytes: u64,
}

/// What a record of a plain-text file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRecords {
    /// The whole file.
    File,
    /// What stands between empty lines.
    #[default]
    Paragraph,
    /// Each line.
    Line,
}

/// The tokenizer that needs no file: a token is a byte.
pub(crate) const BYTE: &str = "byte";

const SHARD_BYTES_MAX: u64 = 1 << 30;
const RECORD_BYTES_MAX: u64 = 1 << 30;
const BATCHES_MAX: u64 = 256;
const ROW_TOKENS_MAX: u32 = 1 << 20;

impl Default for Recipe {
    fn default() -> Self {
        Self {
            text_fields: vec!["text".into()],
            group_field: None,
            text_records: TextRecords::default(),
            record_bytes_max: 16 << 20,
            nfc: true,
            whitespace: true,
            control_characters: true,
            characters_min: 16,
            deduplicate: true,
            tokenizer: BYTE.into(),
            end_of_document: "<|endoftext|>".into(),
            row_tokens: 2048,
            validation_share: 0.05,
            seed: 0,
            shard_bytes: 64 << 20,
            batch_bytes: 1 << 20,
        }
    }
}

impl Recipe {
    /// Whether work can start with this recipe.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rules: [(bool, &str); 10] = [
            (!self.text_fields.is_empty(), "`text_fields` names no field"),
            (
                (1..=RECORD_BYTES_MAX).contains(&self.record_bytes_max),
                "`record_bytes_max` is not between 1 and 2^30",
            ),
            (
                (1..=ROW_TOKENS_MAX).contains(&self.row_tokens),
                "`row_tokens` is not between 1 and 2^20",
            ),
            ((0.0..=1.0).contains(&self.validation_share), "`validation_share` is not in [0, 1]"),
            (!self.tokenizer.is_empty(), "`tokenizer` is empty; write `byte` or a path"),
            (!self.end_of_document.is_empty(), "`end_of_document` is empty"),
            (
                (1..=SHARD_BYTES_MAX).contains(&self.shard_bytes),
                "`shard_bytes` is not between 1 and 2^30",
            ),
            (
                (1..=self.shard_bytes).contains(&self.batch_bytes),
                "`batch_bytes` is not between 1 and `shard_bytes`",
            ),
            // Or the page that lists a shard's batches could not be written.
            (
                self.shard_bytes / self.batch_bytes.max(1) <= BATCHES_MAX,
                "`shard_bytes` is more than 256 times `batch_bytes`",
            ),
            // Equal texts of two groups would otherwise lie on both sides of the split.
            (
                self.deduplicate || self.group_field.is_none(),
                "`group_field` needs `deduplicate`, or equal texts could cross the split",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err((*what).into()),
            None => Ok(()),
        }
    }

    /// Rows in a batch and rows in a shard, of `row_bytes` each.
    pub(crate) fn rows(&self, row_bytes: usize) -> (u32, u32) {
        let row_bytes = row_bytes as u64 + 16;
        let per_batch = (self.batch_bytes / row_bytes).max(1);
        let batches = (self.shard_bytes / (per_batch * row_bytes)).max(1);
        (per_batch as u32, (per_batch * batches) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_refused_and_absent_ones_have_defaults() {
        let recipe: Recipe = serde_json::from_str(r#"{"seed":7,"text_records":"line"}"#).unwrap();
        let wanted = Recipe { seed: 7, text_records: TextRecords::Line, ..Recipe::default() };
        assert_eq!(recipe, wanted);
        assert!(serde_json::from_str::<Recipe>(r#"{"sed":7}"#).is_err());
    }

    #[test]
    fn recipes_that_cannot_work_say_why() {
        let refused = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            recipe.check().unwrap_err()
        };
        assert!(Recipe::default().check().is_ok());
        assert!(refused(|recipe| recipe.validation_share = 1.5).contains("validation_share"));
        assert!(refused(|recipe| recipe.validation_share = f64::NAN).contains("validation_share"));
        assert!(refused(|recipe| recipe.row_tokens = 0).contains("row_tokens"));
        let crossing = |recipe: &mut Recipe| {
            recipe.group_field = Some("book".into());
            recipe.deduplicate = false;
        };
        assert!(refused(crossing).contains("cross the split"));
    }

    #[test]
    fn shards_hold_whole_batches() {
        let recipe = Recipe { shard_bytes: 10_000, batch_bytes: 1_000, ..Recipe::default() };
        assert_eq!(recipe.rows(84), (10, 100));
        assert_eq!(recipe.rows(1 << 20), (1, 1));
    }
}
