//! Where a batch's input is put together: the one copy between a request and the model.

use std::{fmt::Debug, sync::Arc};

use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{PrimitiveTensorElementType, TensorRef},
};
use skysail_proto::{DataType, Inputs, Tensor};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::ContainerError;

#[cfg(target_endian = "big")]
compile_error!("tensors travel little-endian and are copied as they are");

/// Elements of one datatype, aligned as the model wants them. A buffer never shrinks: it is as
/// large as the largest batch so far.
#[derive(Debug)]
pub(super) enum Buffer {
    Bool(Vec<bool>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    /// ONNX Runtime copies each string itself, so nothing is kept.
    Strings,
}

impl Buffer {
    pub(super) fn new(datatype: DataType) -> Self {
        match datatype {
            DataType::Bool => Self::Bool(Vec::new()),
            DataType::Uint8 => Self::U8(Vec::new()),
            DataType::Uint16 => Self::U16(Vec::new()),
            DataType::Uint32 => Self::U32(Vec::new()),
            DataType::Uint64 => Self::U64(Vec::new()),
            DataType::Int8 => Self::I8(Vec::new()),
            DataType::Int16 => Self::I16(Vec::new()),
            DataType::Int32 => Self::I32(Vec::new()),
            DataType::Int64 => Self::I64(Vec::new()),
            DataType::Fp16 => Self::F16(Vec::new()),
            DataType::Bf16 => Self::Bf16(Vec::new()),
            DataType::Fp32 => Self::F32(Vec::new()),
            DataType::Fp64 => Self::F64(Vec::new()),
            DataType::Bytes => Self::Strings,
        }
    }

    /// Copies the input `name` of every query behind each other, and shows it to the model.
    pub(super) fn fill<'b>(
        &'b mut self,
        name: &str,
        batch: &[Arc<Inputs>],
    ) -> Result<SessionInputValue<'b>, ContainerError> {
        let parts = Parts::find(name, batch)?;
        match self {
            Self::Bool(buffer) => {
                buffer.clear();
                for part in &parts.tensors {
                    // A byte other than 0 and 1 is no bool; any but 0 counts as true.
                    buffer.extend(part.data().iter().map(|byte| *byte != 0));
                }
                show(parts.shape, buffer)
            }
            Self::U8(buffer) => parts.copy_into(buffer),
            Self::U16(buffer) => parts.copy_into(buffer),
            Self::U32(buffer) => parts.copy_into(buffer),
            Self::U64(buffer) => parts.copy_into(buffer),
            Self::I8(buffer) => parts.copy_into(buffer),
            Self::I16(buffer) => parts.copy_into(buffer),
            Self::I32(buffer) => parts.copy_into(buffer),
            Self::I64(buffer) => parts.copy_into(buffer),
            Self::F16(buffer) => parts.copy_into(buffer),
            Self::Bf16(buffer) => parts.copy_into(buffer),
            Self::F32(buffer) => parts.copy_into(buffer),
            Self::F64(buffer) => parts.copy_into(buffer),
            Self::Strings => parts.strings(name),
        }
    }
}

/// One input of all queries of a batch.
struct Parts<'a> {
    tensors: Vec<&'a Tensor>,
    /// Rows of all, then the trailing dimensions, which agree.
    shape: Vec<i64>,
}

impl<'a> Parts<'a> {
    fn find(name: &str, batch: &'a [Arc<Inputs>]) -> Result<Self, ContainerError> {
        let mut tensors = Vec::with_capacity(batch.len());
        let mut rows = 0;
        for inputs in batch {
            let tensor = inputs.get(name).ok_or_else(|| {
                ContainerError::Invalid(format!("the query lacks the model's input '{name}'"))
            })?;
            rows += inputs.rows();
            tensors.push(tensor);
        }
        let mut shape = tensors.first().map(|first| first.shape().to_vec()).unwrap_or_default();
        if let Some(first) = shape.first_mut() {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        Ok(Self { tensors, shape })
    }

    fn copy_into<T>(self, buffer: &mut Vec<T>) -> Result<SessionInputValue<'_>, ContainerError>
    where
        T: PrimitiveTensorElementType + FromBytes + IntoBytes + Default + Clone + Debug + 'static,
    {
        let bytes: usize = self.tensors.iter().map(|part| part.data().len()).sum();
        let elements = bytes / size_of::<T>();
        if buffer.len() < elements {
            buffer.resize(elements, T::default());
        }
        let filled = buffer.get_mut(..elements).unwrap_or_default();
        let mut rest = filled.as_mut_bytes();
        for part in &self.tensors {
            let Some((here, behind)) = rest.split_at_mut_checked(part.data().len()) else { break };
            here.copy_from_slice(part.data());
            rest = behind;
        }
        show(self.shape, filled)
    }

    fn strings<'b>(self, name: &str) -> Result<SessionInputValue<'b>, ContainerError> {
        let mut elements = Vec::new();
        for part in &self.tensors {
            for element in part.bytes_elements() {
                elements.push(String::from_utf8(element.to_vec()).map_err(|_| {
                    ContainerError::Invalid(format!(
                        "input '{name}' holds a string that is not UTF-8; ONNX knows no other"
                    ))
                })?);
            }
        }
        let value = ort::value::Tensor::from_string_array((self.shape, elements.as_slice()));
        Ok(value.map_err(super::failed)?.into())
    }
}

fn show<'b, T>(shape: Vec<i64>, elements: &'b [T]) -> Result<SessionInputValue<'b>, ContainerError>
where
    T: PrimitiveTensorElementType + Clone + Debug + 'static,
{
    Ok(TensorRef::from_array_view((shape, elements)).map_err(super::failed)?.into())
}
