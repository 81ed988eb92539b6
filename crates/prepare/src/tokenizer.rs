//! Tokenizers: the bytes themselves, or any `tokenizer.json`.
//!
//! Which library reads a `tokenizer.json` and why: `docs/decisions/0002-tokenizers.md`.

use std::{fs, path::Path};

use forebay_format::v1::dataset::{TokenSchema, TokenizerEntry};
use forebay_types::Digest;
use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

use crate::{Error, Recipe, recipe::BYTE};

/// What defines the byte tokenizer, so that it has a digest as every tokenizer has.
const BYTE_DEFINITION: &str = "forebay byte tokenizer 1: token = byte, 256 ends a document";

const BYTES: u32 = 256;

/// No vocabulary is nearly as large; refuses files that are something else.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Makes tokens of text. Shared by all workers.
pub(crate) struct Tokenizer {
    /// What the manifest says about it.
    pub(crate) entry: TokenizerEntry,
    /// The file that defines it, if one does.
    pub(crate) file: Option<Vec<u8>>,
    model: Model,
}

enum Model {
    Byte,
    Library(Box<PipelineTokenizer>, EncodeOptions),
}

impl Tokenizer {
    /// The tokenizer a recipe names.
    pub(crate) fn open(recipe: &Recipe) -> Result<Self, Error> {
        if recipe.tokenizer == BYTE {
            return Ok(Self::byte());
        }
        let path = Path::new(&recipe.tokenizer);
        let bytes = read(path)?;
        let refuse = |what: String| Error::Tokenizer { path: path.into(), what };
        let json = std::str::from_utf8(&bytes).map_err(|error| refuse(error.to_string()))?;
        let ids = Ids::read(json, &recipe.end_of_document).map_err(refuse)?;
        let json = tokenizers::canonicalize_str(json).map_err(|error| refuse(error.to_string()))?;
        let library = tokenizers::from_json(&json).map_err(|error| refuse(error.to_string()))?;
        let entry = TokenizerEntry {
            kind: "tokenizer.json".into(),
            digest: Digest::of(&bytes),
            vocabulary_size: ids.size,
            end_of_document: ids.end_of_document,
        };
        let model = Model::Library(Box::new(library), options());
        Ok(Self { entry, file: Some(bytes), model })
    }

    fn byte() -> Self {
        let entry = TokenizerEntry {
            kind: BYTE.into(),
            digest: Digest::of(BYTE_DEFINITION.as_bytes()),
            vocabulary_size: BYTES + 1,
            end_of_document: BYTES,
        };
        Self { entry, file: None, model: Model::Byte }
    }

    /// The shape of rows of these tokens: the narrowest that holds every one.
    pub(crate) fn schema(&self, row_tokens: u32) -> TokenSchema {
        let token_bytes = if self.entry.vocabulary_size <= 1 << 16 { 2 } else { 4 };
        TokenSchema { row_tokens, token_bytes }
    }

    /// Replaces `into` by the tokens of `text` and the token that ends a document.
    pub(crate) fn encode(&self, text: &str, into: &mut Tokens) -> Result<(), String> {
        into.ids.clear();
        match &self.model {
            Model::Byte => into.ids.extend(text.bytes().map(u32::from)),
            Model::Library(library, options) => {
                into.scratch.clear();
                library
                    .encode_into(text, options, &mut into.scratch)
                    .map_err(|error| error.to_string())?;
                into.ids.extend(into.scratch.iter().map(|token| token.id()));
            }
        }
        into.ids.push(self.entry.end_of_document);
        Ok(())
    }
}

/// Buffers of one worker, used again for each document.
#[derive(Default)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    scratch: Vec<PipelineToken>,
}

