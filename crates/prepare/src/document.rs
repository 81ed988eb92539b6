//! Documents between cleaning and packing, as they lie in scratch files.

use forebay_types::Split;

/// A cleaned record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    pub(crate) record: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) split: Split,
    pub(crate) text: &'a str,
}

const HEAD_BYTES: usize = 3 * 8 + 1 + 4;

impl<'a> Document<'a> {
    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        for number in [self.record, self.offset, self.bytes] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        into.push(u8::from(self.split == Split::Validation));
        into.extend_from_slice(&(self.text.len() as u32).to_le_bytes());
        into.extend_from_slice(self.text.as_bytes());
    }

    /// Takes the first document off `bytes`; none at their end or where they are not ours.
    pub(crate) fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let length = u32::from_le_bytes(head[25..].try_into().expect("4 bytes")) as usize;
        let (text, rest) = rest.split_at_checked(length)?;
        let split = if head[24] == 0 { Split::Train } else { Split::Validation };
        let text = std::str::from_utf8(text).ok()?;
        *bytes = rest;
        let (record, offset, bytes) = (number(0), number(8), number(16));
        Some(Self { record, offset, bytes, split, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_in_order() {
        let document = |record, split, text| Document { record, offset: 5, bytes: 6, split, text };
        let written = [
            document(1, Split::Train, "a"),
            document(2, Split::Validation, ""),
            document(3, Split::Train, "ü"),
        ];
        let mut bytes = Vec::new();
        written.iter().for_each(|document| document.write(&mut bytes));
        let mut rest = bytes.as_slice();
        let read: Vec<_> = std::iter::from_fn(|| Document::take(&mut rest)).collect();
        assert_eq!(read, written);
        assert!(rest.is_empty());
        assert_eq!(Document::take(&mut &bytes[..20]), None);
    }
}
