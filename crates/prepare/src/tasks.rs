//! Dividing the cleaned text into tasks of about equal size.
//!
//! Tasks are made from the chunks in order, across sources, so many small files make few tasks;
//! their borders depend on the data alone.

use std::ops::Range;

use crate::cleaning::ChunkEntry;

/// A task ends with the chunk that reaches this.
const TASK_BYTES: u64 = 16 << 20;

/// The chunks, grouped.
#[derive(Debug)]
pub(crate) struct Tasks {
    chunks: Vec<ChunkEntry>,
    /// The first chunk of each task.
    starts: Vec<usize>,
}

impl Tasks {
    /// Groups ordered chunks.
    pub(crate) fn new(chunks: Vec<ChunkEntry>) -> Self {
        let (mut starts, mut bytes) = (Vec::new(), TASK_BYTES);
        for (index, chunk) in chunks.iter().enumerate() {
            if bytes >= TASK_BYTES {
                starts.push(index);
                bytes = 0;
            }
            bytes += chunk.text_bytes;
        }
        Self { chunks, starts }
    }

    pub(crate) const fn len(&self) -> usize {
        self.starts.len()
    }

    /// All cleaned text.
    pub(crate) fn text_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.text_bytes).sum()
    }

    /// Every chunk, in order.
    pub(crate) fn all(&self) -> &[ChunkEntry] {
        &self.chunks
    }

    /// The chunks of a task.
    pub(crate) fn chunks(&self, task: usize) -> &[ChunkEntry] {
        let end = self.starts.get(task + 1).copied().unwrap_or(self.chunks.len());
        &self.chunks[Range { start: self.starts[task], end }]
    }

    /// The task that has a chunk.
    pub(crate) fn of(&self, source: u32, chunk: u32) -> usize {
        let before = |entry: &ChunkEntry| (entry.source, entry.number) < (source, chunk);
        let index = self.chunks.partition_point(before);
        self.starts.partition_point(|start| *start <= index).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_one_task() {
        let chunk = |source, number, text_bytes| ChunkEntry { source, number, text_bytes };
        let half = TASK_BYTES / 2;
        let chunks = vec![
            chunk(0, 0, half),
            chunk(0, 1, half),
            chunk(1, 0, 1),
            chunk(2, 0, TASK_BYTES * 3),
            chunk(3, 0, 0),
        ];
        let tasks = Tasks::new(chunks.clone());
        let lengths: Vec<_> = (0..tasks.len()).map(|task| tasks.chunks(task).len()).collect();
        assert_eq!(lengths, [2, 2, 1]);
        for task in 0..tasks.len() {
            assert!(tasks.chunks(task).iter().all(|c| tasks.of(c.source, c.number) == task));
        }
        assert_eq!(Tasks::new(Vec::new()).len(), 0);
    }
}