/// Text is text: `<|endoftext|>` inside a document is spelled out, never taken for the token, and
/// the file's own wishes to add, cut or pad do not apply to rows that are packed.
fn options() -> EncodeOptions {
    use tokenizers::pipeline::Override;
    EncodeOptions {
        add_special_tokens: false,
        encode_special_tokens: true,
        padding: Override::Off,
        truncation: Override::Off,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let in_file = |source| Error::Read { path: path.into(), source };
    let bytes = fs::metadata(path).map_err(in_file)?.len();
    if bytes > FILE_BYTES_MAX {
        let what = format!("{bytes} bytes, the limit is {FILE_BYTES_MAX}");
        return Err(Error::Tokenizer { path: path.into(), what });
    }
    fs::read(path).map_err(in_file)
}

/// The numbers a `tokenizer.json` gives to its tokens.
struct Ids {
    size: u32,
    end_of_document: u32,
}

impl Ids {
    fn read(json: &str, end_of_document: &str) -> Result<Self, String> {
        use serde_json::Value;
        let file: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let added = file["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let added =
            added.iter().filter_map(|token| Some((token["content"].as_str()?, &token["id"])));
        let named = match &file["model"]["vocab"] {
            Value::Object(vocabulary) => {
                vocabulary.iter().map(|(token, id)| (token.as_str(), id)).collect()
            }
            _ => Vec::new(),
        };
        // Unigram models number their tokens by their order.
        let listed = file["model"]["vocab"].as_array().map_or(0, Vec::len) as u64;
        let ids = || added.clone().chain(named.iter().copied());
        let size = ids().filter_map(|(_, id)| id.as_u64()).map(|id| id + 1).fold(listed, u64::max);
        let end =
            ids().find(|(token, _)| *token == end_of_document).and_then(|(_, id)| id.as_u64());
        let end = end.ok_or_else(|| {
            format!("it has no token `{end_of_document}`; name one in `end_of_document`")
        })?;
        match (u32::try_from(size), u32::try_from(end)) {
            (Ok(size), Ok(end_of_document)) => Ok(Self { size, end_of_document }),
            _ => Err(format!("its largest token is {size}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus_tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tokenizer.json");
        Tokenizer::open(&Recipe { tokenizer: path.into(), ..Recipe::default() }).unwrap()
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut tokens = Tokens::default();
        tokenizer.encode(text, &mut tokens).unwrap();
        tokens.ids
    }

    #[test]
    fn bytes_are_tokens() {
        let tokenizer = Tokenizer::byte();
        assert_eq!(encode(&tokenizer, "aé"), [97, 0xc3, 0xa9, 256]);
        assert_eq!(tokenizer.schema(8), TokenSchema { row_tokens: 8, token_bytes: 2 });
    }

    /// Made with the Python package `tokenizers` 0.23.3, the released implementation:
    /// `Tokenizer.from_file("data/tokenizer.json")`, `encode_special_tokens = True`.
    #[test]
    fn a_tokenizer_file_gives_the_tokens_of_the_reference() {
        let tokenizer = corpus_tokenizer();
        assert_eq!((tokenizer.entry.vocabulary_size, tokenizer.entry.end_of_document), (4096, 0));
        for (text, ids) in REFERENCE {
            let (end, found) =
                encode(&tokenizer, text).split_last().map(|(e, f)| (*e, f.to_vec())).unwrap();
            assert_eq!((found.as_slice(), end), (*ids, 0), "{text:?}");
        }
    }

    const REFERENCE: &[(&str, &[u32])] = &[
        ("Call me Ishmael.", &[35, 474, 482, 2293, 3989, 65, 779, 14]),
        ("a <|endoftext|> b", &[65, 221, 28, 92, 373, 79, 1354, 770, 84, 92, 30, 274]),
        ("", &[]),
        ("  two  spaces\n\n\ttab", &[221, 843, 221, 535, 472, 276, 199, 199, 198, 84, 371]),
        (
            "Fellow-Citizens of the Senate and House of Representatives:",
            &[38, 69, 1018, 13, 35, 3982, 268, 260, 1628, 284, 2003, 268, 2538, 26],
        ),
        (
            "naïve café — 你好 🐋 e\u{301}",
            &[
                78, 65, 128, 108, 307, 1333, 70, 128, 103, 221, 793, 221, 161, 122, 255, 162, 99,
                122, 221, 173, 254, 239, 234, 302, 137, 224,
            ],
        ),
        (
            "it's 1790's $1,234.56!!!",
            &[271, 518, 450, 2948, 16, 518, 598, 17, 12, 3728, 20, 14, 21, 22, 1, 1, 1],
        ),
    ];

    #[test]
    fn files_that_are_no_tokenizer_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        let open = || {
            let tokenizer = path.to_str().unwrap().into();
            Tokenizer::open(&Recipe { tokenizer, ..Recipe::default() }).err().unwrap().to_string()
        };
        assert!(open().contains("tokenizer.json"), "absent");
        fs::write(&path, "{}").unwrap();
        assert!(open().contains("no token `<|endoftext|>`"));
        fs::write(&path, r#"{"added_tokens":[{"id":0,"content":"<|endoftext|>"}]}"#).unwrap();
        assert!(open().contains("tokenizer.json"), "no model");
    }
}
