//! One batch as Python receives it: what it is, and a dict of its columns.

use forebay::SampleIds;
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyString},
};

use crate::column::Column;

/// What one rank's part of a global batch is; it outlives the batch's memory.
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
    ids: SampleIds,
}

/// A batch's description, and its columns by name.
pub type Taken<'py> = (Batch, Bound<'py, PyDict>);

impl Batch {
    /// Takes `batch` apart. With `take_up`, columns whose rows are equally long become what that
    /// makes of their DLPack capsules.
    pub fn take_apart<'py>(
        py: Python<'py>,
        mut batch: forebay::Batch,
        names: &[Py<PyString>],
        take_up: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Taken<'py>> {
        let ids = batch.take_ids();
        let (step, epoch, rows) = (batch.step, batch.epoch, batch.rows);
        let after = (batch.after.step, batch.after.epoch, batch.after.offset);
        let columns = PyDict::new(py);
        for (name, column) in names.iter().zip(Column::all(batch)) {
            match take_up.filter(|_| column.is_even()) {
                Some(take_up) => columns.set_item(name, take_up.call1((column.dlpack(py)?,))?)?,
                None => columns.set_item(name, Py::new(py, column)?)?,
            }
        }
        Ok((Self { step, epoch, rows, after, ids }, columns))
    }
}

#[pymethods]
impl Batch {
    /// The identities of the samples, 16 bytes each, in order; computed each time.
    fn ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| *id.as_bytes()).collect();
        PyBytes::new(py, &ids)
    }
}
