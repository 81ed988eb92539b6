//! Tensor files: plain safetensors (<https://huggingface.co/docs/safetensors>), no pickle, ever.
//!
//! ```text
//! 8 bytes   length of the header, little-endian
//! header    JSON: {"<name>":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},…}, then spaces,
//!           so that the data starts at a multiple of 64
//! data      the tensors, without gaps: the widest elements first, then by name
//! ```
//!
//! Widest first keeps every tensor aligned to its own elements, so a memory map of the file can
//! be used as it is. The bytes depend on names, types, shapes and values alone.

use std::{collections::BTreeMap, fmt};

pub use forebay_types::Dtype;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::Error;

/// The longest header that is written or read.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;
const ALIGNMENT_BYTES: usize = 64;
const LENGTH_BYTES: u64 = 8;
const METADATA: &str = "__metadata__";

/// A tensor without its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; a scalar has none.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// The bytes of its values; `None` when no machine could hold them.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        // A side of 0 makes the whole empty, however long the others are.
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(self.dtype.bytes(), |bytes, &side| bytes.checked_mul(side))
    }
}

/// Where a tensor lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// The tensor.
    pub spec: TensorSpec,
    /// Where its values start in the file.
    pub offset: u64,
    /// How long they are.
    pub bytes: u64,
}

/// A file that is about to be written.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// What stands before the data: length, JSON, spaces.
    pub header: Vec<u8>,
    /// The tensors in the order of their data, each with its index in what was planned.
    pub places: Vec<(usize, TensorPlace)>,
    /// The length of the whole file.
    pub file_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderEntry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A row of a header that is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Description(&'a BTreeMap<String, String>),
    Tensor(HeaderEntry),
}

/// Plans a file that holds `specs`.
///
/// # Errors
/// [`Error::Unwritable`] for two tensors of one name, a name the format reserves, or a tensor no
/// machine could hold.
pub fn plan(specs: &[TensorSpec]) -> Result<TensorPlan, Error> {
    plan_described(specs, &BTreeMap::new())
}

/// Plans a file that holds `specs` and says `description`, texts by name, to readers that ask for
/// the format's `__metadata__`. Nothing is said if it is empty.
///
/// # Errors
/// As [`plan`].
pub fn plan_described(
    specs: &[TensorSpec],
    description: &BTreeMap<String, String>,
) -> Result<TensorPlan, Error> {
    plan_with(specs, description, 0)
}

/// Plans a file whose header takes no less room than that of `longest`: the same tensors, of which some
/// may be longer. So the data has its place before it is known how long it is.
///
/// # Errors
/// As [`plan`].
pub fn plan_with_room(specs: &[TensorSpec], longest: &[TensorSpec]) -> Result<TensorPlan, Error> {
    plan_with(specs, &BTreeMap::new(), plan(longest)?.header.len())
}

fn plan_with(
    specs: &[TensorSpec],
    description: &BTreeMap<String, String>,
    header_bytes_min: usize,
) -> Result<TensorPlan, Error> {
    let refuse = |what: String| Error::Unwritable { object: "a tensor file".into(), what };
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by(|&a, &b| {
        let key =
            |index: usize| (std::cmp::Reverse(specs[index].dtype.bytes()), &specs[index].name);
        key(a).cmp(&key(b))
    });
    let mut header = BTreeMap::new();
    let mut ranges = Vec::with_capacity(order.len());
    let mut end = 0u64;
    for &index in &order {
        let spec = &specs[index];
        let bytes = spec.bytes().and_then(|bytes| Some((bytes, end.checked_add(bytes)?)));
        let Some((bytes, next)) = bytes else {
            return Err(refuse(format!(
                "tensor `{}` of shape {:?} is too large",
                spec.name, spec.shape
            )));
        };
        let entry =
            HeaderEntry { dtype: spec.dtype, shape: spec.shape.clone(), data_offsets: [end, next] };
        let row = Row::Tensor(entry);
        if spec.name == METADATA || header.insert(spec.name.clone(), row).is_some() {
            return Err(refuse(format!("the name `{}` is taken", spec.name)));
        }
        ranges.push((index, end, bytes));
        end = next;
    }
    if !description.is_empty() {
        header.insert(METADATA.into(), Row::Description(description));
    }
    let mut json = serde_json::to_vec(&header).map_err(|error| refuse(error.to_string()))?;
    let unpadded = json.len() + LENGTH_BYTES as usize;
    let padded = unpadded.next_multiple_of(ALIGNMENT_BYTES).max(header_bytes_min);
    json.resize(padded - LENGTH_BYTES as usize, b' ');
    if json.len() as u64 > HEADER_BYTES_MAX {
        return Err(refuse(format!("a header of {} bytes", json.len())));
    }
    let start = LENGTH_BYTES + json.len() as u64;
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    let place = |(index, offset, bytes): (usize, u64, u64)| {
        (index, TensorPlace { spec: specs[index].clone(), offset: start + offset, bytes })
    };
    Ok(TensorPlan {
        header: bytes,
        places: ranges.into_iter().map(place).collect(),
        file_bytes: start + end,
    })
}

