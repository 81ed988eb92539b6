//! JSON, looked at in place.
//!
//! A line is walked over once, value by value; of each only its extent and its outer shape are
//! kept. Nothing is built, and values that nobody asked for cost a look at their bytes. What is
//! sound is what RFC 8259 says, and two things that other writers do: `NaN`, `Infinity` and
//! `-Infinity` are numbers, as Python writes them, and `\ud83d` without its other half is a
//! character, U+FFFD when it is read. Values nest [`DEPTH_MAX`] deep at most, so the stack is
//! bounded.

use std::borrow::Cow;

/// The deepest nesting that is read.
const DEPTH_MAX: usize = 128;

/// What is wrong, and at which byte of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// What a value looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Null,
    Boolean,
    /// A number without point or exponent, within 64 bits.
    Integer,
    Float,
    Text,
    /// An array of nothing.
    Empty,
    Booleans,
    Integers,
    /// An array of numbers that are not all integers.
    Floats,
    /// An object, an array of anything else, or an integer beyond 64 bits.
    Other,
}

/// A value in a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) shape: Shape,
    /// Its bytes, quotes and brackets included.
    pub(crate) json: &'a [u8],
}

/// Calls `each` for every member of the object that `line` is, with the key as it is spelled
/// between its quotes.
pub(crate) fn members<'a>(
    line: &'a [u8],
    mut each: impl FnMut(&'a [u8], Value<'a>),
) -> Result<(), Fault> {
    let mut scan = Scan { line, at: 0 };
    if scan.look() != Some(b'{') {
        return Err(scan.fault("it is not an object"));
    }
    scan.object(0, &mut each)?;
    match scan.look() {
        None => Ok(()),
        Some(_) => Err(scan.fault("something follows the object")),
    }
}

struct Scan<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    const fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }

    /// The next byte that is not space.
    fn look(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.line.get(self.at) {
            self.at += 1;
        }
        self.line.get(self.at).copied()
    }

    /// Walks over an object whose brace is next.
    fn object(
        &mut self,
        depth: usize,
        each: &mut dyn FnMut(&'a [u8], Value<'a>),
    ) -> Result<(), Fault> {
        self.at += 1;
        if self.look() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.look() != Some(b'"') {
                return Err(self.fault("a key is missing"));
            }
            let key = self.text()?;
            if self.look() != Some(b':') {
                return Err(self.fault("a colon is missing"));
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            each(&key[1..key.len() - 1], value);
            match self.look() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault("a comma or a closing brace is missing")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        if depth > DEPTH_MAX {
            return Err(self.fault("values nest too deep"));
        }
        let first = self.look();
        let start = self.at;
        let shape = match first {
            Some(b'"') => {
                self.text()?;
                Shape::Text
            }
            Some(b'{') => {
                self.object(depth, &mut |_, _| {})?;
                Shape::Other
            }
            Some(b'[') => self.array(depth)?,
            Some(b't') => self.word(b"true", Shape::Boolean)?,
            Some(b'f') => self.word(b"false", Shape::Boolean)?,
            Some(b'n') => self.word(b"null", Shape::Null)?,
            Some(b'N') => self.word(b"NaN", Shape::Float)?,
            Some(b'I') => self.word(b"Infinity", Shape::Float)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => return Err(self.fault("a value is missing")),
        };
        Ok(Value { shape, json: &self.line[start..self.at] })
    }

    fn array(&mut self, depth: usize) -> Result<Shape, Fault> {
        self.at += 1;
        let mut shape = Shape::Empty;
        if self.look() == Some(b']') {
            self.at += 1;
            return Ok(shape);
        }
        loop {
            shape = match (shape, self.value(depth + 1)?.shape) {
                (Shape::Empty | Shape::Integers, Shape::Integer) => Shape::Integers,
                (Shape::Empty | Shape::Integers | Shape::Floats, Shape::Float)
                | (Shape::Floats, Shape::Integer) => Shape::Floats,
                (Shape::Empty | Shape::Booleans, Shape::Boolean) => Shape::Booleans,
                _ => Shape::Other,
            };
            match self.look() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(shape);
                }
                _ => return Err(self.fault("a comma or a closing bracket is missing")),
            }
        }
    }

    fn word(&mut self, word: &[u8], shape: Shape) -> Result<Shape, Fault> {
        if !self.line[self.at..].starts_with(word) {
            return Err(self.fault("a value is misspelled"));
        }
        self.at += word.len();
        Ok(shape)
    }

    /// Walks over a string whose quote is next; gives it with its quotes.
    fn text(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            let rest = &self.line[self.at..];
            let Some(plain) = memchr::memchr2(b'"', b'\\', rest) else {
                return Err(Fault { at: start, what: "a string does not end" });
            };
            // Without leaving early, many bytes are looked at in one instruction.
            if rest[..plain].iter().fold(false, |found, &byte| found | (byte < b' ')) {
                self.at += rest[..plain].iter().take_while(|&&byte| byte >= b' ').count();
                return Err(self.fault("a string has a control character that is not escaped"));
            }
            self.at += plain;
            if rest[plain] == b'"' {
                self.at += 1;
                return Ok(&self.line[start..self.at]);
            }
            self.at += match rest.get(plain + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                Some(b'u') if hexadecimal(&rest[plain + 2..]).is_some() => 6,
                _ => return Err(self.fault("a string has an escape that does not exist")),
            };
        }
    }

    fn digits(&mut self) -> usize {
        let digits = self.line[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        digits
    }

    fn number(&mut self) -> Result<Shape, Fault> {
        let start = self.at;
        if self.line[self.at] == b'-' {
            self.at += 1;
            if self.line.get(self.at) == Some(&b'I') {
                return self.word(b"Infinity", Shape::Float);
            }
        }
        let leading = self.at;
        let digits = self.digits();
        if digits == 0 || (digits > 1 && self.line[leading] == b'0') {
            return Err(Fault { at: start, what: "a number is misspelled" });
        }
        let mut float = false;
        if self.line.get(self.at) == Some(&b'.') {
            self.at += 1;
            float = true;
            if self.digits() == 0 {
                return Err(self.fault("a number has no digits behind its point"));
            }
        }
        if let Some(b'e' | b'E') = self.line.get(self.at) {
            self.at += 1;
            float = true;
            if let Some(b'+' | b'-') = self.line.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.fault("a number has no digits in its exponent"));
            }
        }
        Ok(match float {
            true => Shape::Float,
            // Up to 18 digits always fit.
            false if digits <= 18 || integer(&self.line[start..self.at]).is_some() => {
                Shape::Integer
            }
            false => Shape::Other,
        })
    }
}

