//! Bringing texts that mean the same into the same bytes.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::Recipe;

/// The normalized form of `text`. Normalizing again changes nothing.
pub(crate) fn normalize<'a>(text: &'a str, recipe: &Recipe) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    // Removing first: a control character between a letter and its accent keeps them apart.
    if recipe.control_characters && text.contains(is_unwanted) {
        text = Cow::Owned(line_ends(&text).chars().filter(|c| !is_unwanted(*c)).collect());
    }
    if recipe.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
        text = Cow::Owned(text.nfc().collect());
    }
    if recipe.whitespace && !is_tidy(&text) { Cow::Owned(tidy(&text)) } else { text }
}

/// Control characters and the byte-order mark; not what separates words and lines.
fn is_unwanted(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t')) || character == '\u{feff}'
}

/// A carriage return is a line end, not something to drop.
fn line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Whether [`tidy`] would change nothing, for the plain case that most texts are.
fn is_tidy(text: &str) -> bool {
    let bytes = text.as_bytes();
    let blank = |byte: u8| byte == b' ' || byte == b'\n';
    text.is_ascii()
        && !bytes.iter().any(|byte| matches!(byte, b'\t' | b'\r' | 0x0b | 0x0c))
        && !bytes.first().is_some_and(|byte| blank(*byte))
        && !bytes.last().is_some_and(|byte| blank(*byte))
        && !bytes.windows(2).any(|pair| blank(pair[0]) && blank(pair[1]) && pair != b"\n\n")
        && !bytes.windows(3).any(|three| three == b"\n\n\n")
}

/// One blank for runs of blanks, none at the ends of lines; at most one empty line.
fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in line_ends(text).split('\n') {
        let mut words = line.split_whitespace().peekable();
        if words.peek().is_none() {
            empty_lines += 1;
            continue;
        }
        if !tidied.is_empty() {
            tidied.push_str(if empty_lines > 0 { "\n\n" } else { "\n" });
        }
        empty_lines = 0;
        push_words(&mut tidied, words);
    }
    tidied
}

fn push_words<'a>(into: &mut String, words: impl Iterator<Item = &'a str>) {
    for (index, word) in words.enumerate() {
        if index > 0 {
            into.push(' ');
        }
        into.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> String {
        normalize(text, &Recipe::default()).into_owned()
    }

    #[test]
    fn equal_meaning_gives_equal_bytes() {
        assert_eq!(all("caf\u{65}\u{301}"), "café");
        assert_eq!(all("a\r\nb\rc"), "a\nb\nc");
        assert_eq!(all("  a \t b\u{a0}c  \n\n\n\n d\n"), "a b c\n\nd");
        assert_eq!(all("\u{feff}a\u{0}b\u{7f}"), "ab");
        assert_eq!(all("e\u{0}\u{301}"), "é");
        assert_eq!(all(" \n\t "), "");
    }

    #[test]
    fn each_rule_can_be_left_out() {
        let recipe = Recipe {
            nfc: false,
            whitespace: false,
            control_characters: false,
            ..Recipe::default()
        };
        let text = " e\u{301}\u{0}\r\n\n\n x ";
        assert_eq!(normalize(text, &recipe), text);
        let recipe = Recipe { whitespace: true, ..recipe };
        assert_eq!(normalize(text, &recipe), "e\u{301}\u{0}\n\nx");
    }

    proptest! {
        #[test]
        fn normalizing_twice_is_normalizing_once(
            text in "[ \\t\\r\\n\u{a0}\u{85}\u{2003}\u{2028}\u{feff}\u{0}\u{301}\u{344}eÅé가ab]{0,40}",
            nfc in any::<bool>(),
            whitespace in any::<bool>(),
            control_characters in any::<bool>(),
        ) {
            let recipe = Recipe { nfc, whitespace, control_characters, ..Recipe::default() };
            let once = normalize(&text, &recipe).into_owned();
            prop_assert_eq!(normalize(&once, &recipe).into_owned(), once);
        }

        #[test]
        fn the_short_cut_is_no_other_way(text in "[ \\n\\tab]{0,12}") {
            prop_assert_eq!(is_tidy(&text), tidy(&text) == text);
        }
    }
}
