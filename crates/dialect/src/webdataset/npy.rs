//! NumPy's `.npy`: a header that is a Python dictionary, then the elements.
//!
//! ```text
//! \x93NUMPY | version 1, 2 or 3, minor | length of the header u16 (u32 since 2) | header | elements
//! {'descr': '<f4', 'fortran_order': False, 'shape': (3, 224, 224), }
//! ```
//!
//! A tensor is one whose elements are numbers in little-endian order, outermost dimension first:
//! then they are the value as they lie. Anything else (objects, records, other orders) is no
//! tensor here, and is left to its reader as the bytes it is.

use forebay_types::Dtype;

/// The most dimensions NumPy allows.
const RANK_MAX: usize = 64;

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u32>,
    pub(crate) elements: &'a [u8],
}

/// The tensor that `file` is, if it is one.
pub(crate) fn tensor(file: &[u8]) -> Option<Tensor<'_>> {
    let rest = file.strip_prefix(b"\x93NUMPY")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => {
            (usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?, rest)
        }
        _ => return None,
    };
    let (header, elements) = rest.split_at_checked(length)?;
    let (dtype, shape) = Header { rest: header }.read()?;
    let bytes = shape.iter().try_fold(usize::try_from(dtype.bytes()).ok()?, |bytes, &size| {
        bytes.checked_mul(size as usize)
    })?;
    (bytes == elements.len()).then_some(Tensor { dtype, shape, elements })
}

/// The dictionary, as far as it was read.
struct Header<'a> {
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(mut self) -> Option<(Dtype, Vec<u32>)> {
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        self.token(b"{")?;
        while self.token(b"}").is_none() {
            let key = self.text()?;
            self.token(b":")?;
            match key {
                b"descr" => dtype = Some(dtype_of(self.text()?)?),
                b"fortran_order" => fortran = Some(self.boolean()?),
                b"shape" => shape = Some(self.shape()?),
                _ => return None,
            }
            if self.token(b",").is_none() {
                self.token(b"}")?;
                break;
            }
        }
        let (fortran, shape) = (fortran?, shape?);
        // With one dimension, both orders are the same.
        (self.rest.trim_ascii().is_empty() && (!fortran || shape.len() < 2))
            .then_some((dtype?, shape))
    }

    fn token(&mut self, token: &[u8]) -> Option<()> {
        self.rest = self.rest.trim_ascii_start().strip_prefix(token)?;
        Some(())
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let (&quote, rest) = self.rest.trim_ascii_start().split_first()?;
        let end = memchr::memchr(quote, rest).filter(|_| quote == b'\'' || quote == b'"')?;
        self.rest = &rest[end + 1..];
        Some(&rest[..end])
    }

    fn boolean(&mut self) -> Option<bool> {
        self.token(b"False").map(|()| false).or_else(|| self.token(b"True").map(|()| true))
    }

    fn shape(&mut self) -> Option<Vec<u32>> {
        let mut shape = Vec::new();
        self.token(b"(")?;
        while self.token(b")").is_none() {
            let rest = self.rest.trim_ascii_start();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            shape.push(std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?);
            // Python 2 wrote `3L`.
            self.rest = rest[digits..].strip_prefix(b"L").unwrap_or(&rest[digits..]);
            if shape.len() > RANK_MAX {
                return None;
            }
            if self.token(b",").is_none() {
                self.token(b")")?;
                break;
            }
        }
        Some(shape)
    }
}

fn dtype_of(description: &[u8]) -> Option<Dtype> {
    Some(match description {
        b"<f8" => Dtype::F64,
        b"<f4" => Dtype::F32,
        b"<f2" => Dtype::F16,
        b"<i8" => Dtype::I64,
        b"<i4" => Dtype::I32,
        b"<i2" => Dtype::I16,
        b"|i1" | b"<i1" => Dtype::I8,
        b"<u8" => Dtype::U64,
        b"<u4" => Dtype::U32,
        b"<u2" => Dtype::U16,
        b"|u1" | b"<u1" => Dtype::U8,
        b"|b1" => Dtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, elements: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\0".to_vec();
        file.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(elements);
        file
    }

    #[test]
    fn only_a_plain_tensor_is_one() {
        let sound = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }   \n";
        let read = |header: &str| tensor(&file(header, &[7; 8])).map(|found| found.shape);
        assert_eq!(read(sound), Some(vec![2, 1]));
        assert_eq!(read(&sound.replace("(2, 1)", "(2,)").replace("False", "True")), Some(vec![2]));
        assert_eq!(read(&sound.replace("(2, 1)", "()").replace("<f4", "<i8")), Some(vec![]));
        for (part, other) in [
            ("<f4", ">f4"),
            ("<f4", "|O"),
            ("False", "True"),
            ("False", "0"),
            ("(2, 1)", "(3,)"),
            ("(2, 1)", "(4294967296, 4294967296)"),
            ("(2, 1)", "(2, 1"),
            ("'shape'", "'form'"),
            ("}", "} x"),
        ] {
            assert_eq!(read(&sound.replace(part, other)), None, "{other}");
        }
        let whole = file(sound, &[7; 8]);
        for cut in 0..whole.len() {
            assert_eq!(tensor(&whole[..cut]), None, "{cut}");
        }
    }
}
