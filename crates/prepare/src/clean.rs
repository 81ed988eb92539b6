//! Cleaning: from a raw record to its text, or to the reason why it has none. Pure.

use std::{borrow::Cow, fmt};

use forebay_format::v1::quarantine::Reason;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::{Recipe, normalize::normalize, raw::Cut};

/// What cleaning makes of a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Cleaned {
    /// A document.
    Kept {
        /// Its normalized text.
        text: String,
        /// What it belongs together with.
        group: Option<String>,
    },
    /// A good record that is left out.
    Dropped(Dropped),
    /// A record that cannot be read.
    Bad(Reason, String),
}

/// Why a good record is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dropped {
    /// Nothing but blanks.
    Empty,
    /// Fewer characters than the recipe asks for.
    TooShort,
    /// An equal text comes earlier.
    Duplicate,
    /// All its tokens would be in the row that was not filled at the end.
    RowNotFilled,
}

impl Dropped {
    /// The word in the manifest's counts.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooShort => "too_short",
            Self::Duplicate => "duplicate",
            Self::RowNotFilled => "row_not_filled",
        }
    }
}

/// Cleans one whole record.
pub(crate) fn clean(record: &[u8], cut: Cut, recipe: &Recipe) -> Cleaned {
    let text = match std::str::from_utf8(record) {
        Ok(text) => text.trim_start_matches('\u{feff}'),
        Err(error) => return Cleaned::Bad(Reason::InvalidUtf8, error.to_string()),
    };
    let (text, group) = match cut {
        Cut::Text(_) => (Cow::Borrowed(text), None),
        Cut::JsonLines => match fields(text, recipe) {
            Ok((text, group)) => (Cow::Owned(text), group),
            Err((reason, detail)) => return Cleaned::Bad(reason, detail),
        },
    };
    let text = normalize(&text, recipe);
    if text.trim().is_empty() {
        return Cleaned::Dropped(Dropped::Empty);
    }
    // Counting stops at the limit, not at the end of the text.
    if text.chars().take(recipe.characters_min as usize).count() < recipe.characters_min as usize {
        return Cleaned::Dropped(Dropped::TooShort);
    }
    Cleaned::Kept { text: text.into_owned(), group }
}

type Fields = Result<(String, Option<String>), (Reason, String)>;

fn fields(json: &str, recipe: &Recipe) -> Fields {
    let invalid = |error: serde_json::Error| (Reason::InvalidJson, error.to_string());
    let mut reader = serde_json::Deserializer::from_str(json);
    let found = Wanted(recipe).deserialize(&mut reader).map_err(invalid)?;
    reader.end().map_err(invalid)?;
    let mut texts = Vec::with_capacity(found.texts.len());
    for (name, text) in recipe.text_fields.iter().zip(&found.texts) {
        match text {
            Some(Value::String(text)) => texts.push(text.as_str()),
            Some(_) => return Err((Reason::NoText, format!("`{name}` is not a string"))),
            None => return Err((Reason::NoText, format!("no field `{name}`"))),
        }
    }
    Ok((texts.join("\n\n"), found.group.filter(|group| !group.is_null()).map(as_text)))
}

/// A group's value as text: a string is itself, anything else its JSON.
fn as_text(value: Value) -> String {
    if let Value::String(text) = value { text } else { value.to_string() }
}

/// Picks the recipe's fields out of an object without building the rest of it.
struct Wanted<'a>(&'a Recipe);

struct Found {
    texts: Vec<Option<Value>>,
    group: Option<Value>,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found { texts: vec![None; self.0.text_fields.len()], group: None };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let text = self.0.text_fields.iter().position(|name| *name == key);
            let is_group = self.0.group_field.as_deref() == Some(&key);
            if text.is_none() && !is_group {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<Value>()?;
            if is_group {
                found.group = Some(value.clone());
            }
            if let Some(index) = text {
                found.texts[index] = Some(value);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TextRecords;

    fn recipe() -> Recipe {
        Recipe { characters_min: 3, group_field: Some("book".into()), ..Recipe::default() }
    }

    fn json(line: &str) -> Cleaned {
        clean(line.as_bytes(), Cut::JsonLines, &recipe())
    }

    fn reason(cleaned: Cleaned) -> Reason {
        match cleaned {
            Cleaned::Bad(reason, _) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn kept(text: &str, group: Option<&str>) -> Cleaned {
        Cleaned::Kept { text: text.into(), group: group.map(Into::into) }
    }

    #[test]
    fn the_named_fields_are_taken_and_the_others_are_not() {
        assert_eq!(json(r#"{"a":[{"text":1}],"text":" abc ","book":"x"}"#), kept("abc", Some("x")));
        assert_eq!(json(r#"{"text":"a\u0301bc","book":7}"#), kept("ábc", Some("7")));
        assert_eq!(json(r#"{"\u0074ext":"abc","book":null}"#), kept("abc", None));
        let recipe = Recipe { text_fields: vec!["t".into(), "b".into()], ..recipe() };
        let line = br#"{"b":"body","t":"title"}"#;
        assert_eq!(clean(line, Cut::JsonLines, &recipe), kept("title\n\nbody", None));
    }

    #[test]
    fn bad_records_have_their_reason() {
        for line in ["{", "[1]", "1", "", r#"{"text":"abc"} x"#, r#"{"text":"\ud800"}"#] {
            assert_eq!(reason(json(line)), Reason::InvalidJson, "{line}");
        }
        for line in ["{}", r#"{"text":null}"#, r#"{"text":1}"#, r#"{"Text":"abc"}"#] {
            assert_eq!(reason(json(line)), Reason::NoText, "{line}");
        }
        let invalid = clean(b"{\"text\":\"\xff\"}", Cut::JsonLines, &recipe());
        assert_eq!(reason(invalid), Reason::InvalidUtf8);
    }

    #[test]
    fn good_records_without_enough_text_are_dropped() {
        assert_eq!(json(r#"{"text":" \n "}"#), Cleaned::Dropped(Dropped::Empty));
        assert_eq!(json(r#"{"text":"a  b"}"#), kept("a b", None));
        assert_eq!(json(r#"{"text":"a  "}"#), Cleaned::Dropped(Dropped::TooShort));
        let plain = clean("\u{feff}äöü".as_bytes(), Cut::Text(TextRecords::File), &recipe());
        assert_eq!(plain, kept("äöü", None));
    }
}
