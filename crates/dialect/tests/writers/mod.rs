//! Tiny writers of the formats, and a reader of everything a file has.

use std::collections::BTreeMap;

use forebay_dialect::{Dialect, Error, Form, Survey};
use forebay_types::Schema;

/// A row's values by the names of their fields.
pub type Row = BTreeMap<String, Vec<u8>>;

/// A tar archive of `members`; those without data are folders. Names longer than a header's get
/// one of GNU's.
pub fn tar(members: &[(String, Option<Vec<u8>>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in members {
        if name.len() > 100 {
            tar_member(&mut archive, b"././@LongLink", b'L', &[name.as_bytes(), b"\0"].concat());
        }
        let kind = if data.is_some() { b'0' } else { b'5' };
        let name = &name.as_bytes()[..name.len().min(100)];
        tar_member(&mut archive, name, kind, data.as_deref().unwrap_or_default());
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub fn tar_member(archive: &mut Vec<u8>, name: &[u8], kind: u8, data: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name);
    header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar ");
    seal(&mut header);
    archive.extend_from_slice(&header);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Gives a header its checksum.
pub fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A NumPy file of a vector of 32-bit floats.
pub fn npy(elements: &[f32]) -> Vec<u8> {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}\n", elements.len());
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    file.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
    file
}

/// The values of a feature.
#[derive(Clone, Debug)]
pub enum List {
    Bytes(Vec<Vec<u8>>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

/// A TFRecord file of examples.
pub fn tfrecord(records: &[Vec<(&str, List)>], packed: bool) -> Vec<u8> {
    records.iter().flat_map(|features| record(&example(features, packed))).collect()
}

pub fn record(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| {
        let crc = crc32c::crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

pub fn example(features: &[(&str, List)], packed: bool) -> Vec<u8> {
    let entries = features.iter().flat_map(|(name, list)| {
        let entry = [message(1, name.as_bytes()), message(2, &feature(list, packed))].concat();
        message(1, &entry)
    });
    message(1, &entries.collect::<Vec<u8>>())
}

fn feature(list: &List, packed: bool) -> Vec<u8> {
    match list {
        List::Bytes(values) => {
            message(1, &values.iter().flat_map(|value| message(1, value)).collect::<Vec<u8>>())
        }
        List::Floats(values) => {
            let bytes = values.iter().map(|value| value.to_le_bytes());
            message(
                2,
                &match packed {
                    true => message(1, &bytes.flatten().collect::<Vec<u8>>()),
                    false => bytes.flat_map(|bytes| [&[0x0d], &bytes[..]].concat()).collect(),
                },
            )
        }
        List::Integers(values) => {
            let numbers = values.iter().map(|&value| varint(value as u64));
            message(
                3,
                &match packed {
                    true => message(1, &numbers.flatten().collect::<Vec<u8>>()),
                    false => numbers.flat_map(|bytes| [&[0x08], &bytes[..]].concat()).collect(),
                },
            )
        }
    }
}

fn message(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Everything that `stored` holds, as a feed would read it under `schema`.
pub fn read(
    dialect: &dyn Dialect,
    stored: &[u8],
    survey: &Survey,
    schema: &Schema,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for cut in &survey.cuts {
        let part = &stored[cut.offset as usize..(cut.offset + cut.bytes) as usize];
        let mut content = Vec::new();
        let content = match cut.form {
            Form::Plain => part,
            _ => {
                dialect.decode(part, &cut.form, schema, "f", &mut content)?;
                &content
            }
        };
        let found = dialect.open(content, schema, &survey.context, "f")?;
        assert_eq!(found.rows(), cut.rows);
        for range in found.framing(content) {
            assert!(range.end <= content.len());
        }
        for row in 0..cut.rows {
            let place = found.place(content, row);
            assert!(place.end <= content.len());
            let mut values = Row::new();
            for (number, field) in schema.fields.iter().enumerate() {
                let value = found.value(content, row, number)?;
                if let Some(bytes) = field.kind.fixed_bytes() {
                    assert_eq!(value.len(), bytes);
                }
                assert_eq!(value.len() % field.kind.item_bytes(), 0);
                values.insert(field.name.clone(), value.into_owned());
            }
            rows.push(values);
        }
    }
    Ok(rows)
}
