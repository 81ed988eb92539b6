//! What the doctor found, one fact at a time.

use std::error::Error as _;

use forebay_types::ErrorKind;
use serde::Serialize;

use crate::Error;

/// What a finding is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The lake.
    Lake,
    /// The local tier.
    Local,
    /// This node.
    Node,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and not as well as it could.
    Warning,
    /// Work that needs it will fail.
    Failure,
}

/// One fact.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What it is of.
    pub area: Area,
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it, unless all is well.
    pub advice: Option<String>,
    /// What the error of a failure stands for.
    #[serde(skip)]
    pub(super) kind: Option<ErrorKind>,
}

/// The findings of one area so far.
#[derive(Debug)]
pub(super) struct Findings {
    area: Area,
    pub(super) all: Vec<Finding>,
}

impl Findings {
    pub(super) fn of(area: Area) -> Self {
        Self { area, all: Vec::new() }
    }

    fn add(&mut self, check: &'static str, state: State, found: String, advice: Option<String>) {
        self.all.push(Finding { area: self.area, check, state, found, advice, kind: None });
    }

    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, State::Ok, found.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, State::Warning, found.into(), Some(advice.into()));
    }

    pub(super) fn failure(
        &mut self,
        check: &'static str,
        kind: ErrorKind,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, State::Failure, found.into(), Some(advice.into()));
        self.all.last_mut().expect("just added").kind = Some(kind);
    }

    /// A failure that is an error of ours, with its causes; an interruption is passed on.
    pub(super) fn error(
        &mut self,
        check: &'static str,
        error: Error,
        advice: &str,
    ) -> Result<(), Error> {
        let kind = error.kind();
        if kind == ErrorKind::Interrupted {
            return Err(Error::Interrupted);
        }
        let mut found = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            found.push_str(": ");
            found.push_str(&source.to_string());
            cause = source.source();
        }
        self.failure(check, kind, found, advice);
        Ok(())
    }
}
