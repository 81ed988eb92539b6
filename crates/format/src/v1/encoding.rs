//! Encoded tensors: values stored in less room, without loss.
//!
//! ```text
//! block     one for each 1 MiB of a tensor's values, the last one shorter
//!   4 bytes for each plane: how long it is stored, little-endian; the highest bit says that it is
//!           stored as it is
//!   planes  the first bytes of all elements, then all second bytes, …, each by itself a frame of zstd
//!           (RFC 8878), or as it is
//! ```
//!
//! Of numbers that were learnt, the sign and the exponent vary little from one to the next and the bits
//! of the fraction wholly. Side by side the bytes that hold exponents compress, and those that hold
//! fractions are left alone; mixed, one spoils the other.
//!
//! Whoever encodes a block decodes it again and compares: what would not come back is stored as it is.
//!
//! # Bounds
//! Three blocks, and what zstd needs beside them, whatever the tensor's size.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The values of a block. A multiple of every element's width.
pub const BLOCK_BYTES: usize = 1 << 20;
/// A plane stored as it is.
const AS_IT_IS: u32 = 1 << 31;
const LENGTH_BYTES: usize = 4;
/// Fast, and of more effort fractions become no shorter.
const LEVEL: i32 = 1;
/// What is stored of a plane must be shorter by this part of it, or it is not worth decoding.
const GAIN: usize = 32;
/// What is looked at of a tensor before it is encoded, and the part of it that must be gained.
const SAMPLE_BYTES: usize = 16 << 10;
const SAMPLE_GAIN: usize = 16;

/// How a tensor is stored that is not stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoded {
    /// The way.
    pub codec: Codec,
    /// How long it became.
    pub bytes: u64,
}

/// A way to store values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// In planes, each compressed with zstd.
    PlanesZstd,
}

/// The longest that values of so many bytes become, of elements of `width` bytes.
#[must_use]
pub const fn encoded_bytes_max(bytes: u64, width: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(BLOCK_BYTES as u64) * width * LENGTH_BYTES as u64)
}

/// Encodes values, block by block.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    decoder: BlockDecoder,
    planes: Vec<u8>,
    proof: Vec<u8>,
}

impl Encoder {
    /// An encoder.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> std::io::Result<Self> {
        let (compressor, decoder) = (zstd::bulk::Compressor::new(LEVEL)?, BlockDecoder::new()?);
        Ok(Self { compressor, decoder, planes: Vec::new(), proof: Vec::new() })
    }

    /// Whether values look as if encoding gained something.
    pub fn is_worth_it(&mut self, values: &[u8], width: usize) -> bool {
        let middle = (values.len() / 2).next_multiple_of(width).min(values.len());
        let sample = &values[middle..values.len().min(middle + SAMPLE_BYTES)];
        let mut encoded = Vec::new();
        self.encode_planes(sample, width, &mut encoded);
        !sample.is_empty() && encoded.len() + sample.len() / SAMPLE_GAIN <= sample.len()
    }

    /// Puts a block of elements of `width` bytes behind what is in `into`.
    ///
    /// # Panics
    /// When it is empty, longer than [`BLOCK_BYTES`], or no multiple of the width.
    pub fn encode(&mut self, block: &[u8], width: usize, into: &mut Vec<u8>) {
        assert!(!block.is_empty() && block.len() <= BLOCK_BYTES);
        assert!(block.len().is_multiple_of(width));
        let start = into.len();
        self.encode_planes(block, width, into);
        self.proof.resize(block.len(), 0);
        let stored = &into[start..];
        if self.decoder.decode(stored, width, &mut self.proof).is_err() || self.proof != block {
            into.truncate(start);
            put_lengths(into, &vec![AS_IT_IS | plane_bytes(block, width) as u32; width]);
            into.extend_from_slice(&self.planes);
        }
    }

    fn encode_planes(&mut self, block: &[u8], width: usize, into: &mut Vec<u8>) {
        self.planes.resize(block.len(), 0);
        split(block, width, &mut self.planes);
        let start = into.len();
        let mut lengths = Vec::with_capacity(width);
        put_lengths(into, &vec![0; width]);
        for plane in self.planes.chunks(plane_bytes(block, width).max(1)) {
            let (at, most) = (into.len(), plane.len() - plane.len().div_ceil(GAIN));
            into.resize(at + most, 0);
            // It fails when the result is longer than there is room for.
            match self.compressor.compress_to_buffer(plane, &mut into[at..]) {
                Ok(bytes) => {
                    into.truncate(at + bytes);
                    lengths.push(bytes as u32);
                }
                Err(_) => {
                    into.truncate(at);
                    into.extend_from_slice(plane);
                    lengths.push(AS_IT_IS | plane.len() as u32);
                }
            }
        }
        let lengths = lengths.iter().flat_map(|length: &u32| length.to_le_bytes());
        into[start..].iter_mut().zip(lengths).for_each(|(byte, length)| *byte = length);
    }
}

fn put_lengths(into: &mut Vec<u8>, lengths: &[u32]) {
    into.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
}

