//! Tensors in main memory, and the types of ports.

use std::fmt;
use std::ptr::NonNull;

use ::ort::sys;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};
use sys::ONNXTensorElementDataType as T;

use super::{api, check, failure};
use crate::error::{Error, ErrorKind, Result};

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, IEEE half.
    F16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
    /// 8-bit signed integer.
    I8,
    /// One byte, 0 or 1; read and written as `u8`.
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 => 2,
            Self::U8 | Self::I8 | Self::Bool => 1,
        }
    }

    fn to_ort(self) -> T {
        match self {
            Self::F32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            Self::F16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            Self::I64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            Self::I32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            Self::U8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
            Self::I8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
            Self::Bool => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        }
    }

    /// From the C enumeration's number, which newer libraries extend.
    fn from_ort(number: i32) -> Option<Self> {
        [
            Self::F32,
            Self::F16,
            Self::I64,
            Self::I32,
            Self::U8,
            Self::I8,
            Self::Bool,
        ]
        .into_iter()
        .find(|dtype| dtype.to_ort() as i32 == number)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::Bool => "bool",
        })
    }
}

/// One dimension of a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a dimension is a whole number or a name such as \"batch\""
)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Decided by each run; the name tells which dimensions agree. Empty if the graph gives none.
    Symbolic(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Symbolic(name) if name.is_empty() => f.write_str("?"),
            Self::Symbolic(name) => name.fmt(f),
        }
    }
}

/// A named tensor that a module reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// Dimensions; empty for a scalar or when the graph does not say.
    pub shape: Vec<Dim>,
}

mod sealed {
    pub trait Sealed {}
}

/// Rust types that are elements of tensors: f32, [`half::f16`], i64, i32, u8, i8.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The matching type of tensors.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}
element!(f32 => F32, half::f16 => F16, i64 => I64, i32 => I32, u8 => U8, i8 => I8);

/// Whether a `T` may look at elements of type `dtype`; a bool is a byte.
fn fits<T: Element>(dtype: DType) -> bool {
    dtype == T::DTYPE || (dtype == DType::Bool && T::DTYPE == DType::U8)
}

/// A contiguous, row-major tensor in main memory. Needs an open [`Environment`](super::Environment).
pub struct Tensor {
    value: NonNull<sys::OrtValue>,
    data: *mut u8,
    dtype: DType,
    shape: Vec<usize>,
    /// What `data` points into when ONNX Runtime did not allocate it. Declared last: dropped after `value`.
    _backing: Option<Box<dyn Send + Sync>>,
}

