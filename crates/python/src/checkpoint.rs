//! Checkpoints as Python holds them: one rank's saves, and a committed checkpoint to read from.
//!
//! Tensors cross as addresses. Python keeps the memory where it is and alone until a call returns:
//! a save copies it before that, a read has filled it, also when the caller is interrupted.

use std::{
    borrow::Cow,
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use forebay::{
    CommittedCheckpoint, Dtype, Position, Region, Runtime, TensorPart, Tier,
    checkpoint::{self, Deferred, PageLocks, TensorSpec},
};
use pyo3::prelude::*;
use serde_json::json;

use crate::{
    errors,
    interrupt::{Leave, SLICE, interruptible},
    process::Owned,
};

/// A tensor to plan for: name, type, shape, whole and start where it is a part, bytes.
type Given = (String, String, Vec<u64>, Option<(Vec<u64>, Vec<u64>)>, usize);
/// A box to fill: tensor, start, shape, address, bytes.
type Wanted = (String, Vec<u64>, Vec<u64>, usize, usize);

/// The checkpoints of one rank of one run.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Checkpointer {
    saves: Owned<Saves>,
}

/// What a checkpointer holds in the process it was opened in.
struct Saves {
    /// Absent once it is closed.
    opened: Arc<Mutex<Option<forebay::Checkpointer>>>,
    runtime: Runtime,
}

impl Saves {
    fn lock(&self) -> MutexGuard<'_, Option<forebay::Checkpointer>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Saves {
    /// What is under way may take long: whoever drops this does not wait for it.
    fn drop(&mut self) {
        let opened = self.opened.clone();
        let _ends_by_itself = self.runtime.spawn("checkpoint-close", move || {
            drop(opened.lock().unwrap_or_else(PoisonError::into_inner).take());
        });
    }
}

impl Checkpointer {
    pub fn new(opened: forebay::Checkpointer, runtime: Runtime) -> Self {
        let opened = Arc::new(Mutex::new(Some(opened)));
        Self { saves: Owned::new(Saves { opened, runtime }) }
    }

