//! A column of a batch as memory that numpy reads and writes without a copy.
//!
//! numpy's array interface is an attribute that names an address, a shape and a type; the array
//! holds a reference to the object it asked. So the last array (or tensor made of it) that dies
//! lets go of the batch, and its buffer returns to the feed's pool. No C interface of numpy is
//! needed, so any version of it will do, and the limited interface of CPython 3.10 suffices.

use std::{ptr::NonNull, sync::Arc};

use forebay::{ColumnKind, Dtype};
use pyo3::{
    prelude::*,
    types::{PyDict, PyTuple},
};

use crate::{dlpack, process::Owned};

/// One column of a batch: memory of its own until the last array over it is gone.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Column {
    /// What it holds: `dense`, `padded`, `ragged`, `bytes` or `text`.
    #[pyo3(get)]
    kind: &'static str,
    #[pyo3(get)]
    shape: Vec<usize>,
    #[pyo3(get)]
    dtype: &'static str,
    /// Where each row starts in the values, and where the last one ends; none for dense columns.
    #[pyo3(get)]
    offsets: Option<Vec<i64>>,
    address: NonNull<u8>,
    /// Keeps the memory at `address`. In a forked child the pool it returns to may be locked for ever.
    batch: Arc<Owned<forebay::Batch>>,
}

// SAFETY: `address` is never read or written here, only told to numpy; `batch` owns what lies there
// and frees it from any thread.
unsafe impl Send for Column {}
// SAFETY: as above: nothing of a column changes.
unsafe impl Sync for Column {}

impl Column {
    /// All columns of `batch`, in order, which is the caller's alone.
    pub fn all(mut batch: forebay::Batch) -> Vec<Self> {
        let rows = batch.rows;
        let described: Vec<_> = batch.columns().map(|column| describe(&column, rows)).collect();
        // The buffers' heap memory stays where it is when the batch moves.
        let addresses: Vec<NonNull<u8>> = (0..described.len())
            .map(|index| NonNull::from(batch.values_mut(index)).cast())
            .collect();
        let batch = Arc::new(Owned::new(batch));
        described
            .into_iter()
            .zip(addresses)
            .map(|((kind, shape, dtype, offsets), address)| Self {
                kind,
                shape,
                dtype,
                offsets,
                address,
                batch: batch.clone(),
            })
            .collect()
    }

    /// Whether its rows are equally long.
    pub fn is_even(&self) -> bool {
        matches!(self.kind, "dense" | "padded")
    }
}

type Description = (&'static str, Vec<usize>, &'static str, Option<Vec<i64>>);

/// A column's kind, shape, type and offsets.
fn describe(column: &forebay::Column<'_>, rows: usize) -> Description {
    let values = |width: usize| vec![column.values.len() / width];
    let (kind, shape, dtype) = match column.kind {
        ColumnKind::Dense { dtype, shape } => {
            ("dense", std::iter::once(rows).chain(shape.iter().copied()).collect(), *dtype)
        }
        ColumnKind::Padded { dtype } => ("padded", vec![rows, column.items], *dtype),
        ColumnKind::Ragged { dtype } => ("ragged", values(dtype.bytes() as usize), *dtype),
        ColumnKind::Bytes => ("bytes", values(1), Dtype::U8),
        ColumnKind::Text => ("text", values(1), Dtype::U8),
    };
    let offsets = (!column.offsets.is_empty()).then(|| column.offsets.to_vec());
    (kind, shape, typestr(dtype), offsets)
}

/// A type as numpy spells it. It has no bfloat16 and no floats of 8 bits: theirs travel as integers.
pub const fn typestr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::C64 => "<c8",
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::BF16 | Dtype::U16 => "<u2",
        Dtype::I64 => "<i8",
        Dtype::I32 => "<i4",
        Dtype::I16 => "<i2",
        Dtype::I8 => "|i1",
        Dtype::U64 => "<u8",
        Dtype::U32 => "<u4",
        Dtype::F8E5M2 | Dtype::F8E4M3 | Dtype::F8E8M0 | Dtype::U8 => "|u1",
        Dtype::Bool => "|b1",
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

    /// A DLPack capsule over the same memory, to be taken up once.
    pub fn dlpack(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (owner, address) = (self.batch.clone(), self.address.as_ptr());
        dlpack::export(py, owner, address, &self.shape, self.dtype)
    }
}
