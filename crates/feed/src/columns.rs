//! The columns of a feed: which fields are delivered, and in which form.
//!
//! A column is resolved once, when the feed is opened: its field in every dataset that is mixed,
//! and what is made of its values. All datasets must agree on it, and a setting that names a field
//! nobody has is refused by name.

use std::sync::Arc;

use forebay_image::{ImageDecoder, ImageSettings};
use forebay_types::{Dtype, FieldKind, Schema};

use crate::{
    Error, FeedSettings,
    batch::{ColumnKind, Layout},
    settings::Padding,
};

/// One column, resolved.
#[derive(Debug)]
pub(crate) struct ColumnPlan {
    /// The field's number in the schema of each dataset.
    pub fields: Vec<usize>,
    /// What is made of its values.
    pub make: Make,
}

/// What is made of a field's values.
#[derive(Debug)]
pub(crate) enum Make {
    /// Values of one length are put side by side.
    Dense {
        /// The bytes of a value.
        value_bytes: usize,
    },
    /// Values are encoded images, and become tensors of one shape.
    Image {
        /// What becomes of them.
        decoder: ImageDecoder,
        /// The bytes of a tensor.
        value_bytes: usize,
    },
    /// Values are put one after the other.
    Ragged {
        /// The bytes of an element.
        item_bytes: usize,
    },
    /// Values are put side by side, each filled up.
    Padded {
        /// The bytes of an element.
        item_bytes: usize,
        /// What it is filled up with.
        fill: Vec<u8>,
        /// The elements of each value; the longest of the batch if absent.
        items: Option<usize>,
    },
}

/// All columns of a feed.
#[derive(Debug)]
pub(crate) struct Columns {
    pub plans: Vec<ColumnPlan>,
    pub layout: Arc<Layout>,
}

impl Columns {
    /// The columns that checked `settings` ask for of datasets with these schemas.
    pub(crate) fn resolve(schemas: &[&Schema], settings: &FeedSettings) -> Result<Self, Error> {
        let all: Vec<String> = schemas[0].fields.iter().map(|field| field.name.clone()).collect();
        let names = settings.columns.clone().unwrap_or(all);
        if names.is_empty() {
            return Err(refuse("columns", "a batch needs at least one".into()));
        }
        if let Some(name) = settings.padding.keys().find(|name| !names.contains(*name)) {
            return Err(refuse("padding", unknown(name, &names)));
        }
        if let Some(name) = settings.images.keys().find(|name| !names.contains(*name)) {
            return Err(refuse("images", unknown(name, &names)));
        }
        let (mut plans, mut columns) = (Vec::new(), Vec::new());
        for name in names {
            let (fields, kind) = field(schemas, &name)?;
            let (make, kind) = match (settings.images.get(&name), settings.padding.get(&name)) {
                (None, None) => plain(kind)?,
                (Some(image), None) => pictured(&name, kind, image)?,
                (None, Some(padding)) => padded(&name, kind, padding)?,
                (Some(_), Some(_)) => {
                    return Err(refuse("padding", format!("`{name}` is decoded as an image")));
                }
            };
            plans.push(ColumnPlan { fields, make });
            columns.push((name, kind));
        }
        Ok(Self { plans, layout: Arc::new(Layout { columns }) })
    }

    /// The bytes of one row of a batch, where `varying` are those of an average sample as it lies.
    pub(crate) fn row_bytes(&self, varying: u64) -> u64 {
        let bytes = |plan: &ColumnPlan| match &plan.make {
            Make::Dense { value_bytes } | Make::Image { value_bytes, .. } => *value_bytes as u64,
            Make::Padded { item_bytes, items: Some(items), .. } => (items * item_bytes) as u64,
            Make::Ragged { .. } | Make::Padded { .. } => 0,
        };
        let varies = self.plans.iter().any(|plan| {
            matches!(plan.make, Make::Ragged { .. } | Make::Padded { items: None, .. })
        });
        self.plans.iter().map(bytes).sum::<u64>() + if varies { varying } else { 0 }
    }
}

/// A field's number in every schema, and its kind, which must be the same in all.
fn field<'a>(schemas: &[&'a Schema], name: &str) -> Result<(Vec<usize>, &'a FieldKind), Error> {
    let mut fields = Vec::with_capacity(schemas.len());
    let mut kind = None;
    for schema in schemas {
        let Some(position) = schema.position(name) else {
            let names: Vec<String> = schema.fields.iter().map(|f| f.name.clone()).collect();
            return Err(refuse("columns", unknown(name, &names)));
        };
        let found = &schema.fields[position].kind;
        if *kind.get_or_insert(found) != found {
            let why = format!("`{name}` is {kind:?} in one dataset and {found:?} in another");
            return Err(refuse("columns", why));
        }
        fields.push(position);
    }
    let kind = kind.ok_or_else(|| refuse("columns", unknown(name, &[])))?;
    Ok((fields, kind))
}

fn plain(kind: &FieldKind) -> Result<(Make, ColumnKind), Error> {
    Ok(match kind {
        FieldKind::Tensor { dtype, shape } => {
            let value_bytes = kind
                .fixed_bytes()
                .ok_or_else(|| refuse("columns", format!("no value has the shape {shape:?}")))?;
            let shape = shape.iter().map(|size| *size as usize).collect();
            (Make::Dense { value_bytes }, ColumnKind::Dense { dtype: *dtype, shape })
        }
        FieldKind::Ragged { dtype } => (
            Make::Ragged { item_bytes: dtype.bytes() as usize },
            ColumnKind::Ragged { dtype: *dtype },
        ),
        FieldKind::Bytes => (Make::Ragged { item_bytes: 1 }, ColumnKind::Bytes),
        FieldKind::Text => (Make::Ragged { item_bytes: 1 }, ColumnKind::Text),
    })
}