    /// Asks the checkpointer, with the interpreter released.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&mut forebay::Checkpointer) -> Result<T, forebay::checkpoint::Error>
        + Send,
    ) -> PyResult<T> {
        let saves = self.saves.get(py)?;
        let answer = py.detach(|| saves.lock().as_mut().map(question));
        answer.ok_or_else(|| closed(py))?.map_err(|error| errors::from_engine(py, &error.into()))
    }

    /// Waits until the save before is staged, and notices signals.
    fn await_ready(&self, py: Python<'_>) -> PyResult<()> {
        while !self.ask(py, |saves| saves.await_ready(SLICE))? {
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Locks pages by an object of Python's. Asked by threads of the engine, which hold nothing that a
/// thread of Python waits for while it keeps the interpreter.
struct Locks(Py<PyAny>);

impl Locks {
    /// What it raises, and an interpreter that has ended, are a no.
    fn ask<A>(&self, method: &str, arguments: A) -> bool
    where
        A: for<'py> pyo3::call::PyCallArgs<'py>,
    {
        let asked = |py: Python<'_>| self.0.call_method1(py, method, arguments)?.extract(py);
        Python::try_attach(|py| asked(py).unwrap_or(false)).unwrap_or(false)
    }
}

impl PageLocks for Locks {
    fn lock(&self, address: usize, bytes: usize) -> bool {
        self.ask("lock", (address, bytes))
    }

    fn unlock(&self, address: usize) -> bool {
        self.ask("unlock", (address,))
    }
}

fn closed(py: Python<'_>) -> PyErr {
    errors::raise(py, forebay::ErrorKind::Invalid, "the checkpointer is closed; open another")
}

#[pymethods]
impl Checkpointer {
    /// What opening found staged, and what became of it, as JSON.
    fn recovered(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |saves| Ok(json!(saves.recovered()).to_string()))
    }

    /// Becomes the writer of the run, replacing who was before.
    fn claim(&self, py: Python<'_>) -> PyResult<()> {
        self.ask(py, |saves| saves.claim())
    }

    /// Says which checkpoint the state comes from: the next save goes on from it.
    fn go_on_from(&self, py: Python<'_>, checkpoint: &Checkpoint) -> PyResult<()> {
        let opened = checkpoint.opened.get(py)?.1.clone();
        self.ask(py, move |saves| {
            saves.go_on_from(&opened);
            Ok(())
        })
    }

    /// Captures the state after so many steps; says what that took, as JSON. The tensors of the plan are
    /// at `addresses`, but for the last `filled`, which the caller brings over. The last `later` of those
    /// with an address are copied in the background, which what comes back beside it tells of; there,
    /// `metadata` is read too.
    #[allow(clippy::too_many_arguments, reason = "Python names each of them")]
    #[pyo3(signature = (step, plan, addresses, metadata, later = 0, filled = 0))]
    fn save(
        &self,
        py: Python<'_>,
        step: u64,
        plan: &StatePlan,
        addresses: Vec<usize>,
        metadata: String,
        later: usize,
        filled: usize,
    ) -> PyResult<(String, Copying)> {
        let planned = addresses.len().checked_add(filled) == Some(plan.bytes.len());
        let now = addresses.len().checked_sub(later).filter(|_| planned);
        let now =
            now.ok_or_else(|| errors::invalid(py, &"the addresses are not those of the plan"))?;
        self.await_ready(py)?;
        let places: Vec<(usize, usize)> =
            addresses.into_iter().zip(plan.bytes.iter().copied()).collect();
        let (now, later) = places.split_at(now);
        // SAFETY: the callers pass addresses of memory that their tensors own and that has the bytes of
        // the plan, keep them until the call returns, and the training thread, which is the caller, does
        // not write it meanwhile.
        let now = now.iter().map(|&(address, bytes)| unsafe { memory(address, bytes) });
        // SAFETY: as above, and `_overlap.py` keeps the tensors until `Copying.wait` has returned, after
        // which the engine does not look at them. Whoever writes them meanwhile tears the copy, not the
        // engine: bytes are read as they are, and `_overlap.py` then drops the save.
        let later =
            later.iter().map(|&(address, bytes)| Cow::Borrowed(unsafe { memory(address, bytes) }));
        let (now, later): (Vec<&[u8]>, Vec<Cow<'static, [u8]>>) = (now.collect(), later.collect());
        let (captured, copying) = self.ask(py, |saves| {
            let deferred = Deferred { later, filled };
            saves.save_overlapped(step, Position { step }, &plan.opened, &now, deferred, metadata)
        })?;
        let said = json!({
            "bytes": captured.bytes,
            "pause_seconds": captured.pause_seconds,
            "waited_seconds": captured.waited_seconds,
            "streamed": captured.streamed,
        });
        Ok((said.to_string(), Copying { opened: Mutex::new(copying) }))
    }

    /// Whether memory holds a copy of the state of a plan; has that memory ready.
    fn holds(&self, py: Python<'_>, plan: &StatePlan) -> PyResult<bool> {
        self.await_ready(py)?;
        self.ask(py, |saves| saves.holds(&plan.opened))
    }

    /// Has the pages of captures locked by an object with `lock(address, bytes)` and `unlock(address)`,
    /// which each say whether they did.
    fn lock_pages(&self, py: Python<'_>, locks: Py<PyAny>) -> PyResult<()> {
        let locks = Arc::new(Locks(locks));
        self.ask(py, |saves| {
            saves.lock_pages(locks);
            Ok(())
        })
    }

    /// Whether somebody on this node asked the run for a checkpoint.
    fn asked(&self, py: Python<'_>) -> PyResult<bool> {
        self.ask(py, |saves| Ok(saves.asked()))
    }

    /// Begins to have memory ready for a state of so many bytes.
    fn expect(&self, py: Python<'_>, bytes: u64) -> PyResult<()> {
        self.ask(py, |saves| saves.expect(bytes))
    }

    /// The saves that were committed since this was last asked, as JSON. Raises what went wrong.
    fn finished(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |saves| {
            saves.check()?;
            Ok(json!(saves.finished()).to_string())
        })
    }

    /// Waits until every save is committed; says which were since this was last asked, as JSON.
    fn wait(&self, py: Python<'_>) -> PyResult<String> {
        let saves = self.saves.get(py)?;
        let opened = saves.opened.clone();
        let work = move || {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.as_mut().map(forebay::Checkpointer::wait)
        };
        let reports = interruptible(py, &saves.runtime, Leave::Running, work)?;
        let reports = reports.ok_or_else(|| closed(py))?;
        let reports = reports.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(json!(reports).to_string())
    }

    /// Ends it; saves that were captured go on. Closing twice is no error.
    fn close(&self, py: Python<'_>) {
        if let Some(saves) = self.saves.here() {
            py.detach(|| drop(saves.lock().take()));
        }
    }
}

/// The tensors of a state without their values: what saves of it have in common.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct StatePlan {
    opened: checkpoint::StatePlan,
    /// Of each tensor, as it was given.
    bytes: Vec<usize>,
}

#[pymethods]
impl StatePlan {
    /// The plan of such tensors.
    #[new]
    fn new(py: Python<'_>, tensors: Vec<Given>) -> PyResult<Self> {
        let bytes = tensors.iter().map(|given| given.4).collect();
        let tensors = tensors
            .into_iter()
            .map(|given| planned(given).map_err(|why| errors::invalid(py, &why)))
            .collect::<PyResult<Vec<_>>>()?;
        let opened = checkpoint::StatePlan::of(tensors);
        let opened = opened.map_err(|error| errors::from_engine(py, &error.into()))?;
        Ok(Self { opened, bytes })
    }
}

/// A state that is being copied.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Copying {
    /// Absent once it was spoken for, or when nothing was left to copy.
    opened: Mutex<Option<forebay::checkpoint::Copying>>,
}

#[pymethods]
impl Copying {
    /// Where the tensors belong that the caller fills, in the order of the plan. Nothing else may be
    /// written there, and that only before [`Copying::filled`] or [`Copying::settle`] is called.
    fn places(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let places = opened.as_mut().map(forebay::checkpoint::Copying::places).unwrap_or_default();
        if places.is_empty() {
            return Err(errors::invalid(py, &"nothing of this save is to be filled"));
        }
        Ok(places.into_iter().map(|place| place.as_mut_ptr().expose_provenance()).collect())
    }

