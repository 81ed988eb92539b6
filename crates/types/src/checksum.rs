//! Checksums: how damaged bytes are told from sound ones, at the speed of memory.
//!
//! A digest names bytes, and whoever holds it can prove them against anybody. That costs more than to
//! copy them. Against a device that errs a checksum is proof enough: of 2^64 damages one is missed.

use std::fmt;

use crc_fast::CrcAlgorithm::Crc64Nvme;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A CRC-64/NVME (NVM Express NVM Command Set Specification 1.0, 5.2.1.3.4), as S3 computes it too.
///
/// Written as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(u64);

/// A text that should be a checksum and is not.
#[derive(Debug, thiserror::Error)]
#[error("a checksum is 16 lower-case hexadecimal digits")]
pub struct ChecksumError;

impl Checksum {
    /// That of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(Crc64Nvme, bytes))
    }

    /// That of what this one is of and, behind it, of `bytes` bytes that have the checksum `next`.
    #[must_use]
    pub fn followed_by(self, next: Self, bytes: u64) -> Self {
        Self(crc_fast::checksum_combine(Crc64Nvme, self.0, next.0, bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Checksum({self})")
    }
}

impl std::str::FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Self, ChecksumError> {
        let mut bytes = [0; 8];
        let is_one = crate::hexadecimal::decode(text, &mut bytes);
        is_one.then_some(Self(u64::from_be_bytes(bytes))).ok_or(ChecksumError)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Computes a checksum piece by piece.
#[derive(Clone, Debug)]
pub struct ChecksumWriter(crc_fast::Digest);

impl ChecksumWriter {
    /// A writer that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(Crc64Nvme))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The checksum of everything added so far.
    #[must_use]
    pub fn finish(&self) -> Checksum {
        Checksum(self.0.finalize())
    }
}

impl Default for ChecksumWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_standard() {
        // The check value of the catalogue of parametrised CRC algorithms.
        assert_eq!(Checksum::of(b"123456789").to_string(), "ae8b14860a799888");
        assert_eq!(Checksum::of(b"").to_string(), "0000000000000000");
    }

    #[test]
    fn pieces_and_parts_give_that_of_the_whole() {
        let whole: Vec<u8> = (0..100_003_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        for cut in [0, 1, 15, 16, 4096, 65_537, whole.len()] {
            let (front, back) = whole.split_at(cut);
            let (mut writer, parts) = (ChecksumWriter::new(), [front, back].map(Checksum::of));
            writer.update(front).update(back);
            assert_eq!(writer.finish(), Checksum::of(&whole), "{cut}");
            assert_eq!(parts[0].followed_by(parts[1], back.len() as u64), Checksum::of(&whole));
        }
    }

    #[test]
    fn only_the_written_form_is_read_back() {
        let checksum = Checksum::of(b"forebay");
        assert_eq!(checksum.to_string().parse::<Checksum>().unwrap(), checksum);
        for text in ["", "+1", "0", &checksum.to_string().to_uppercase(), &"0".repeat(17)] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }
}
