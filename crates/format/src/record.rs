//! Records: small JSON documents that notice when a single byte of them changes.
//!
//! ```text
//! {"format":"forebay.dataset","version":1,"digest":"<64 hex>","body":
//! { … pretty-printed JSON … }
//! }
//! ```
//!
//! The digest is BLAKE3 over the exact bytes of the body. The frame around it has one spelling
//! only: a reader writes the frame again and compares, so a changed byte anywhere is found, and
//! any JSON tool still reads the whole.
//!
//! A body that is too long for people to read is written without the spaces and line breaks that are
//! there for them: half of it.

use forebay_types::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::Error;

/// The largest record, in bytes. Larger collections are paged.
pub const LEN_BYTES_MAX: u64 = 16 << 20;
/// The longest body that is written for people.
const PRETTY_BYTES_MAX: usize = 1 << 20;

/// A value stored as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// The format's name, `forebay.…`.
    const FORMAT: &'static str;
    /// The version this build writes, and the newest it reads.
    const VERSION: u32;

    /// What must hold between the fields, checked on both sides of the store.
    ///
    /// # Errors
    /// What does not hold, in words.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    format: String,
    version: u32,
    digest: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Only what tells a newer record from a damaged one.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

fn frame(format: &str, version: u32, digest: Digest, body: &str) -> String {
    format!(
        "{{\"format\":\"{format}\",\"version\":{version},\"digest\":\"{digest}\",\"body\":\n{body}\n}}\n"
    )
}

/// Writes `record` with its frame; returns the bytes and the digest of the body.
///
/// # Errors
/// [`Error::Unwritable`] when the record breaks its own rules or is larger than
/// [`LEN_BYTES_MAX`].
pub fn encode<R: Record>(record: &R) -> Result<(Vec<u8>, Digest), Error> {
    let refuse = |what: String| Error::Unwritable { object: R::FORMAT.into(), what };
    record.check().map_err(refuse)?;
    let mut body = serde_json::to_string(record).map_err(|error| refuse(error.to_string()))?;
    if body.len() <= PRETTY_BYTES_MAX {
        body = serde_json::to_string_pretty(record).map_err(|error| refuse(error.to_string()))?;
    }
    let digest = Digest::of(body.as_bytes());
    let bytes = frame(R::FORMAT, R::VERSION, digest, &body).into_bytes();
    if bytes.len() as u64 > LEN_BYTES_MAX {
        return Err(refuse(format!("{} bytes, the limit is {LEN_BYTES_MAX}", bytes.len())));
    }
    Ok((bytes, digest))
}

/// Reads a record, verified to the last byte; returns it with the digest of its body.
///
/// `object` names the bytes in errors.
///
/// # Errors
/// [`Error::Newer`] for a version this build does not know, [`Error::OtherFormat`] for another
/// record, [`Error::Damaged`] for everything else.
pub fn decode<R: Record>(bytes: &[u8], object: &str) -> Result<(R, Digest), Error> {
    let damaged = |what: &dyn ToString| Error::damaged(object, what.to_string());
    if let Ok(head) = serde_json::from_slice::<Head>(bytes) {
        if head.format == R::FORMAT && head.version > R::VERSION {
            let (found, known) = (head.version, R::VERSION);
            return Err(Error::Newer { object: object.into(), format: R::FORMAT, found, known });
        }
        if head.format != R::FORMAT && head.format.starts_with("forebay.") {
            let (wanted, found) = (R::FORMAT, head.format);
            return Err(Error::OtherFormat { object: object.into(), wanted, found });
        }
    }
    let read: Frame<'_> = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    if Digest::of(read.body.get().as_bytes()) != read.digest {
        return Err(damaged(&"its body does not have the digest it carries"));
    }
    let expected = frame(R::FORMAT, R::VERSION, read.digest, read.body.get());
    if read.format != R::FORMAT || read.version != R::VERSION || expected.as_bytes() != bytes {
        return Err(damaged(&"its frame is not spelled as the format demands"));
    }
    let record: R = serde_json::from_str(read.body.get()).map_err(|error| damaged(&error))?;
    record.check().map_err(|what| damaged(&what))?;
    Ok((record, read.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        count: u64,
        names: Vec<String>,
    }

    impl Record for Sample {
        const FORMAT: &'static str = "forebay.sample";
        const VERSION: u32 = 1;

        fn check(&self) -> Result<(), String> {
            if self.count as usize == self.names.len() { Ok(()) } else { Err("miscounted".into()) }
        }
    }

    fn sample() -> Sample {
        Sample { count: 2, names: vec!["a".into(), "é \"quoted\"".into()] }
    }

    #[test]
    fn records_round_trip_and_are_plain_json() {
        let (bytes, digest) = encode(&sample()).unwrap();
        assert_eq!(decode::<Sample>(&bytes, "x").unwrap(), (sample(), digest));
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["body"]["count"], 2);
    }

    #[test]
    fn what_is_too_long_for_people_is_written_without_spaces() {
        let names: Vec<_> = (0..200_000).map(|at| at.to_string()).collect();
        let long = Sample { count: 200_000, names };
        let (bytes, digest) = encode(&long).unwrap();
        assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), 3);
        assert_eq!(decode::<Sample>(&bytes, "x").unwrap(), (long, digest));
    }

    #[test]
    fn every_changed_missing_or_added_byte_is_found() {
        let (bytes, _) = encode(&sample()).unwrap();
        for index in 0..bytes.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[index] ^= flip;
                assert!(decode::<Sample>(&changed, "x").is_err(), "byte {index} ^ {flip:#x}");
            }
            assert!(decode::<Sample>(&bytes[..index], "x").is_err(), "cut at {index}");
        }
        let mut longer = bytes.clone();
        longer.push(b'\n');
        assert!(decode::<Sample>(&longer, "x").is_err());
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let text = r#"{"format":"forebay.sample","version":2,"other":true}"#;
        let error = decode::<Sample>(text.as_bytes(), "datasets/a/v1.json").unwrap_err();
        assert_eq!(error.kind(), forebay_types::ErrorKind::NewerFormat);
        assert!(error.to_string().starts_with("datasets/a/v1.json is forebay.sample version 2"));
    }

    #[test]
    fn a_record_that_breaks_its_own_rules_is_not_written() {
        let error = encode(&Sample { count: 5, names: vec![] }).unwrap_err();
        assert_eq!(error.to_string(), "cannot write forebay.sample: miscounted");
    }
}
