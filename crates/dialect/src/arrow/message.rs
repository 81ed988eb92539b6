//! Where the messages of Arrow's IPC format lie.
//!
//! ```text
//! ff ff ff ff   marks a message (absent before Arrow 0.15)
//! length        of the metadata, i32; 0 ends a stream
//! metadata      a flatbuffer, verified before it is read
//! body          as long as the metadata says: the buffers of a record batch
//! ```

use arrow_ipc::{Message, root_as_message};

use crate::bytes::u32_at;

const CONTINUATION: u32 = u32::MAX;

/// A message, and where its body lies in the bytes it was found in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) message: Message<'a>,
    pub(crate) data: usize,
    pub(crate) end: usize,
}

/// The message at `start`; none at the end of the stream.
pub(crate) fn find(bytes: &[u8], start: usize) -> Result<Option<Found<'_>>, String> {
    if start == bytes.len() {
        return Ok(None);
    }
    let cut_short = || format!("the message at byte {start} is cut short");
    let mut at = start;
    let mut length = u32_at(bytes, at).ok_or_else(cut_short)?;
    at += 4;
    if length == CONTINUATION {
        length = u32_at(bytes, at).ok_or_else(cut_short)?;
        at += 4;
    }
    if length == 0 {
        return Ok(None);
    }
    let data = at.checked_add(length as usize).ok_or_else(cut_short)?;
    let metadata = bytes.get(at..data).ok_or_else(cut_short)?;
    let message = root_as_message(metadata)
        .map_err(|error| format!("the message at byte {start} cannot be read ({error})"))?;
    let end = usize::try_from(message.bodyLength())
        .ok()
        .and_then(|length| data.checked_add(length))
        .filter(|end| *end <= bytes.len())
        .ok_or_else(cut_short)?;
    Ok(Some(Found { message, data, end }))
}
