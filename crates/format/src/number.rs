//! Measured numbers in JSON: every `f64` survives, also the ones JSON has no digits for.
//!
//! A loss that became NaN is a fact about a run, and a journal that cannot hold it would end the
//! run's story at its most interesting place. Finite values are JSON numbers, the three others
//! the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, as Protocol Buffers' JSON spells them.
//! Use with `#[serde(with = "crate::number")]`.

use std::fmt;

use serde::{Deserializer, Serializer, de};

pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else if value.is_nan() {
        serializer.serialize_str("NaN")
    } else {
        serializer.serialize_str(if *value > 0.0 { "Infinity" } else { "-Infinity" })
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(Number)
}

struct Number;

#[allow(clippy::cast_precision_loss, reason = "a whole number may be spelled without a fraction")]
impl de::Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
        match text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    struct Holder {
        #[serde(with = "crate::number")]
        value: f64,
    }

    fn round_trip(value: f64) -> f64 {
        let json = serde_json::to_string(&Holder { value }).unwrap();
        serde_json::from_str::<Holder>(&json).unwrap().value
    }

    proptest! {
        #[test]
        fn every_number_survives(bits: u64) {
            let value = f64::from_bits(bits);
            let back = round_trip(value);
            prop_assert!(back.to_bits() == bits || (back.is_nan() && value.is_nan()), "{value} {back}");
        }
    }

    #[test]
    fn numbers_without_digits_survive_and_other_words_are_refused() {
        assert!(round_trip(f64::NAN).is_nan());
        assert_eq!(round_trip(f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert!(serde_json::from_str::<Holder>(r#"{"value":"nan"}"#).is_err());
        assert!(serde_json::from_str::<Holder>(r#"{"value":null}"#).is_err());
    }
}