    /// Says that the places are filled.
    fn filled(&self, py: Python<'_>) {
        // Whoever waits holds it, until all is copied.
        py.detach(|| {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(copying) = &mut *opened {
                copying.filled();
            }
        });
    }

    /// Waits until everything was copied. Signals are left to the main thread.
    fn wait(&self, py: Python<'_>) {
        py.detach(|| {
            let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(copying) = &*opened {
                while !copying.wait(SLICE) {}
            }
        });
    }

    /// Says whether the state is what it was when copying began; if not, the save is dropped.
    fn settle(&self, is_intact: bool) {
        let copying = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        match copying {
            Some(copying) if is_intact => copying.confirm(),
            Some(copying) => copying.reject(),
            None => {}
        }
    }
}

/// A tensor of Python's as the engine plans for it.
fn planned(given: Given) -> Result<(TensorSpec, Option<TensorPart>), String> {
    let (name, dtype, shape, part, bytes) = given;
    let spec = TensorSpec { name, dtype: dtype_of(&dtype)?, shape };
    if spec.bytes() != Some(bytes as u64) {
        return Err(format!("tensor `{}` has {bytes} bytes, which its shape is not", spec.name));
    }
    Ok((spec, part.map(|(whole, start)| TensorPart { whole, start })))
}

/// # Safety
/// `bytes` bytes at `address` can be read for as long as `'a`, and nobody writes them.
unsafe fn memory<'a>(address: usize, bytes: usize) -> &'a [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(std::ptr::with_exposed_provenance(address), bytes) }
}

fn dtype_of(text: &str) -> Result<Dtype, String> {
    let parsed = serde_json::from_value(json!(text));
    parsed.map_err(|_| format!("there is no type of elements `{text}`"))
}

/// A committed checkpoint.
#[pyclass(frozen, module = "forebay._forebay")]
pub struct Checkpoint {
    opened: Owned<(forebay::Engine, Arc<CommittedCheckpoint>)>,
}

impl Checkpoint {
    pub fn new(engine: forebay::Engine, opened: CommittedCheckpoint) -> Self {
        Self { opened: Owned::new((engine, Arc::new(opened))) }
    }
}

#[pymethods]
impl Checkpoint {
    /// The steps that were taken when it was captured.
    fn step(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.opened.get(py)?.1.commit().step)
    }

    /// The ranks that made it.
    fn world_size(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.opened.get(py)?.1.commit().world_size())
    }

    /// What a rank stored beside its tensors, as JSON.
    fn metadata(&self, py: Python<'_>, rank: u32) -> PyResult<String> {
        let ranks = self.opened.get(py)?.1.ranks();
        let record = ranks.get(rank as usize);
        let none = || errors::invalid(py, &format!("there is no rank {rank} of {}", ranks.len()));
        Ok(record.ok_or_else(none)?.metadata.to_string())
    }

    /// Every tensor's stored type and shape, by name.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<(String, String, Vec<u64>)>> {
        let tensors = self.opened.get(py)?.1.tensors();
        let said = |(name, tensor): (&String, &forebay::checkpoint::StoredTensor)| {
            let dtype = json!(tensor.dtype).as_str().unwrap_or_default().to_owned();
            (name.clone(), dtype, tensor.shape.clone())
        };
        Ok(tensors.iter().map(said).collect())
    }

    /// Fills memory with boxes of tensors; says which tier they came from.
    fn read(&self, py: Python<'_>, wanted: Vec<Wanted>) -> PyResult<&'static str> {
        let (engine, opened) = self.opened.get(py)?;
        let runtime = engine.runtime();
        let (engine, opened) = (engine.clone(), opened.clone());
        let work = move || {
            let regions = wanted.iter().map(|(name, start, shape, address, bytes)| {
                // SAFETY: the callers pass memory of tensors that they keep until the call returns,
                // which is not before this ends: they made them and have shown them to nobody, or they
                // were given them to fill by the training thread, which waits. No two regions
                // overlap: one is made for each, or `_Ranges` (`_dcp_reader.py`) or `Fit.settle`
                // (`_fit.py`) sees to it.
                let into = unsafe { memory_mut(*address, *bytes) };
                Region { name, start: start.clone(), shape: shape.clone(), into }
            });
            engine.read_checkpoint(&opened, regions.collect())
        };
        let tier = interruptible(py, runtime, Leave::CancelAndWait, work)?;
        match tier.map_err(|error| errors::from_engine(py, &error))? {
            Tier::Memory => Ok("memory"),
            Tier::Local => Ok("local"),
            Tier::Lake => Ok("lake"),
        }
    }
}

/// # Safety
/// `bytes` bytes at `address` are the caller's alone for as long as `'a`.
unsafe fn memory_mut<'a>(address: usize, bytes: usize) -> &'a mut [u8] {
    if bytes == 0 {
        return &mut [];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(address), bytes) }
}