const fn plane_bytes(block: &[u8], width: usize) -> usize {
    block.len() / width
}

/// Decodes a tensor, from its first stored byte to the last.
pub struct Decoder {
    block: BlockDecoder,
    width: usize,
    /// Values that have not come yet, and stored bytes that were not given yet.
    values_left: u64,
    stored_left: u64,
    /// Stored bytes of a block that is not complete.
    stored: Vec<u8>,
    values: Vec<u8>,
    object: String,
}

impl Decoder {
    /// A decoder of a tensor with values of so many bytes; `object` names it in errors.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(
        encoded: Encoded,
        (bytes, width): (u64, u64),
        object: impl Into<String>,
    ) -> Result<Self, Error> {
        let (Encoded { codec: Codec::PlanesZstd, bytes: stored_left }, object) =
            (encoded, object.into());
        let block = BlockDecoder::new()
            .map_err(|error| Error::damaged(&object, format!("no decoder: {error}")))?;
        let (stored, values) = (Vec::new(), Vec::new());
        let width = width as usize;
        Ok(Self { block, width, values_left: bytes, stored_left, stored, values, object })
    }

    /// Takes the next stored bytes, and gives values as they come.
    ///
    /// # Errors
    /// [`Error::Damaged`] when they are not what was encoded, and what `take` says.
    pub fn push<E: From<Error>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stored_left = self
            .stored_left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::damaged(&self.object, "it is longer than it is said to be"))?;
        self.stored.extend_from_slice(bytes);
        let mut used = 0;
        while self.values_left > 0 {
            let values_bytes = self.values_left.min(BLOCK_BYTES as u64) as usize;
            let rest = &self.stored[used..];
            let damaged = |what| Error::damaged(&self.object, what);
            let Some(length) = block_bytes(rest, self.width, values_bytes).map_err(damaged)? else {
                break;
            };
            let Some(block) = rest.get(..length) else { break };
            self.values.resize(values_bytes, 0);
            self.block.decode(block, self.width, &mut self.values).map_err(damaged)?;
            take(&self.values)?;
            self.values_left -= values_bytes as u64;
            used += length;
        }
        self.stored.drain(..used);
        Ok(())
    }

    /// Says that all was given.
    ///
    /// # Errors
    /// [`Error::Damaged`] when values are missing, or there is more than they need.
    pub fn finish(self) -> Result<(), Error> {
        if self.values_left == 0 && self.stored_left == 0 && self.stored.is_empty() {
            return Ok(());
        }
        Err(Error::damaged(&self.object, "it does not hold the values that it is said to"))
    }
}

/// How long a block is stored whose first bytes are these, if that can be told yet.
fn block_bytes(
    stored: &[u8],
    width: usize,
    values_bytes: usize,
) -> Result<Option<usize>, &'static str> {
    let Some(lengths) = stored.get(..width * LENGTH_BYTES) else { return Ok(None) };
    let most = values_bytes / width;
    let mut bytes = lengths.len();
    for length in lengths_of(lengths) {
        let length = (length & !AS_IT_IS) as usize;
        if length > most {
            return Err("a plane is longer than its values");
        }
        bytes += length;
    }
    Ok(Some(bytes))
}

fn lengths_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes))
}

struct BlockDecoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    planes: Vec<u8>,
}

impl BlockDecoder {
    fn new() -> std::io::Result<Self> {
        Ok(Self { decompressor: zstd::bulk::Decompressor::new()?, planes: Vec::new() })
    }

    fn decode(&mut self, stored: &[u8], width: usize, into: &mut [u8]) -> Result<(), &'static str> {
        let plane_bytes = into.len() / width;
        let (lengths, mut rest) =
            stored.split_at_checked(width * LENGTH_BYTES).ok_or("a block is cut short")?;
        self.planes.resize(into.len(), 0);
        for (length, plane) in lengths_of(lengths).zip(self.planes.chunks_mut(plane_bytes.max(1))) {
            let (bytes, behind) = rest
                .split_at_checked((length & !AS_IT_IS) as usize)
                .ok_or("a block is cut short")?;
            rest = behind;
            if length & AS_IT_IS == 0 {
                let found = self.decompressor.decompress_to_buffer(bytes, plane);
                if found.ok() != Some(plane.len()) {
                    return Err("a plane is not what was compressed");
                }
            } else if bytes.len() == plane.len() {
                plane.copy_from_slice(bytes);
            } else {
                return Err("a plane is shorter than its values");
            }
        }
        join(&self.planes, width, into);
        Ok(())
    }
}

/// Puts the bytes of elements into planes.
fn split(elements: &[u8], width: usize, planes: &mut [u8]) {
    match width {
        2 => split_by::<2>(elements, planes),
        4 => split_by::<4>(elements, planes),
        8 => split_by::<8>(elements, planes),
        _ => planes.copy_from_slice(elements),
    }
}

