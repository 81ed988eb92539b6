//! Errors of the engine as exceptions of Python.
//!
//! The classes live in Python (`forebay._errors`), where they can have a second, built-in base; this
//! is the one place that raises them.

use std::error::Error as _;

use forebay::{Error, ErrorKind};
use pyo3::{prelude::*, types::PyTuple};

/// The exception for an error of the engine.
pub fn from_engine(py: Python<'_>, error: &Error) -> PyErr {
    raise(py, error.kind(), &chain(error))
}

/// The exception of `kind` with `message`.
pub fn raise(py: Python<'_>, kind: ErrorKind, message: &str) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let arguments = PyTuple::new(py, [kind.as_str(), message])?;
        py.import("forebay._errors")?.getattr("of_kind")?.call1(arguments)
    };
    make().map_or_else(|broken| broken, PyErr::from_value)
}

/// The exception for an argument that cannot be used.
pub fn invalid(py: Python<'_>, why: &dyn ToString) -> PyErr {
    raise(py, ErrorKind::Invalid, &why.to_string())
}

/// The exception for a panic of ours.
pub fn defect(py: Python<'_>, panic: &dyn ToString) -> PyErr {
    raise(py, ErrorKind::Internal, &panic.to_string())
}

/// The error with all its causes, on one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!("; because: {error}");
        cause = error.source();
    }
    text
}
