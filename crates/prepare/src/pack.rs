//! Packing: documents of any length into rows of one length.
//!
//! Documents follow one another and flow over the ends of rows; nothing is padded or cut. What
//! does not fill a row at the end is the tail, which the caller carries on.

use forebay_format::v1::{dataset::TokenSchema, origin::Span};

use crate::Error;

/// Fills rows of one split.
#[derive(Debug)]
pub(crate) struct Packer {
    schema: TokenSchema,
    tokens_le: Vec<u8>,
    spans: Vec<Span>,
}

/// What takes the filled rows.
pub(crate) type Emit<'a> = dyn FnMut(&[Span], &[u8]) -> Result<(), Error> + 'a;

impl Packer {
    pub(crate) fn new(schema: TokenSchema) -> Self {
        let tokens_le = Vec::with_capacity(schema.row_bytes());
        Self { schema, tokens_le, spans: Vec::new() }
    }

    /// Appends a piece of a document: `span` says where `ids` come from.
    pub(crate) fn push(
        &mut self,
        span: Span,
        ids: &[u32],
        emit: &mut Emit<'_>,
    ) -> Result<(), Error> {
        let (mut rest, mut token_start) = (ids, span.token_start);
        while !rest.is_empty() {
            let filled = self.tokens_le.len() / self.schema.token_bytes as usize;
            let room = self.schema.row_tokens as usize - filled;
            let (taken, left) = rest.split_at(rest.len().min(room));
            let tokens = taken.len() as u32;
            self.spans.push(Span { token_start, tokens, ..span });
            self.write(taken);
            (rest, token_start) = (left, token_start + tokens);
            if taken.len() == room {
                emit(&self.spans, &self.tokens_le)?;
                self.spans.clear();
                self.tokens_le.clear();
            }
        }
        Ok(())
    }

    fn write(&mut self, ids: &[u32]) {
        for id in ids {
            match self.schema.token_bytes {
                2 => self.tokens_le.extend_from_slice(&(*id as u16).to_le_bytes()),
                _ => self.tokens_le.extend_from_slice(&id.to_le_bytes()),
            }
        }
    }

    /// What does not fill a row.
    pub(crate) fn into_tail(self) -> Tail {
        Tail { spans: self.spans, tokens_le: self.tokens_le }
    }
}

/// A row that was not filled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) spans: Vec<Span>,
    pub(crate) tokens_le: Vec<u8>,
}

impl Tail {
    /// The pieces it consists of.
    pub(crate) fn pieces(&self, schema: TokenSchema) -> impl Iterator<Item = (Span, Vec<u32>)> {
        let width = schema.token_bytes as usize;
        let mut ids = self.tokens_le.chunks_exact(width).map(move |bytes| match *bytes {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        });
        self.spans
            .iter()
            .map(move |span| (*span, ids.by_ref().take(span.tokens as usize).collect()))
    }
}

/// A row's spans and tokens as they lie in scratch files.
pub(crate) fn write_row(spans: &[Span], tokens_le: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&(spans.len() as u32).to_le_bytes());
    into.extend_from_slice(&(tokens_le.len() as u32).to_le_bytes());
    spans.iter().for_each(|span| write_span(span, into));
    into.extend_from_slice(tokens_le);
}

/// The bytes of a span in a scratch file.
pub(crate) const SPAN_BYTES: usize = 36;
/// The two lengths before a row.
pub(crate) const ROW_HEAD_BYTES: usize = 8;

pub(crate) fn write_span(span: &Span, into: &mut Vec<u8>) {
    for number in [span.source, span.token_start, span.tokens] {
        into.extend_from_slice(&number.to_le_bytes());
    }
    for number in [span.record, span.offset, span.bytes] {
        into.extend_from_slice(&number.to_le_bytes());
    }
}

/// The spans and tokens' lengths that the head of a row announces.
pub(crate) fn row_lengths(head: [u8; ROW_HEAD_BYTES]) -> (usize, usize) {
    let [a, b, c, d, e, f, g, h] = head;
    let spans = u32::from_le_bytes([a, b, c, d]) as usize * SPAN_BYTES;
    (spans, u32::from_le_bytes([e, f, g, h]) as usize)
}

/// Reads spans that [`write_span`] wrote.
pub(crate) fn read_spans(bytes: &[u8]) -> Vec<Span> {
    let small = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
    };
    let large = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
    };
    let span = |bytes: &[u8]| Span {
        source: small(bytes, 0),
        token_start: small(bytes, 4),
        tokens: small(bytes, 8),
        record: large(bytes, 12),
        offset: large(bytes, 20),
        bytes: large(bytes, 28),
    };
    bytes.chunks_exact(SPAN_BYTES).map(span).collect()
}

/// Reads a row that [`write_row`] wrote; an empty tail if nothing was written.
pub(crate) fn read_tail(bytes: &[u8]) -> Tail {
    let Some((head, rest)) = bytes.split_first_chunk() else { return Tail::default() };
    let (spans, _) = row_lengths(*head);
    let (spans, tokens_le) = rest.split_at(spans.min(rest.len()));
    Tail { spans: read_spans(spans), tokens_le: tokens_le.to_vec() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(record: u64) -> Span {
        Span { source: 1, record, offset: 2, bytes: 3, token_start: 0, tokens: 0 }
    }

    proptest! {
        #[test]
        fn every_token_is_in_a_row_or_in_the_tail(
            lengths in prop::collection::vec(1usize..20, 0..20),
            row_tokens in 1u32..9,
            token_bytes in prop::sample::select(vec![2u32, 4]),
        ) {
            let schema = TokenSchema { row_tokens, token_bytes };
            let mut packer = Packer::new(schema);
            let (mut next, mut pieces) = (0u32, Vec::new());
            let mut rows: Vec<Tail> = Vec::new();
            for (record, length) in lengths.iter().enumerate() {
                let ids: Vec<u32> = (next..next + *length as u32).collect();
                next += *length as u32;
                packer
                    .push(span(record as u64), &ids, &mut |spans, tokens_le| {
                        rows.push(Tail { spans: spans.to_vec(), tokens_le: tokens_le.to_vec() });
                        Ok(())
                    })
                    .unwrap();
            }
            prop_assert!(rows.iter().all(|row| row.tokens_le.len() == schema.row_bytes()));
            rows.push(packer.into_tail());
            prop_assert!(rows.last().unwrap().tokens_le.len() < schema.row_bytes());
            for row in &rows {
                let mut bytes = Vec::new();
                write_row(&row.spans, &row.tokens_le, &mut bytes);
                prop_assert_eq!(&read_tail(&bytes), row);
                pieces.extend(row.pieces(schema));
            }
            let mut seen = vec![Vec::new(); lengths.len()];
            for (span, ids) in pieces {
                let document: &mut Vec<u32> = &mut seen[span.record as usize];
                prop_assert_eq!(document.len(), span.token_start as usize);
                prop_assert_eq!(ids.len(), span.tokens as usize);
                document.extend(ids);
            }
            prop_assert_eq!(seen.concat(), (0..next).collect::<Vec<_>>());
            prop_assert!(seen.iter().zip(&lengths).all(|(ids, length)| ids.len() == *length));
        }
    }
}
