//! One batch as Python receives it.

use pyo3::{prelude::*, types::PyBytes};

use crate::column::Column;

/// This rank's part of one global batch.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Batch {
    /// The step it is for.
    #[pyo3(get)]
    step: u64,
    /// The epoch its samples belong to.
    #[pyo3(get)]
    epoch: u64,
    /// How many samples it holds.
    #[pyo3(get)]
    rows: usize,
    /// The identities of the samples, 16 bytes each, in order.
    #[pyo3(get)]
    ids: Py<PyBytes>,
    columns: Vec<Py<Column>>,
}

impl Batch {
    pub fn new(py: Python<'_>, batch: forebay::Batch) -> PyResult<Self> {
        let ids: Vec<u8> = batch.ids().iter().flat_map(|id| *id.as_bytes()).collect();
        let (step, epoch, rows) = (batch.step, batch.epoch, batch.rows);
        let columns = vec![Py::new(py, Column::tokens(batch))?];
        Ok(Self { step, epoch, rows, ids: PyBytes::new(py, &ids).unbind(), columns })
    }
}

#[pymethods]
impl Batch {
    /// Its columns, without their samples' identities.
    fn columns(&self, py: Python<'_>) -> Vec<Py<Column>> {
        self.columns.iter().map(|column| column.clone_ref(py)).collect()
    }
}
