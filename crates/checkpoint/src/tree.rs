//! The tree: what Python reads as the state of a checkpoint, see `docs/format/checkpoint.md`.
//!
//! Whoever makes a checkpoint from elsewhere writes the same, so that it is one like any other.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The version of what is stored beside the tensors.
const VERSION: u32 = 1;
/// Stands for a tensor, by the name it is stored under.
const TENSOR: &str = "$tensor";
/// Keys that begin with this stand for what JSON has not.
const TAG: char = '$';

/// The name that tensor `name` of state `state` is stored under.
pub(crate) fn stored_name(state: &str, name: &str) -> String {
    format!("{state}.{name}")
}

/// Whether a state can be called this.
pub(crate) fn is_state_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(TAG)
}

/// The metadata of a checkpoint whose only state is `state`, a dict of tensors of these names.
pub(crate) fn metadata(state: &str, names: &[&str]) -> Value {
    let tensor = |name: &str| json!({ TENSOR: stored_name(state, name) });
    let tree = if names.iter().any(|name| name.starts_with(TAG)) {
        let pairs: Vec<_> = names.iter().map(|&name| json!([name, tensor(name)])).collect();
        json!({ "$items": pairs })
    } else {
        names.iter().map(|&name| (name.to_owned(), tensor(name))).collect()
    };
    json!({ "version": VERSION, "state": { state: tree }, "metrics": {} })
}

/// Tensors that are stored as another type than they have, with that type: safetensors has no
/// name for theirs.
pub(crate) fn retyped(metadata: &Value) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    let mut left = vec![metadata];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(object) => {
                let tagged = object.get(TENSOR).or_else(|| object.get("$array"));
                let pair = tagged.and_then(Value::as_str).zip(object.get("dtype"));
                found.extend(pair.and_then(|(name, dtype)| Some((name, dtype.as_str()?))));
                left.extend(object.values());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_dict_of_tensors_whatever_they_are_called() {
        let plain = metadata("model", &["a", "b.c"]);
        assert_eq!(plain["state"]["model"]["b.c"], json!({ "$tensor": "model.b.c" }));
        let odd = metadata("model", &["$a"]);
        let items = json!({ "$items": [["$a", { "$tensor": "model.$a" }]] });
        assert_eq!(odd["state"]["model"], items);
    }

    #[test]
    fn what_has_another_type_than_it_is_stored_as_is_found_anywhere() {
        let metadata = json!({ "state": { "model": { "$items": [[0, [
            { "$tensor": "model.0", "dtype": "complex128" }, { "$tensor": "model.1" }]]] } } });
        assert_eq!(retyped(&metadata), BTreeMap::from([("model.0", "complex128")]));
    }
}