/// The length of the header's JSON, from the first eight bytes of a file.
///
/// # Errors
/// [`Error::Damaged`] when no header of that length is accepted.
pub fn header_bytes(first: [u8; 8], object: &str) -> Result<u64, Error> {
    let bytes = u64::from_le_bytes(first);
    if bytes <= HEADER_BYTES_MAX {
        return Ok(bytes);
    }
    Err(Error::damaged(object, format!("its header would have {bytes} bytes")))
}

/// The tensors of a file of `file_bytes`, in the order of their data, from its header's JSON.
///
/// # Errors
/// [`Error::Damaged`] when ranges overlap, leave gaps, leave the file, or do not fit their shapes.
pub fn parse(json: &[u8], file_bytes: u64, object: &str) -> Result<Vec<TensorPlace>, Error> {
    let damaged = |what: String| Error::damaged(object, what);
    if json.first() != Some(&b'{') {
        return Err(damaged("its header does not start with `{`".into()));
    }
    let Rows(header) = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
    let start = LENGTH_BYTES + json.len() as u64;
    let mut places = Vec::with_capacity(header.len());
    for (name, entry) in header {
        let spec = TensorSpec { name, dtype: entry.dtype, shape: entry.shape };
        let [from, to] = entry.data_offsets;
        let bytes = to.checked_sub(from).filter(|bytes| spec.bytes() == Some(*bytes));
        let offset = start.checked_add(from);
        let (Some(bytes), Some(offset)) = (bytes, offset) else {
            return Err(damaged(format!("`{}` does not have the bytes of its shape", spec.name)));
        };
        places.push(TensorPlace { spec, offset, bytes });
    }
    places.sort_by_key(|place| (place.offset, place.bytes));
    let mut end = start;
    for place in &places {
        if place.offset != end {
            return Err(damaged(format!(
                "`{}` does not follow the tensor before it",
                place.spec.name
            )));
        }
        end = end.saturating_add(place.bytes);
    }
    if end == file_bytes {
        Ok(places)
    } else {
        Err(damaged(format!("{file_bytes} bytes instead of {end}")))
    }
}

