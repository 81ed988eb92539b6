//! What stands where a value is missing.

use forebay_types::Dtype;

/// The bytes of one element that is not a number; none for types that have no such value.
pub(crate) const fn not_a_number(dtype: Dtype) -> Option<&'static [u8]> {
    match dtype {
        Dtype::F64 => Some(&[0, 0, 0, 0, 0, 0, 0xf8, 0x7f]),
        Dtype::F32 => Some(&[0, 0, 0xc0, 0x7f]),
        Dtype::F16 => Some(&[0, 0x7e]),
        Dtype::BF16 => Some(&[0xc0, 0x7f]),
        _ => None,
    }
}

/// Overwrites `elements` by what stands for missing ones; false if the type has nothing.
pub(crate) fn erase(elements: &mut [u8], dtype: Dtype) -> bool {
    let Some(pattern) = not_a_number(dtype) else { return false };
    elements.chunks_exact_mut(pattern.len()).for_each(|element| element.copy_from_slice(pattern));
    true
}
