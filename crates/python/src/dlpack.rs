//! A column as a DLPack tensor, which PyTorch takes up several times faster than an array of numpy.
//!
//! <https://dmlc.github.io/dlpack/latest/c_api.html>: a capsule named `dltensor` holds a
//! `DLManagedTensor`. Who takes it up renames the capsule and calls the deleter when its last tensor
//! dies, on any thread; the capsule calls it if nobody took it up.

use std::{
    ffi::{CStr, c_void},
    ptr,
};

use pyo3::{ffi, prelude::*};

const NAME: &CStr = c"dltensor";
const ON_CPU: i32 = 1;

#[repr(C)]
struct Device {
    kind: i32,
    number: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    dtype: DataType,
    shape: *mut i64,
    /// Null: row after row.
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct ManagedTensor {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

/// What lives until the deleter is called.
struct Exported<O> {
    managed: ManagedTensor,
    shape: Vec<i64>,
    _owner: O,
}

/// A capsule over values of `shape` at `address`, which `owner` keeps where they are.
///
/// # Errors
/// What Python raised when it had no room for the capsule.
pub fn export<O: Send + Sync + 'static>(
    py: Python<'_>,
    owner: O,
    address: *mut u8,
    shape: &[usize],
    typestr: &str,
) -> PyResult<Py<PyAny>> {
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    let tensor = Tensor {
        data: address.cast(),
        device: Device { kind: ON_CPU, number: 0 },
        dimensions: shape.len() as i32,
        dtype: data_type(typestr),
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let managed = ManagedTensor { tensor, context: ptr::null_mut(), deleter: Some(delete::<O>) };
    let exported = Box::into_raw(Box::new(Exported { managed, shape, _owner: owner }));
    // SAFETY: `exported` was just made and is nobody else's. Its shape stays in place with it. The
    // capsule owns the managed tensor until it is taken up, and `drop_capsule` frees it until then.
    unsafe {
        (*exported).managed.tensor.shape = (*exported).shape.as_mut_ptr();
        (*exported).managed.context = exported.cast();
        let managed: *mut ManagedTensor = &raw mut (*exported).managed;
        let capsule = ffi::PyCapsule_New(managed.cast(), NAME.as_ptr(), Some(drop_capsule));
        if capsule.is_null() {
            delete::<O>(managed);
        }
        Bound::from_owned_ptr_or_err(py, capsule).map(Bound::unbind)
    }
}

/// A type as DLPack spells it, from how numpy does.
fn data_type(typestr: &str) -> DataType {
    let bytes = typestr.as_bytes();
    let code = match bytes.get(1) {
        Some(b'i') => 0,
        Some(b'u') => 1,
        Some(b'f') => 2,
        _ => 6,
    };
    let width = bytes.get(2).map_or(1, |digit| digit - b'0');
    DataType { code, bits: 8 * width, lanes: 1 }
}

/// Called by the tensor's owner, once.
unsafe extern "C" fn delete<O>(managed: *mut ManagedTensor) {
    // SAFETY: the context of a managed tensor made here is its `Exported`, from `Box::into_raw`,
    // and who owns it calls this once.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Exported<O>>()) });
}

/// Called by Python when a capsule dies.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python passes the dying capsule. If it still has the name it was given, nobody took
    // its tensor up, and its pointer is the one it was made of.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr());
            let managed = managed.cast::<ManagedTensor>();
            if let Some(deleter) = (*managed).deleter {
                deleter(managed);
            }
        }
    }
}
