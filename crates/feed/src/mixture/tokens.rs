//! Weights of tokens as weights of samples: divided by the tokens that a sample has.

use std::borrow::Cow;

use forebay_types::{FieldKind, Name, Schema};

use super::{MixBy, MixtureSettings, TokenCount, WeightChange};
use crate::{Error, FeedSettings, source::TOKENS};

/// Checked `settings` with a mixture by tokens made one by samples, for datasets of these names and
/// schemas.
///
/// # Errors
/// [`Error::Setting`] naming the dataset whose samples have no number of tokens that is known.
pub(crate) fn by_samples<'a, 'b>(
    settings: &'a FeedSettings,
    datasets: impl Iterator<Item = (&'b Name, &'b Schema)>,
) -> Result<Cow<'a, FeedSettings>, Error> {
    let Some(mixture @ MixtureSettings { by: MixBy::Tokens(count), .. }) = &settings.mixture else {
        return Ok(Cow::Borrowed(settings));
    };
    let refused = |why| Error::Setting { setting: "mixture", why };
    let tokens = datasets
        .zip(&count.per_sample)
        .map(|((name, schema), given)| {
            let tokens = given.map_or_else(|| tokens_per_sample(schema, count), Ok);
            tokens.map_err(|why| refused(format!("`{name}` {why}")))
        })
        .collect::<Result<Vec<f64>, Error>>()?;
    let change = |change: &WeightChange| WeightChange {
        from_sample: change.from_sample,
        weights: change
            .weights
            .iter()
            .zip(&tokens)
            .map(|(weight, tokens)| weight / tokens)
            .collect(),
    };
    let mixture = MixtureSettings {
        by: MixBy::Samples,
        schedule: mixture.schedule.iter().map(change).collect(),
        epoch_samples: mixture.epoch_samples,
    };
    // Weights that were above 0 may not be so any more, if a sample has absurdly many tokens.
    mixture.check(tokens.len()).map_err(refused)?;
    Ok(Cow::Owned(FeedSettings { mixture: Some(mixture), ..settings.clone() }))
}

/// The tokens of every sample, where all have as many.
fn tokens_per_sample(schema: &Schema, count: &TokenCount) -> Result<f64, String> {
    let field = match (&count.column, schema.fields.as_slice()) {
        (None, [only]) => only,
        (column, fields) => {
            let name = column.as_deref().unwrap_or(TOKENS);
            fields.iter().find(|field| field.name == name).ok_or_else(|| {
                let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                format!(
                    "has no column `{name}` to count tokens in; name one of {}",
                    names.join(", ")
                )
            })?
        }
    };
    let FieldKind::Tensor { shape, .. } = &field.kind else {
        let column = &field.name;
        return Err(format!(
            "has samples of any length in its column `{column}`, and nothing stored says how long \
             they are on average: give its tokens_per_sample"
        ));
    };
    match shape.iter().map(|&size| f64::from(size)).product() {
        0.0 => Err(format!("has no tokens in its column `{}`", field.name)),
        tokens => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::{Dtype, Field};

    use super::*;

    fn schema(fields: &[(&str, FieldKind)]) -> Schema {
        let field =
            |(name, kind): &(&str, FieldKind)| Field { name: (*name).into(), kind: kind.clone() };
        Schema { fields: fields.iter().map(field).collect() }
    }

    fn mixed(
        schemas: [&Schema; 2],
        column: Option<&str>,
        per_sample: [Option<f64>; 2],
    ) -> Result<Vec<f64>, String> {
        let count = TokenCount { column: column.map(Into::into), per_sample: per_sample.into() };
        let by = MixBy::Tokens(count);
        let mixture = MixtureSettings { by, ..MixtureSettings::constant(&[6.0, 4.0]) };
        let settings = FeedSettings { mixture: Some(mixture), ..FeedSettings::default() };
        let names = ["web", "code"].map(|name| Name::new(name).unwrap());
        let mixed = by_samples(&settings, names.iter().zip(schemas)).map_err(|e| e.to_string())?;
        let mixture = mixed.mixture.clone().unwrap();
        assert_eq!(mixture.by, MixBy::Samples);
        Ok(mixture.schedule[0].weights.clone())
    }

    #[test]
    fn weights_of_tokens_are_divided_by_the_tokens_of_a_sample() {
        let dense = |size| FieldKind::Tensor { dtype: Dtype::U16, shape: vec![2, size] };
        let number = FieldKind::Tensor { dtype: Dtype::I64, shape: vec![] };
        let ragged = FieldKind::Ragged { dtype: Dtype::I32 };
        let short = schema(&[("text", dense(1))]);
        let long = schema(&[("number", number), ("tokens", dense(4))]);
        let varying = schema(&[("number", dense(2)), ("tokens", ragged)]);
        assert_eq!(mixed([&short, &long], None, [None, None]), Ok(vec![3.0, 0.5]));
        assert_eq!(mixed([&short, &varying], None, [None, Some(0.5)]), Ok(vec![3.0, 8.0]));
        assert_eq!(mixed([&long, &varying], Some("number"), [None, None]), Ok(vec![6.0, 1.0]));
        let refused = mixed([&long, &varying], None, [None, None]).unwrap_err();
        assert!(refused.contains("`code` has samples of any length in its column `tokens`"));
        let refused = mixed([&long, &short], Some("labels"), [None, None]).unwrap_err();
        assert!(refused.contains(
            "`web` has no column `labels` to count tokens in; name one of number, tokens"
        ));
    }
}