fn pictured(
    name: &str,
    kind: &FieldKind,
    settings: &ImageSettings,
) -> Result<(Make, ColumnKind), Error> {
    if *kind != FieldKind::Bytes {
        return Err(refuse("images", format!("`{name}` is {kind:?}, and no encoded image")));
    }
    let unusable = |why: String| refuse("images", format!("for `{name}`: {why}"));
    let decoder =
        ImageDecoder::new(settings.clone()).map_err(|error| unusable(error.to_string()))?;
    let shape = decoder.output_shape().ok_or_else(|| unusable("it gives no one shape".into()))?;
    let value_bytes = decoder.output_bytes().unwrap_or(0);
    let shape = shape.iter().map(|size| *size as usize).collect();
    let kind = ColumnKind::Dense { dtype: settings.dtype, shape };
    Ok((Make::Image { decoder, value_bytes }, kind))
}

fn padded(name: &str, kind: &FieldKind, padding: &Padding) -> Result<(Make, ColumnKind), Error> {
    let dtype = match kind {
        FieldKind::Ragged { dtype } => *dtype,
        FieldKind::Bytes | FieldKind::Text => Dtype::U8,
        FieldKind::Tensor { .. } => {
            let why = format!("all values of `{name}` have one length already");
            return Err(refuse("padding", why));
        }
    };
    let fill = fill(dtype, padding.value).ok_or_else(|| {
        refuse("padding", format!("{} of `{name}` is no value of {dtype:?}", padding.value))
    })?;
    let items = padding.items.map(|items| items as usize);
    let make = Make::Padded { item_bytes: dtype.bytes() as usize, fill, items };
    Ok((make, ColumnKind::Padded { dtype }))
}

/// `value` as the bytes of one element, if it is one exactly.
fn fill(dtype: Dtype, value: f64) -> Option<Vec<u8>> {
    macro_rules! integer {
        ($type:ty) => {{
            let cast = value as $type;
            (cast as f64 == value).then(|| cast.to_le_bytes().to_vec())
        }};
    }
    match dtype {
        Dtype::U8 => integer!(u8),
        Dtype::I8 => integer!(i8),
        Dtype::U16 => integer!(u16),
        Dtype::I16 => integer!(i16),
        Dtype::U32 => integer!(u32),
        Dtype::I32 => integer!(i32),
        Dtype::U64 => integer!(u64),
        Dtype::I64 => integer!(i64),
        Dtype::Bool => (value == 0.0 || value == 1.0).then(|| vec![value as u8]),
        Dtype::F32 => Some((value as f32).to_le_bytes().to_vec()),
        Dtype::F64 => Some(value.to_le_bytes().to_vec()),
        // The others are filled with nothing but zero: no arithmetic on them is needed elsewhere.
        Dtype::F16 | Dtype::BF16 | Dtype::C64 | Dtype::F8E5M2 | Dtype::F8E4M3 => {
            (value == 0.0).then(|| vec![0; dtype.bytes() as usize])
        }
        // It has no zero.
        Dtype::F8E8M0 => None,
    }
}

fn unknown(name: &str, names: &[String]) -> String {
    format!("there is no field `{name}`; there are {}", names.join(", "))
}

fn refuse(setting: &'static str, why: String) -> Error {
    Error::Setting { setting, why }
}

#[cfg(test)]
mod tests {
    use forebay_types::Field;

    use super::*;

    fn schema(fields: &[(&str, FieldKind)]) -> Schema {
        let fields =
            fields.iter().map(|(name, kind)| Field { name: (*name).into(), kind: kind.clone() });
        Schema { fields: fields.collect() }
    }

    #[test]
    fn settings_that_fit_no_schema_are_refused_by_name() {
        let tokens = FieldKind::Tensor { dtype: Dtype::U16, shape: vec![4] };
        let ragged = FieldKind::Ragged { dtype: Dtype::I32 };
        let one = schema(&[("tokens", tokens.clone()), ("labels", ragged)]);
        let other = schema(&[("tokens", FieldKind::Bytes)]);
        let error = |schemas: &[&Schema], settings: &FeedSettings| {
            Columns::resolve(schemas, settings).unwrap_err().to_string()
        };
        let settings = |columns: &[&str], padded: &[(&str, f64)]| FeedSettings {
            columns: Some(columns.iter().map(|name| (*name).to_owned()).collect()),
            padding: padded
                .iter()
                .map(|&(name, value)| (name.into(), Padding { value, items: None }))
                .collect(),
            ..FeedSettings::default()
        };
        assert!(error(&[&one], &settings(&["x"], &[])).contains("no field `x`; there are tokens"));
        assert!(error(&[&one, &other], &settings(&["tokens"], &[])).contains("in another"));
        let all = &["tokens", "labels"];
        assert!(error(&[&one], &settings(all, &[("tokens", 0.0)])).contains("one length already"));
        assert!(error(&[&one], &settings(all, &[("labels", 0.5)])).contains("no value of I32"));
        assert!(error(&[&one], &settings(&[], &[])).contains("at least one"));
        let columns = Columns::resolve(&[&one], &settings(all, &[("labels", -1.0)])).unwrap();
        assert_eq!(columns.layout.columns[1].1, ColumnKind::Padded { dtype: Dtype::I32 });
        assert_eq!(columns.row_bytes(100), 108);
    }
}
