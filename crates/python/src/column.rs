//! A column of a batch as memory that numpy reads and writes without a copy.
//!
//! numpy's array interface is an attribute that names an address, a shape and a type; the array
//! holds a reference to the object it asked. So the last array (or tensor made of it) that dies
//! lets go of the batch, and its buffer returns to the feed's pool. No C interface of numpy is
//! needed, so any version of it will do, and the limited interface of CPython 3.10 suffices.

use std::ptr::NonNull;

use pyo3::{
    prelude::*,
    types::{PyDict, PyTuple},
};

use crate::process::Owned;

/// One column of a batch: memory of its own until the last array over it is gone.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Column {
    #[pyo3(get)]
    name: &'static str,
    #[pyo3(get)]
    shape: Vec<usize>,
    #[pyo3(get)]
    dtype: &'static str,
    address: NonNull<u8>,
    /// Keeps the memory at `address`. In a forked child the pool it returns to may be locked for ever.
    _batch: Owned<forebay::Batch>,
}

// SAFETY: `address` is never read or written here, only told to numpy; `_batch` owns what lies there
// and frees it from any thread.
unsafe impl Send for Column {}
// SAFETY: as above: nothing of a column changes.
unsafe impl Sync for Column {}

impl Column {
    /// The tokens of `batch`, which is the caller's alone.
    pub fn tokens(mut batch: forebay::Batch) -> Self {
        let schema = batch.schema;
        let dtype = if schema.token_bytes == 2 { "<u2" } else { "<u4" };
        let shape = vec![batch.rows, schema.row_tokens as usize];
        // The buffer's heap memory stays where it is when the batch moves.
        let address = NonNull::from(batch.tokens_le_mut()).cast();
        Self { name: "tokens", shape, dtype, address, _batch: Owned::new(batch) }
    }
}

#[pymethods]
impl Column {
    /// numpy's array interface, version 3.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        // Not read-only: a batch is its consumer's own.
        interface.set_item("data", (self.address.as_ptr() as usize, false))?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("typestr", self.dtype)?;
        Ok(interface)
    }
}
