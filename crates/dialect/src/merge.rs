//! What a dataset's samples consist of, when its files do not quite agree.
//!
//! Each file is surveyed alone; the dataset has one schema, under which every file is opened. A
//! vector of one length here and another there has as many elements as the sample has; a field
//! that a file lacks is empty there, if its kind can be. Anything else is for people to settle.
//! A schema without fields is that of a file without rows, and has no say.
//!
//! Formats that can say more about a field (a number that JSON spells with or without a point)
//! do so in [`Dialect::merge`](crate::Dialect::merge).

use forebay_types::{Dtype, Field, FieldKind, Schema};

/// The most fields a file or a dataset may have: each costs the bookkeeping of every batch.
pub const FIELDS_MAX: usize = 4096;

/// The schema of a dataset of which one part has schema `a` and another `b`: the fields of `a`,
/// then those that only `b` has. `None` when they cannot be one.
#[must_use]
pub fn merge(a: &Schema, b: &Schema) -> Option<Schema> {
    merge_by(a, b, |_, a, b| match (a, b) {
        (Some(a), Some(b)) => join(a, b),
        (Some(kind), None) | (None, Some(kind)) => may_be_empty(kind).then(|| kind.clone()),
        (None, None) => None,
    })
}

/// Merges two schemas that must be the same, but for one without fields.
pub(crate) fn same(a: &Schema, b: &Schema) -> Option<Schema> {
    merge_by(a, b, |_, a, b| a.filter(|kind| Some(*kind) == b).cloned())
        .filter(|merged| [a, b].iter().all(|s| s.fields.is_empty() || *s == merged))
}

/// Merges two schemas field by field: `kind` says what a field of this name is that is of these
/// kinds in the two, or is missing in one of them.
pub(crate) fn merge_by(
    a: &Schema,
    b: &Schema,
    kind: impl Fn(&str, Option<&FieldKind>, Option<&FieldKind>) -> Option<FieldKind>,
) -> Option<Schema> {
    if a.fields.is_empty() || b.fields.is_empty() || a == b {
        return Some(if a.fields.is_empty() { b } else { a }.clone());
    }
    let in_b: std::collections::HashMap<&str, &FieldKind> =
        b.fields.iter().map(|field| (field.name.as_str(), &field.kind)).collect();
    let in_a: std::collections::HashSet<&str> =
        a.fields.iter().map(|field| field.name.as_str()).collect();
    let mut fields = Vec::with_capacity(a.fields.len());
    for Field { name, kind: of_a } in &a.fields {
        let kind = kind(name, Some(of_a), in_b.get(name.as_str()).copied())?;
        fields.push(Field { name: name.clone(), kind });
    }
    for Field { name, kind: of_b } in &b.fields {
        if !in_a.contains(name.as_str()) {
            fields.push(Field { name: name.clone(), kind: kind(name, None, Some(of_b))? });
        }
    }
    (fields.len() <= FIELDS_MAX).then_some(Schema { fields })
}

/// The kind of values of which some are `a` and some `b`.
pub(crate) fn join(a: &FieldKind, b: &FieldKind) -> Option<FieldKind> {
    if a == b {
        return Some(a.clone());
    }
    match (vector(a), vector(b)) {
        (Some(of_a), Some(of_b)) if of_a == of_b => Some(FieldKind::Ragged { dtype: of_a }),
        _ => None,
    }
}

/// The elements' type of a vector, of a fixed length or not.
pub(crate) fn vector(kind: &FieldKind) -> Option<Dtype> {
    match kind {
        FieldKind::Tensor { dtype, shape } if shape.len() == 1 => Some(*dtype),
        FieldKind::Ragged { dtype } => Some(*dtype),
        _ => None,
    }
}

/// Whether a value of this kind may have no bytes.
pub(crate) const fn may_be_empty(kind: &FieldKind) -> bool {
    !matches!(kind, FieldKind::Tensor { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u32]) -> FieldKind {
        FieldKind::Tensor { dtype: Dtype::F32, shape: shape.to_vec() }
    }

    fn schema(fields: &[(&str, FieldKind)]) -> Schema {
        let field = |(name, kind): &(&str, FieldKind)| Field {
            name: (*name).to_owned(),
            kind: kind.clone(),
        };
        Schema { fields: fields.iter().map(field).collect() }
    }

    #[test]
    fn vectors_of_several_lengths_become_one_of_any() {
        let ragged = FieldKind::Ragged { dtype: Dtype::F32 };
        let merged = |a: &FieldKind, b: &FieldKind| {
            let merged = merge(&schema(&[("x", a.clone())]), &schema(&[("x", b.clone())]));
            let turned = merge(&schema(&[("x", b.clone())]), &schema(&[("x", a.clone())]));
            assert_eq!(merged, turned);
            merged.map(|schema| schema.fields[0].kind.clone())
        };
        assert_eq!(merged(&tensor(&[3]), &tensor(&[3])), Some(tensor(&[3])));
        assert_eq!(merged(&tensor(&[3]), &tensor(&[4])), Some(ragged.clone()));
        assert_eq!(merged(&tensor(&[3]), &ragged), Some(ragged.clone()));
        assert_eq!(merged(&ragged, &FieldKind::Ragged { dtype: Dtype::I64 }), None);
        assert_eq!(merged(&tensor(&[]), &tensor(&[1])), None);
        assert_eq!(merged(&tensor(&[2, 3]), &tensor(&[3, 2])), None);
        assert_eq!(merged(&FieldKind::Text, &FieldKind::Bytes), None);
    }

    #[test]
    fn a_field_may_be_missing_where_it_may_be_empty() {
        let both = schema(&[("x", FieldKind::Text), ("y", FieldKind::Bytes)]);
        let one = schema(&[("y", FieldKind::Bytes)]);
        assert_eq!(merge(&both, &one), Some(both.clone()));
        let turned = schema(&[("y", FieldKind::Bytes), ("x", FieldKind::Text)]);
        assert_eq!(merge(&one, &both), Some(turned));
        assert_eq!(merge(&one, &schema(&[("y", FieldKind::Bytes), ("n", tensor(&[]))])), None);
        // A file without rows has no say.
        let numbers = schema(&[("n", tensor(&[]))]);
        assert_eq!(merge(&Schema::default(), &numbers), Some(numbers.clone()));
        assert_eq!(merge(&numbers, &Schema::default()), Some(numbers));
    }
}
