//! Passes bytes to and from Python without a copy, through the buffer protocol.
//!
//! The buffer protocol is part of the stable ABI from Python 3.11 on, and this package supports 3.9. So what it takes of the protocol is
//! declared here. That is sound on 3.9 and 3.10 as well, neither of which changes any more: both export these functions; both take the
//! buffer slots in `PyType_FromSpec` ("What's New in Python 3.9", C API: <https://docs.python.org/3/whatsnew/3.9.html>); and `Py_buffer`
//! has the layout of PEP 3118 (<https://peps.python.org/pep-3118/>, <https://docs.python.org/3/c-api/buffer.html#c.Py_buffer>), the same
//! from Python 3.3 on.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr;

use bytes::Bytes;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

/// `Py_buffer`.
#[repr(C)]
pub(super) struct View {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: ffi::Py_ssize_t,
    itemsize: ffi::Py_ssize_t,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut ffi::Py_ssize_t,
    strides: *mut ffi::Py_ssize_t,
    suboffsets: *mut ffi::Py_ssize_t,
    internal: *mut c_void,
}

/// `PyBUF_SIMPLE`: one run of bytes.
const SIMPLE: c_int = 0;
/// `PyBUF_FORMAT | PyBUF_ND`: one run of bytes, with the type of the items; a memoryview tells that only together with its shape.
const FORMAT: c_int = 4 | 8;
/// `Py_bf_getbuffer`.
const GET_BUFFER: c_int = 1;

unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut View);
    fn PyBuffer_FillInfo(
        view: *mut View,
        object: *mut ffi::PyObject,
        buf: *mut c_void,
        len: ffi::Py_ssize_t,
        readonly: c_int,
        flags: c_int,
    ) -> c_int;
}

/// A bytes argument: `bytes`, or any object that offers one contiguous buffer, which is borrowed for as long as this lives.
pub(super) enum BytesLike<'a, 'py> {
    Bytes(Borrowed<'a, 'py, PyBytes>),
    Buffer(Box<View>),
    /// The argument was not given.
    Empty,
}

impl BytesLike<'_, '_> {
    fn holds_addresses(&self) -> bool {
        let BytesLike::Buffer(view) = self else { return false };
        // Sound: where it is not null, the format is a text that lives as long as the view.
        !view.format.is_null() && has_addresses(unsafe { CStr::from_ptr(view.format) }.to_bytes())
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            BytesLike::Bytes(bytes) => bytes.as_bytes(),
            BytesLike::Empty => &[],
            // The pointer of an empty buffer may be null.
            BytesLike::Buffer(view) if view.len <= 0 || view.buf.is_null() => &[],
            // Sound: the exporter keeps these bytes in their place until the view is released.
            BytesLike::Buffer(view) => unsafe { std::slice::from_raw_parts(view.buf.cast(), view.len as usize) },
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for BytesLike<'a, 'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(BytesLike::Bytes(bytes));
        }
        // Exporters that have no word for the type of their items (NumPy's dates) have none that are objects.
        let view = borrowed(object, FORMAT).or_else(|_| borrowed(object, SIMPLE));
        let bytes = BytesLike::Buffer(view.map_err(|error| as_type_error(object.py(), error))?);
        if bytes.holds_addresses() {
            return Err(PyTypeError::new_err(
                "its items are Python objects or addresses, which mean nothing elsewhere: store what a serializer makes of it",
            ));
        }
        Ok(bytes)
    }
}

fn borrowed(object: Borrowed<'_, '_, PyAny>, flags: c_int) -> PyResult<Box<View>> {
    let mut view = Box::new(MaybeUninit::<View>::uninit());
    // Sound: the view is in a place of its own, and is used only where the call has filled it.
    unsafe {
        if PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(view.assume_init())
    }
}

/// An argument that offers no run of bytes is of a wrong type, whatever its exporter says.
fn as_type_error(py: Python<'_>, error: PyErr) -> PyErr {
    if error.is_instance_of::<PyBufferError>(py) || error.is_instance_of::<PyValueError>(py) {
        PyTypeError::new_err(format!("one run of bytes is required: {}", error.value(py)))
    } else {
        error
    }
}

/// Whether a format of the `struct` module, with the additions of PEP 3118, has items that are objects or addresses.
fn has_addresses(format: &[u8]) -> bool {
    // Names of fields stand between colons.
    format.split(|letter| *letter == b':').step_by(2).any(|types| types.iter().any(|letter| b"OPX&".contains(letter)))
}

