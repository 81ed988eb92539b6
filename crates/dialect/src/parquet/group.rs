//! The footer of one row group, as text: what decoding it needs, and nothing of the others.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parquet::{
    basic::Compression,
    errors::ParquetError,
    file::metadata::{
        ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataReader,
        ParquetMetaDataWriter, RowGroupMetaData,
    },
};

/// The footer's length, and the magic.
const TAIL_BYTES: usize = 8;

/// Where the bytes of a column lie in the file.
pub(crate) fn column_place(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    // The dictionary comes first if there is one.
    let data = u64::try_from(column.data_page_offset()).ok()?;
    let start = match column.dictionary_page_offset() {
        Some(dictionary) => u64::try_from(dictionary).ok()?,
        None => data,
    };
    let bytes = u64::try_from(column.compressed_size()).ok()?;
    Some(start..start.checked_add(bytes)?)
}

/// Where the bytes of all columns lie.
pub(crate) fn place(group: &RowGroupMetaData) -> Option<Range<u64>> {
    group.columns().iter().map(column_place).try_fold(u64::MAX..0, |place, column| {
        let column = column?;
        Some(place.start.min(column.start)..place.end.max(column.end))
    })
}

/// What of a row group cannot be read, if anything.
pub(crate) fn refusal(group: &RowGroupMetaData) -> Option<String> {
    group.columns().iter().find_map(|column| {
        let name = column.column_path().string();
        if column.file_path().is_some() {
            return Some(format!("column `{name}` lies in another file"));
        }
        (column.compression() == Compression::LZO)
            .then(|| format!("column `{name}` is compressed as LZO"))
    })
}

/// Writes the footer of a file that had this row group alone.
pub(crate) fn encode(
    file: &FileMetaData,
    group: &RowGroupMetaData,
) -> Result<String, ParquetError> {
    // Statistics, indexes and key-value pairs would only make it longer.
    let columns = group
        .columns()
        .iter()
        .map(|column| {
            let builder = column.clone().into_builder().clear_statistics();
            builder
                .clear_page_encoding_stats()
                .set_column_index_offset(None)
                .set_column_index_length(None)
                .set_offset_index_offset(None)
                .set_offset_index_length(None)
                .set_bloom_filter_offset(None)
                .set_bloom_filter_length(None)
                .set_repetition_level_histogram(None)
                .set_definition_level_histogram(None)
                .build()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let group = RowGroupMetaData::builder(group.schema_descr_ptr())
        .set_num_rows(group.num_rows())
        .set_total_byte_size(group.total_byte_size())
        .set_column_metadata(columns)
        .build()?;
    let file = FileMetaData::new(
        file.version(),
        group.num_rows(),
        file.created_by().map(str::to_owned),
        None,
        file.schema_descr_ptr(),
        None,
    );
    let mut bytes = Vec::new();
    ParquetMetaDataWriter::new(&mut bytes, &ParquetMetaData::new(file, vec![group])).finish()?;
    bytes.truncate(bytes.len().saturating_sub(TAIL_BYTES));
    Ok(STANDARD.encode(bytes))
}

/// Reads what [`encode`] wrote: the footer, with its one row group.
pub(crate) fn decode(text: &str) -> Result<ParquetMetaData, String> {
    let bytes = from_base64(text).ok_or("its row group is not described by base64")?;
    let metadata = ParquetMetaDataReader::decode_metadata(&bytes)
        .map_err(|source| format!("its row group's description cannot be read ({source})"))?;
    if metadata.num_row_groups() != 1 {
        return Err("its extent is not described by one row group".into());
    }
    Ok(metadata)
}

/// Decodes base64.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