// SAFETY: the value and its memory belong to this Tensor alone; ONNX Runtime ties neither to a thread.
unsafe impl Send for Tensor {}
// SAFETY: through `&Tensor` the elements and the value are only read; every write needs `&mut Tensor`.
unsafe impl Sync for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        if let Ok(api) = api() {
            // SAFETY: `value` is owned by this Tensor and not used afterwards.
            unsafe { (api.ReleaseValue)(self.value.as_ptr()) };
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

impl Tensor {
    /// A tensor that takes over `data`, in row-major order, without a copy.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the length is not the product of `shape`.
    pub fn from_vec<T: Element>(shape: &[usize], mut data: Vec<T>) -> Result<Self> {
        let bytes = byte_size(T::DTYPE, shape)?;
        if data.len() * size_of::<T>() != bytes {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} elements do not fill a tensor of shape {shape:?}",
                    data.len()
                ),
            ));
        }
        let pointer = data.as_mut_ptr().cast::<u8>();
        Self::over(T::DTYPE, shape, pointer, bytes, Box::new(data))
    }

    /// A tensor of zeros. Memory of a large one is taken from the system as it is written to.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `shape` overflows.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        // Zeroed memory of the plain alignment comes straight from the kernel, untouched; so align by hand.
        const ALIGN: usize = 64;
        let bytes = byte_size(dtype, shape)?;
        let mut block = vec![0u8; bytes + ALIGN];
        let offset = block.as_ptr().align_offset(ALIGN).min(ALIGN);
        let pointer = block[offset..].as_mut_ptr();
        Self::over(dtype, shape, pointer, bytes, Box::new(block))
    }

    /// A tensor with a copy of raw little-endian `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the length does not fit `dtype` and `shape`.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self> {
        let tensor = Self::zeros(dtype, shape)?;
        if bytes.len() != tensor.bytes() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{} bytes do not fill a tensor of {dtype} {shape:?}, which has {}",
                    bytes.len(),
                    tensor.bytes()
                ),
            ));
        }
        if !bytes.is_empty() {
            // SAFETY: `data` has room for `bytes.len()` bytes and belongs to the tensor just made.
            unsafe {
                tensor
                    .data
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
            };
        }
        Ok(tensor)
    }

    /// A value over `bytes` bytes at `data`, which live in `backing`.
    fn over(
        dtype: DType,
        shape: &[usize],
        data: *mut u8,
        bytes: usize,
        backing: Box<dyn Send + Sync>,
    ) -> Result<Self> {
        let api = api()?;
        let dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let mut info = std::ptr::null_mut();
        let mut value = std::ptr::null_mut();
        let internal = |e: &::ort::Error| failure(ErrorKind::Internal, "making a tensor", e);
        // SAFETY: `info` receives an owned pointer.
        check(unsafe {
            (api.CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtDeviceAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            )
        })
        .map_err(|e| internal(&e))?;
        // SAFETY: `data` is valid for `bytes` bytes for as long as `backing` lives, which outlives the value; `dims` is
        // read during the call only; `info` is released once and copied by the value.
        let made = check(unsafe {
            let status = (api.CreateTensorWithDataAsOrtValue)(
                info,
                data.cast(),
                bytes,
                dims.as_ptr(),
                dims.len(),
                dtype.to_ort(),
                &mut value,
            );
            (api.ReleaseMemoryInfo)(info);
            status
        });
        made.map_err(|e| internal(&e))?;
        let value = NonNull::new(value)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "ONNX Runtime made no tensor"))?;
        Ok(Self {
            value,
            data,
            dtype,
            shape: shape.to_vec(),
            _backing: Some(backing),
        })
    }

    /// Takes over a value that a run returned.
    ///
    /// # Safety
    /// `value` must be an owned value; it is released also when this fails.
    pub(super) unsafe fn from_value(value: NonNull<sys::OrtValue>) -> Result<Self> {
        let api = api()?;
        let mut tensor = Self {
            value,
            data: std::ptr::null_mut(),
            dtype: DType::U8,
            shape: Vec::new(),
            _backing: None,
        };
        let unusable = |e: &::ort::Error| failure(ErrorKind::Inference, "reading an output", e);
        let mut kind = 0_i32;
        // SAFETY: `value` is valid; the enumeration is an i32, read as such because newer libraries may extend it.
        check(unsafe { (api.GetValueType)(value.as_ptr(), (&raw mut kind).cast()) })
            .map_err(|e| unusable(&e))?;
        if kind != sys::ONNXType::ONNX_TYPE_TENSOR as i32 {
            return Err(Error::new(
                ErrorKind::Inference,
                "an output is not a dense tensor",
            ));
        }
        let mut info = std::ptr::null_mut();
        // SAFETY: `value` is a tensor; `info` receives an owned pointer, released below.
        check(unsafe { (api.GetTensorTypeAndShape)(value.as_ptr(), &mut info) })
            .map_err(|e| unusable(&e))?;
        // SAFETY: `info` is valid until released here, after the last use.
        let read = unsafe {
            let read = read_tensor_info(api, info);
            (api.ReleaseTensorTypeAndShapeInfo)(info);
            read
        };
        let (dtype, dims) = read.map_err(|e| unusable(&e))?;
        tensor.dtype = dtype.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "an output has an element type Atom does not read",
            )
        })?;
        tensor.shape = dims
            .iter()
            .map(|&d| usize::try_from(d).unwrap_or(0))
            .collect();
        let mut data = std::ptr::null_mut();
        // SAFETY: `value` is a tensor in main memory; the pointer lives as long as the value.
        check(unsafe { (api.GetTensorMutableData)(value.as_ptr(), &mut data) })
            .map_err(|e| unusable(&e))?;
        tensor.data = data.cast();
        Ok(tensor)
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions.
    pub fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size of the elements in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// The elements of an f32 or f16 tensor as f32, in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the elements are of another type.
    pub fn to_f32s(&self) -> Result<Vec<f32>> {
        match self.dtype() {
            DType::F16 => Ok(self.as_slice::<half::f16>()?.to_f32_vec()),
            _ => Ok(self.as_slice::<f32>()?.to_vec()),
        }
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the elements are not `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        let (data, len) = self.typed::<T>()?;
        // SAFETY: `data` holds `len` initialised elements of `T`, aligned for it, as long as `self` lives unchanged.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    /// The elements in row-major order, to write to.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice).
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        let (data, len) = self.typed::<T>()?;
        // SAFETY: as in `as_slice`, and `&mut self` is the only access.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
    }

    fn typed<T: Element>(&self) -> Result<(*mut T, usize)> {
        if !fits::<T>(self.dtype) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a tensor of {} read as {}", self.dtype, T::DTYPE),
            ));
        }
        let data = self.data.cast::<T>();
        if self.elements() == 0 || data.is_null() {
            return Ok((NonNull::dangling().as_ptr(), 0));
        }
        Ok((data, self.elements()))
    }

    pub(super) fn value(&self) -> *mut sys::OrtValue {
        self.value.as_ptr()
    }
}

fn byte_size(dtype: DType, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, &dim| bytes.checked_mul(dim))
        .filter(|&bytes| bytes <= isize::MAX as usize - 64)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("a tensor of shape {shape:?} is larger than memory can be"),
            )
        })
}

/// Element type (`None` for one that [`DType`] lacks) and dimensions, -1 where unknown.
///
/// # Safety
/// `info` must be valid.
pub(super) unsafe fn read_tensor_info(
    api: &sys::OrtApi,
    info: *const sys::OrtTensorTypeAndShapeInfo,
) -> std::result::Result<(Option<DType>, Vec<i64>), ::ort::Error> {
    let mut dtype = 0_i32;
    let mut rank = 0;
    // SAFETY: `info` is valid, the others are writable, the element type is an i32 enumeration; `dims` has room for `rank` dimensions.
    unsafe {
        check((api.GetTensorElementType)(info, (&raw mut dtype).cast()))?;
        check((api.GetDimensionsCount)(info, &mut rank))?;
        let mut dims = vec![0; rank];
        check((api.GetDimensions)(info, dims.as_mut_ptr(), rank))?;
        Ok((DType::from_ort(dtype), dims))
    }
}