impl Drop for BytesLike<'_, '_> {
    fn drop(&mut self) {
        if let BytesLike::Buffer(view) = self {
            // Sound: arguments are dropped where they came in, attached to the interpreter.
            unsafe { PyBuffer_Release(&raw mut **view) };
        }
    }
}

/// A read-only `memoryview` that shares the bytes and keeps them.
pub(super) fn memoryview<'py>(py: Python<'py>, bytes: Bytes) -> PyResult<Bound<'py, PyAny>> {
    let shared = shared(py, bytes)?;
    // Sound: a new reference, or null with an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyMemoryView_FromObject(shared.as_ptr())) }
}

/// New `bytes` with this content. Other threads can run while a large one is copied.
pub(super) fn copied<'py>(py: Python<'py>, content: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    /// Up to this size, copying takes no longer than releasing the interpreter's lock may cost.
    const SMALL_BYTES_MAX: usize = 64 << 10;

    if content.len() <= SMALL_BYTES_MAX {
        return Ok(PyBytes::new(py, content));
    }
    let len = ffi::Py_ssize_t::try_from(content.len()).map_err(|_| PyMemoryError::new_err(()))?;
    // Sound: the object is new, nobody else knows of it, and it has room for exactly these bytes.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(ptr::null(), len))?;
        let room = ffi::PyBytes_AsString(object.as_ptr()) as usize;
        py.detach(|| ptr::copy_nonoverlapping(content.as_ptr(), room as *mut u8, content.len()));
        Ok(object.cast_into_unchecked())
    }
}

/// The Python object behind a memoryview.
#[repr(C)]
struct SharedBytes {
    head: ffi::PyObject,
    bytes: ManuallyDrop<Bytes>,
}

fn shared(py: Python<'_>, bytes: Bytes) -> PyResult<Bound<'_, PyAny>> {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

    let class = TYPE.get_or_try_init(py, || shared_bytes_type(py))?;
    // Sound: the type's instances have the size of `SharedBytes`, and its bytes are written before anybody sees it.
    unsafe {
        let class = class.as_ptr().cast::<ffi::PyTypeObject>();
        let object = ffi::PyType_GenericAlloc(class, 0);
        if !object.is_null() {
            (&raw mut (*object.cast::<SharedBytes>()).bytes).write(ManuallyDrop::new(bytes));
        }
        Bound::from_owned_ptr_or_err(py, object)
    }
}

fn shared_bytes_type(py: Python<'_>) -> PyResult<Py<PyAny>> {
    const NAME: &CStr = c"scaler_object_storage._native.SharedBytes";
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(GET_BUFFER, get_buffer as *mut c_void),
        slot(ffi::Py_tp_dealloc, deallocate as *mut c_void),
        slot(ffi::Py_tp_new, refuse_new as *mut c_void),
        slot(0, ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: NAME.as_ptr(),
        basicsize: size_of::<SharedBytes>() as c_int,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as u32,
        slots: slots.as_mut_ptr(),
    };
    // Sound: the spec is copied; only the name is kept, which is static.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)).map(Bound::unbind) }
}

unsafe extern "C" fn get_buffer(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int {
    // Sound: called for objects made by `shared` alone; the view holds a reference to the object, and so to the bytes.
    unsafe {
        let bytes: &Bytes = &(*object.cast::<SharedBytes>()).bytes;
        PyBuffer_FillInfo(view, object, bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t, 1, flags)
    }
}

unsafe extern "C" fn deallocate(object: *mut ffi::PyObject) {
    // Sound: the last reference is gone. An instance of a heap type holds a reference to its type.
    unsafe {
        let class = ffi::Py_TYPE(object);
        ManuallyDrop::drop(&mut (*object.cast::<SharedBytes>()).bytes);
        let free = ffi::PyType_GetSlot(class, ffi::Py_tp_free);
        if !free.is_null() {
            std::mem::transmute::<*mut c_void, ffi::freefunc>(free)(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// An instance that Python made would have no bytes.
unsafe extern "C" fn refuse_new(
    _: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // Sound: called attached to the interpreter.
    unsafe { ffi::PyErr_SetString(ffi::PyExc_TypeError, c"SharedBytes are made by the object store".as_ptr()) };
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::has_addresses;

    #[test]
    fn formats_with_addresses_are_known_from_fields_with_such_names() {
        for format in ["O", "<O", "4O", "P", "&B", "T{<i:a:O:b:}", "X{}"] {
            assert!(has_addresses(format.as_bytes()), "{format}");
        }
        for format in ["", "B", "<d", "c", "T{<i:OPX:=d:P:}", "Zd", "?"] {
            assert!(!has_addresses(format.as_bytes()), "{format}");
        }
    }
}