fn split_by<const WIDTH: usize>(elements: &[u8], planes: &mut [u8]) {
    let (elements, _) = elements.as_chunks::<WIDTH>();
    for (number, plane) in planes.chunks_mut(elements.len().max(1)).enumerate().take(WIDTH) {
        for (byte, element) in plane.iter_mut().zip(elements) {
            *byte = element[number];
        }
    }
}

/// The other way round.
fn join(planes: &[u8], width: usize, elements: &mut [u8]) {
    match width {
        2 => join_by::<2>(planes, elements),
        4 => join_by::<4>(planes, elements),
        8 => join_by::<8>(planes, elements),
        _ => elements.copy_from_slice(planes),
    }
}

fn join_by<const WIDTH: usize>(planes: &[u8], elements: &mut [u8]) {
    let (elements, _) = elements.as_chunks_mut::<WIDTH>();
    let count = elements.len();
    let planes: [&[u8]; WIDTH] =
        std::array::from_fn(|number| &planes[number * count..(number + 1) * count]);
    for (at, element) in elements.iter_mut().enumerate() {
        *element = std::array::from_fn(|number| planes[number][at]);
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::Digest;
    use proptest::prelude::*;

    use super::*;

    fn encode(values: &[u8], width: usize) -> Vec<u8> {
        let mut encoder = Encoder::new().unwrap();
        let mut stored = Vec::new();
        for block in values.chunks(BLOCK_BYTES) {
            encoder.encode(block, width, &mut stored);
        }
        stored
    }

    fn decode(stored: &[u8], bytes: usize, width: usize, piece: usize) -> Result<Vec<u8>, Error> {
        let encoded = Encoded { codec: Codec::PlanesZstd, bytes: stored.len() as u64 };
        let mut decoder = Decoder::new(encoded, (bytes as u64, width as u64), "x")?;
        let mut values = Vec::new();
        for piece in stored.chunks(piece) {
            decoder.push(piece, |some| {
                values.extend_from_slice(some);
                Ok::<_, Error>(())
            })?;
        }
        decoder.finish()?;
        Ok(values)
    }

    /// Numbers as a model has them: about the same size, and no fraction like another.
    fn learnt(count: u64) -> Vec<u8> {
        let value = |at: u64| {
            let noise = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (noise as f32 / (1 << 24) as f32 - 0.5) * 0.04
        };
        (0..count).flat_map(|at| value(at).to_le_bytes()).collect()
    }

    #[test]
    fn learnt_numbers_take_less_room_and_noise_hardly_more() {
        let values = learnt(700_000);
        let stored = encode(&values, 4);
        assert!(stored.len() * 100 < values.len() * 90, "{} of {}", stored.len(), values.len());
        assert!(decode(&stored, values.len(), 4, 65_537).unwrap() == values);
        let mut encoder = Encoder::new().unwrap();
        assert!(encoder.is_worth_it(&values, 4));
        let noise: Vec<u8> = (0_u32..300).flat_map(|at| noise(&at.to_le_bytes())).collect();
        assert!(!encoder.is_worth_it(&noise, 2));
        let stored = encode(&noise, 2);
        assert!(stored.len() as u64 <= encoded_bytes_max(noise.len() as u64, 2));
        assert!(decode(&stored, noise.len(), 2, 1 << 20).unwrap() == noise);
    }

    fn noise(bytes: &[u8]) -> Vec<u8> {
        let seed = Digest::of(bytes);
        (0..128_u8)
            .flat_map(|at| {
                let mut one = seed.as_bytes().to_vec();
                one.push(at);
                *Digest::of(&one).as_bytes()
            })
            .collect()
    }

    #[test]
    fn damage_is_told_and_never_more_is_given_than_was_asked_for() {
        let values = learnt(5000);
        let stored = encode(&values, 4);
        assert!(decode(&stored[..stored.len() - 1], values.len(), 4, 999).is_err());
        assert!(decode(&stored, values.len() + 4, 4, 999).is_err());
        assert!(decode(&stored, values.len() - 4, 4, 999).is_err());
        let longer = [&stored[..], &[0]].concat();
        assert!(decode(&longer, values.len(), 4, 999).is_err());
        for at in 0..16 {
            let mut broken = stored.clone();
            broken[at] ^= 0x80;
            assert!(decode(&broken, values.len(), 4, 999).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn all_comes_back(
            width in prop::sample::select(vec![1_usize, 2, 4, 8]),
            count in 0_usize..9000,
            alike in 1_usize..300,
            piece in 1_usize..5000,
        ) {
            let values: Vec<u8> = (0..count * width).map(|at| (at % alike * 7) as u8).collect();
            let stored = encode(&values, width);
            let most = encoded_bytes_max(values.len() as u64, width as u64);
            prop_assert!(stored.len() as u64 <= most);
            prop_assert_eq!(decode(&stored, values.len(), width, piece).unwrap(), values);
        }

        #[test]
        fn hostile_bytes_are_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            width in prop::sample::select(vec![1_usize, 2, 4, 8]),
            count in 0_usize..50,
        ) {
            let _either = decode(&bytes, count * width, width, 7);
        }
    }
}