/// The header's rows. A map would keep the last of two rows of one name, and readers that keep
/// the first would see another file: such a header is refused.
struct Rows(BTreeMap<String, HeaderEntry>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> de::Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of tensors")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
        let mut rows = BTreeMap::new();
        let mut described = false;
        while let Some(name) = map.next_key::<String>()? {
            let twice = if name == METADATA {
                map.next_value::<BTreeMap<String, String>>()?;
                std::mem::replace(&mut described, true)
            } else {
                rows.insert(name.clone(), map.next_value()?).is_some()
            };
            if twice {
                return Err(de::Error::custom(format!("the name `{name}` stands twice")));
            }
        }
        Ok(Rows(rows))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str, dtype: Dtype, shape: &[u64]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn a_planned_header_is_parsed_back_and_every_tensor_is_aligned() {
        let specs = [
            spec("b", Dtype::U8, &[3]),
            spec("a", Dtype::F32, &[2, 3]),
            spec("scalar", Dtype::F64, &[]),
            spec("empty", Dtype::BF16, &[0, 7]),
        ];
        let plan = plan(&specs).unwrap();
        assert_eq!(plan.header.len() % 64, 0);
        let parsed = parse(&plan.header[8..], plan.file_bytes, "x").unwrap();
        let planned: Vec<_> = plan.places.iter().map(|(_, place)| place.clone()).collect();
        assert_eq!(parsed, planned);
        for place in parsed {
            assert_eq!(place.offset % place.spec.dtype.bytes(), 0, "{place:?}");
        }
    }

    #[test]
    fn a_description_is_there_for_those_who_ask_and_moves_no_tensor() {
        let specs = [spec("a", Dtype::F32, &[2])];
        let described = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let plan = plan_described(&specs, &described).unwrap();
        let mut bytes = plan.header.clone();
        bytes.extend([0; 8]);
        let parsed = parse(&plan.header[8..], plan.file_bytes, "x").unwrap();
        assert_eq!(parsed, [plan.places[0].1.clone()]);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn names_that_clash_and_tensors_beyond_memory_are_refused() {
        let clash = [spec("a", Dtype::U8, &[1]), spec("a", Dtype::F32, &[1])];
        assert!(plan(&clash).unwrap_err().to_string().contains("`a`"));
        assert!(plan(&[spec("__metadata__", Dtype::U8, &[1])]).is_err());
        assert!(plan(&[spec("a", Dtype::F64, &[u64::MAX, 2])]).is_err());
    }

    #[test]
    fn hostile_headers_are_refused_without_a_panic() {
        let hostile = [
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551607,18446744073709551615]}}"#,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
            r#"{"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#,
            r#"{"__metadata__":{},"__metadata__":{},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#,
            r#" {"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#,
            r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"b":1}}"#,
            "[",
            "{}x",
            "",
        ];
        for json in hostile {
            assert!(parse(json.as_bytes(), 8 + json.len() as u64 + 8, "x").is_err(), "{json}");
        }
        assert!(header_bytes([255; 8], "x").is_err());
    }

    const DTYPES: [Dtype; 17] = [
        Dtype::C64,
        Dtype::F8E5M2,
        Dtype::F8E4M3,
        Dtype::F8E8M0,
        Dtype::F64,
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I64,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U64,
        Dtype::U32,
        Dtype::U16,
        Dtype::U8,
        Dtype::Bool,
    ];

    fn specs() -> impl Strategy<Value = Vec<TensorSpec>> {
        let tensor = (0..DTYPES.len(), prop::collection::vec(0u64..5, 0..4));
        prop::collection::btree_map("[a-z.\"é]{0,6}", tensor, 0..12).prop_map(|map| {
            let one = |(name, (dtype, shape)): (String, (usize, Vec<u64>))| {
                spec(&name, DTYPES[dtype], &shape)
            };
            map.into_iter().map(one).collect()
        })
    }

    /// A file of these tensors whose bytes count up.
    fn file(specs: &[TensorSpec]) -> (TensorPlan, Vec<u8>) {
        let plan = plan(specs).unwrap();
        let mut bytes = plan.header.clone();
        bytes.extend((bytes.len() as u64..plan.file_bytes).map(|index| index as u8));
        (plan, bytes)
    }

    fn read(bytes: &[u8]) -> Result<Vec<TensorPlace>, Error> {
        let (first, rest) =
            bytes.split_first_chunk().ok_or_else(|| Error::damaged("x", "it is too short"))?;
        let json = rest.get(..header_bytes(*first, "x")? as usize);
        let json = json.ok_or_else(|| Error::damaged("x", "its header is cut short"))?;
        parse(json, bytes.len() as u64, "x")
    }

    proptest! {
        /// The reference implementation is the judge.
        #[test]
        fn the_safetensors_crate_reads_what_we_write(specs in specs()) {
            let (plan, bytes) = file(&specs);
            let judge = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(judge.len(), specs.len());
            for (_, place) in &plan.places {
                let view = judge.tensor(&place.spec.name).unwrap();
                let range = place.offset as usize..(place.offset + place.bytes) as usize;
                prop_assert_eq!(view.data(), &bytes[range]);
                let shape: Vec<_> = view.shape().iter().map(|&side| side as u64).collect();
                prop_assert_eq!(&shape, &place.spec.shape);
                let dtype = serde_json::to_string(&view.dtype()).unwrap();
                prop_assert_eq!(dtype, serde_json::to_string(&place.spec.dtype).unwrap());
            }
        }

        #[test]
        fn the_order_given_decides_nothing_and_all_is_read_back(specs in specs()) {
            let (plan, bytes) = file(&specs);
            let reversed: Vec<_> = specs.iter().rev().cloned().collect();
            prop_assert_eq!(&file(&reversed).1, &bytes);
            let found = read(&bytes).unwrap();
            prop_assert_eq!(found.len(), specs.len());
            prop_assert!(plan.places.iter().all(|(_, place)| found.contains(place)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = read(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic_or_leave_the_file(at in 0usize..400, flip in 1u8..) {
            let (_, mut bytes) = file(&[spec("a", Dtype::F32, &[2, 3]), spec("b", Dtype::U8, &[])]);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(found) = read(&bytes) {
                let end = bytes.len() as u64;
                prop_assert!(found.iter().all(|place| place.offset + place.bytes <= end));
            }
        }
    }
}
