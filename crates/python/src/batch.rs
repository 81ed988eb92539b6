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
    /// Where the run stands after it: step, epoch, and samples of that epoch.
    #[pyo3(get)]
    after: (u64, u64, u64),
    /// The identities of the samples, 16 bytes each, in order.
    #[pyo3(get)]
    ids: Py<PyBytes>,
    columns: Vec<Py<Column>>,
}

impl Batch {
    pub fn new(py: Python<'_>, batch: forebay::Batch) -> PyResult<Self> {
        let ids: Vec<u8> = batch.ids().iter().flat_map(|id| *id.as_bytes()).collect();
        let (step, epoch, rows) = (batch.step, batch.epoch, batch.rows);
        let after = (batch.after.step, batch.after.epoch, batch.after.offset);
        let columns = Column::all(batch);
        let columns = columns.into_iter().map(|column| Py::new(py, column));
        let columns = columns.collect::<PyResult<_>>()?;
        Ok(Self { step, epoch, rows, after, ids: PyBytes::new(py, &ids).unbind(), columns })
    }
}

#[pymethods]
impl Batch {
    /// Its columns, without their samples' identities.
    fn columns(&self, py: Python<'_>) -> Vec<Py<Column>> {
        self.columns.iter().map(|column| column.clone_ref(py)).collect()
    }
}
