//! Strict lower-case hexadecimal, the only spelling our ids have.

/// Fills `into` from `text`; false unless `text` is exactly its lower-case digits.
pub(crate) fn decode(text: &str, into: &mut [u8]) -> bool {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    digits.len() == 2 * into.len()
        && into.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            }
        })
}