/// The integer of this spelling, if it has 64 bits.
pub(crate) fn integer(json: &[u8]) -> Option<i64> {
    std::str::from_utf8(json).ok()?.parse().ok()
}

/// The number of this spelling.
pub(crate) fn float(json: &[u8]) -> Option<f64> {
    match json {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => std::str::from_utf8(json).ok()?.parse().ok(),
    }
}

/// The elements of an array that was found to be one of numbers or booleans.
pub(crate) fn elements(json: &[u8]) -> impl Iterator<Item = &[u8]> {
    let inner = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    let pieces = if inner.trim_ascii().is_empty() { None } else { Some(inner) };
    pieces.into_iter().flat_map(|inner| inner.split(|&byte| byte == b',').map(<[u8]>::trim_ascii))
}

/// The characters of a string, given what stands between its quotes; a copy only if something is
/// escaped.
pub(crate) fn unescaped(spelled: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', spelled) else { return Cow::Borrowed(spelled) };
    let mut text = Vec::with_capacity(spelled.len());
    text.extend_from_slice(&spelled[..first]);
    let mut rest = &spelled[first..];
    while let [b'\\', escape, behind @ ..] = rest {
        rest = behind;
        match escape {
            b'b' => text.push(8),
            b'f' => text.push(12),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'u' => {
                let (character, bytes) = character(rest);
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[bytes..];
            }
            other => text.push(*other),
        }
        let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
        text.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(text)
}

/// The character that the digits behind `\u` spell, with its other half if it has one, and how
/// many bytes that took.
fn character(digits: &[u8]) -> (char, usize) {
    let Some(unit) = hexadecimal(digits) else { return (char::REPLACEMENT_CHARACTER, 0) };
    if let 0xd800..=0xdbff = unit
        && let Some(other) = digits[4..].strip_prefix(b"\\u")
        && let Some(low @ 0xdc00..=0xdfff) = hexadecimal(other)
    {
        let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 10);
    }
    (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 4)
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits
        .get(..4)?
        .iter()
        .try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A judge: what serde_json makes of a line.
    fn judged(line: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
        match serde_json::from_slice(line) {
            Ok(serde_json::Value::Object(members)) => Some(members),
            _ => None,
        }
    }

    fn same(value: Value<'_>, judge: &serde_json::Value) -> bool {
        use serde_json::Value as Judge;
        match (value.shape, judge) {
            (Shape::Null, Judge::Null) | (Shape::Boolean, Judge::Bool(_)) => true,
            (Shape::Integer, Judge::Number(number)) => integer(value.json) == number.as_i64(),
            (Shape::Float, Judge::Number(number)) => float(value.json) == number.as_f64(),
            (Shape::Other, Judge::Number(number)) => number.as_i64().is_none(),
            (Shape::Text, Judge::String(text)) => {
                unescaped(&value.json[1..value.json.len() - 1]) == text.as_bytes()
            }
            (Shape::Empty, Judge::Array(items)) => items.is_empty(),
            (Shape::Integers, Judge::Array(items)) => {
                let numbers: Vec<_> = elements(value.json).map(integer).collect();
                numbers == items.iter().map(Judge::as_i64).collect::<Vec<_>>()
            }
            (Shape::Floats, Judge::Array(items)) => {
                let numbers: Vec<_> = elements(value.json).map(float).collect();
                numbers == items.iter().map(Judge::as_f64).collect::<Vec<_>>()
            }
            (Shape::Booleans, Judge::Array(items)) => {
                elements(value.json).count() == items.len() && items.iter().all(Judge::is_boolean)
            }
            (Shape::Other, Judge::Object(_) | Judge::Array(_)) => {
                serde_json::from_slice::<Judge>(value.json).unwrap() == *judge
            }
            _ => false,
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>()
                .prop_filter("JSON has finite numbers", |x| x.is_finite())
                .prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            proptest::collection::vec(any::<i64>(), 0..4).prop_map(Into::into),
            proptest::collection::vec(-1e3..1e3, 0..4).prop_map(Into::into),
            proptest::collection::vec(any::<bool>(), 0..4).prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_line_reads_as_serde_reads_it(
            members in proptest::collection::hash_map(any::<String>(), json(), 0..5),
            ascii in any::<bool>(),
        ) {
            let object = serde_json::Value::Object(members.into_iter().collect());
            let mut line = object.to_string();
            if ascii {
                let escape = |c: char| if c.is_ascii() { c.to_string() } else {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                };
                line = line.chars().map(escape).collect();
            }
            let mut found = 0;
            super::members(line.as_bytes(), |key, value| {
                found += 1;
                let key = String::from_utf8(unescaped(key).into_owned()).unwrap();
                assert!(same(value, &object[&key]), "{key}: {value:?}");
            }).unwrap();
            prop_assert_eq!(found, object.as_object().unwrap().len());
        }

        #[test]
        fn what_serde_refuses_is_refused(
            object in proptest::collection::hash_map("[a-c\\\\\"]{0,3}", json(), 1..4),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![
                prop::sample::select(&br#"{}[]",:\u0123456789-+.eEtrufalsn "#[..]).boxed(),
                any::<u8>().boxed(),
            ],
            change in 0..3,
        ) {
            let mut line = serde_json::Value::Object(object.into_iter().collect()).to_string()
                .into_bytes();
            let at = at.index(line.len());
            match change {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                _ => line.truncate(at),
            }
            let mut found = Vec::new();
            let scanned = super::members(&line, |key, value| found.push((key, value)));
            // We take numbers beyond a double's range, and lone surrogates; serde takes neither.
            if let Some(judged) = judged(&line) {
                prop_assert!(scanned.is_ok(), "{:?}", scanned);
                for (key, value) in found {
                    let key = String::from_utf8(unescaped(key).into_owned()).unwrap();
                    prop_assert!(judged.contains_key(&key));
                    let _ = value;
                }
            } else if scanned.is_ok() {
                let reason = serde_json::from_slice::<serde_json::Value>(&line).unwrap_err()
                    .to_string();
                let ours = ["out of range", "surrogate", "hex escape", "unicode code point", "UTF-8"];
                prop_assert!(ours.iter().any(|ours| reason.contains(ours)), "{}", reason);
            }
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        let mut found = Vec::new();
        super::members(
            br#"{"a": NaN, "b": [1.5, -Infinity], "c": "\ud83d!", "d": 18446744073709551615}"#,
            |_, value| found.push(value),
        )
        .unwrap();
        assert!(float(found[0].json).unwrap().is_nan());
        assert_eq!(found[1].shape, Shape::Floats);
        assert_eq!(elements(found[1].json).map(float).last(), Some(Some(f64::NEG_INFINITY)));
        assert_eq!(unescaped(&found[2].json[1..8]), "\u{fffd}!".as_bytes());
        assert_eq!(found[3].shape, Shape::Other);
    }

    #[test]
    fn deep_nesting_is_refused_and_takes_no_stack() {
        let deep = format!("{{\"a\":{}", "[".repeat(1 << 20));
        assert_eq!(members(deep.as_bytes(), |_, _| {}).unwrap_err().what, "values nest too deep");
    }
}
