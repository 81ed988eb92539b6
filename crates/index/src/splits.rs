//! Which split a file belongs to.

use std::collections::BTreeMap;

use forebay_types::Split;

use crate::{Error, source::File};

/// Words that name the split a model learns from.
const TRAIN: [&str; 2] = ["train", "training"];
/// Words that name what it is scored on and must never learn from.
const VALIDATION: [&str; 10] = [
    "validation",
    "valid",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
    "evaluation",
    "holdout",
    "heldout",
];

/// How files are given to splits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SplitRule {
    /// All are trained on.
    #[default]
    Train,
    /// As their names say: the word nearest to the end of a file's path decides, where words are
    /// runs of letters in file and folder names. `train` and `training` mean train;
    /// `validation`, `valid`, `val`, `dev`, `test`, `testing`, `eval`, `evaluation`, `holdout` and
    /// `heldout` mean validation; a path without any of them means train. So `val/x-001.tar`,
    /// `c4-validation.00000-of-00008.json.gz` and `test-00000-of-00001.parquet` are held out.
    Names,
    /// By the beginning of their paths; of several prefixes that fit, the longest decides. Files
    /// that none fits are left out.
    Prefixes(BTreeMap<Split, Vec<String>>),
}

impl SplitRule {
    /// The rule that people spell: nothing or `train`; `names`; or any number of `SPLIT=PREFIX`.
    ///
    /// # Errors
    /// [`Error::SplitRule`] for anything else.
    pub fn parse(texts: &[String]) -> Result<Self, Error> {
        match texts {
            [] => return Ok(Self::Train),
            [text] if text == Split::Train.as_str() => return Ok(Self::Train),
            [text] if text == "names" => return Ok(Self::Names),
            _ => {}
        }
        let mut prefixes: BTreeMap<Split, Vec<String>> = BTreeMap::new();
        for text in texts {
            let parts = text.split_once('=').filter(|(_, prefix)| !prefix.is_empty());
            let split = parts.and_then(|(split, prefix)| Some((split.parse().ok()?, prefix)));
            let (split, prefix) =
                split.ok_or_else(|| Error::SplitRule { text: text.chars().take(80).collect() })?;
            prefixes.entry(split).or_default().push(prefix.to_owned());
        }
        Ok(Self::Prefixes(prefixes))
    }

    /// The split of each file, none where it is left out.
    pub(crate) fn assign(&self, files: &[File]) -> Result<Vec<Option<Split>>, Error> {
        let each = |split: &dyn Fn(&str) -> Option<Split>| {
            files.iter().map(|file| split(&file.path)).collect()
        };
        match self {
            Self::Train => Ok(each(&|_| Some(Split::Train))),
            Self::Names => Ok(each(&|path| Some(named(path).unwrap_or(Split::Train)))),
            Self::Prefixes(prefixes) => {
                let prefixes = sorted(prefixes)?;
                let empty = prefixes
                    .iter()
                    .find(|(prefix, _)| !files.iter().any(|file| file.path.starts_with(prefix)));
                if let Some(&(prefix, split)) = empty {
                    return Err(Error::EmptyPrefix { split, prefix: prefix.into() });
                }
                Ok(each(&|path| {
                    prefixes.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|it| it.1)
                }))
            }
        }
    }
}

/// The prefixes with their splits, the longest first.
fn sorted(prefixes: &BTreeMap<Split, Vec<String>>) -> Result<Vec<(&str, Split)>, Error> {
    let of = |(&split, prefixes)| {
        let prefixes: &Vec<String> = prefixes;
        prefixes.iter().map(move |prefix| (prefix.trim_start_matches('/'), split))
    };
    let mut sorted: Vec<(&str, Split)> = prefixes.iter().flat_map(of).collect();
    sorted.sort_by_key(|&(prefix, split)| (std::cmp::Reverse(prefix.len()), prefix, split));
    sorted.dedup();
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            Err(Error::TwoSplits { prefix: pair[0].0.into(), first: pair[0].1, second: pair[1].1 })
        }
        None => Ok(sorted),
    }
}

/// The split that a path names, if it names one.
pub(crate) fn named(path: &str) -> Option<Split> {
    let path = path.to_ascii_lowercase();
    path.rsplit(|character: char| !character.is_ascii_alphabetic()).find_map(|word| {
        let train = TRAIN.contains(&word).then_some(Split::Train);
        train.or_else(|| VALIDATION.contains(&word).then_some(Split::Validation))
    })
}

#[cfg(test)]
mod tests {
    use forebay_types::Key;

    use super::*;

    fn files(paths: &[&str]) -> Vec<File> {
        let file = |path: &&str| File {
            key: Key::new(*path).unwrap(),
            path: (*path).into(),
            bytes: 1,
            modified_unix_ms: 1,
        };
        paths.iter().map(file).collect()
    }

    #[test]
    fn names_say_what_is_held_out() {
        for (path, split) in [
            ("train/0001.tar", Some(Split::Train)),
            ("Training/0001.tar", Some(Split::Train)),
            ("val/x-001.tar", Some(Split::Validation)),
            ("train-00000-of-00010.parquet", Some(Split::Train)),
            ("c4-validation.00000-of-00008.json.gz", Some(Split::Validation)),
            ("imagenet_test_1.tar", Some(Split::Validation)),
            ("train/test.jsonl", Some(Split::Validation)),
            ("test/train.jsonl", Some(Split::Train)),
            ("latest/trainer-values.tar", None),
            ("0001.tar", None),
        ] {
            assert_eq!(named(path), split, "{path}");
        }
    }

    #[test]
    fn rules_are_spelled_in_few_ways() {
        let parse = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            SplitRule::parse(&texts)
        };
        assert_eq!(parse(&[]).unwrap(), SplitRule::Train);
        assert_eq!(parse(&["train"]).unwrap(), SplitRule::Train);
        assert_eq!(parse(&["names"]).unwrap(), SplitRule::Names);
        let prefixes = [
            (Split::Train, vec!["a".to_owned(), "c=d".to_owned()]),
            (Split::Validation, vec!["b/".to_owned()]),
        ];
        let spelled = ["train=a", "validation=b/", "train=c=d"];
        assert_eq!(parse(&spelled).unwrap(), SplitRule::Prefixes(prefixes.into()));
        for wrong in [&["test=a"][..], &["validation"], &["train="], &["names", "train=a"]] {
            let error = parse(wrong).unwrap_err();
            assert!(matches!(error, Error::SplitRule { .. }), "{error}");
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let files = files(&["a/x.tar", "a/held/x.tar", "b/x.tar"]);
        let rule = |train: &[&str], validation: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let prefixes = [(Split::Train, texts(train)), (Split::Validation, texts(validation))];
            SplitRule::Prefixes(prefixes.into()).assign(&files)
        };
        let found = rule(&["a/"], &["/a/held"]).unwrap();
        assert_eq!(found, [Some(Split::Train), Some(Split::Validation), None]);
        assert!(matches!(rule(&["a/", "c"], &[]), Err(Error::EmptyPrefix { .. })));
        assert!(matches!(rule(&["a/", "b"], &["a/"]), Err(Error::TwoSplits { .. })));
        assert!(rule(&["a/", "a/"], &[]).is_ok());
    }
}
