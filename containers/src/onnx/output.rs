//! Cuts a batch's output into the queries' answers.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType};
use skysail_proto::{DataType, Inputs, Tensor};
use zerocopy::{Immutable, IntoBytes};

use crate::error::ContainerError;

/// Appends each query's rows of `value` to its answer. The output is copied once, out of the
/// model's memory; the answers are slices of that copy.
pub(super) fn split(
    name: &str,
    value: &DynValue,
    batch: &[Arc<Inputs>],
    answers: &mut [Vec<Tensor>],
) -> Result<(), ContainerError> {
    let whole = copy(name, value)?;
    let expected: usize = batch.iter().map(|inputs| inputs.rows()).sum();
    if whole.shape().is_empty() || whole.rows()? != expected {
        return Err(ContainerError::Output {
            output: name.into(),
            expected: format!("{expected} rows"),
            got: format!("shape {:?}", whole.shape()),
        });
    }
    let mut from = 0;
    for (inputs, answer) in batch.iter().zip(answers) {
        answer.push(if batch.len() == 1 {
            whole.clone()
        } else {
            whole.slice_rows(from, inputs.rows())?
        });
        from += inputs.rows();
    }
    Ok(())
}

fn copy(name: &str, value: &DynValue) -> Result<Tensor, ContainerError> {
    let unsupported = || ContainerError::UnsupportedType {
        what: "output",
        name: name.into(),
        got: value.dtype().to_string(),
        expected: "expected a tensor of a known datatype",
    };
    match value.dtype().tensor_type().ok_or_else(unsupported)? {
        TensorElementType::Bool => plain::<bool>(name, DataType::Bool, value),
        TensorElementType::Uint8 => plain::<u8>(name, DataType::Uint8, value),
        TensorElementType::Uint16 => plain::<u16>(name, DataType::Uint16, value),
        TensorElementType::Uint32 => plain::<u32>(name, DataType::Uint32, value),
        TensorElementType::Uint64 => plain::<u64>(name, DataType::Uint64, value),
        TensorElementType::Int8 => plain::<i8>(name, DataType::Int8, value),
        TensorElementType::Int16 => plain::<i16>(name, DataType::Int16, value),
        TensorElementType::Int32 => plain::<i32>(name, DataType::Int32, value),
        TensorElementType::Int64 => plain::<i64>(name, DataType::Int64, value),
        TensorElementType::Float16 => plain::<f16>(name, DataType::Fp16, value),
        TensorElementType::Bfloat16 => plain::<bf16>(name, DataType::Bf16, value),
        TensorElementType::Float32 => plain::<f32>(name, DataType::Fp32, value),
        TensorElementType::Float64 => plain::<f64>(name, DataType::Fp64, value),
        TensorElementType::String => {
            let (shape, strings) = value.try_extract_strings().map_err(super::failed)?;
            let elements = Tensor::from_strings(name, &strings);
            Ok(Tensor::new(name, DataType::Bytes, shape.to_vec(), elements.data().clone())?)
        }
        _ => Err(unsupported()),
    }
}

fn plain<T>(name: &str, datatype: DataType, value: &DynValue) -> Result<Tensor, ContainerError>
where
    T: PrimitiveTensorElementType + IntoBytes + Immutable,
{
    let (shape, elements) = value.try_extract_tensor::<T>().map_err(super::failed)?;
    let data = Bytes::copy_from_slice(elements.as_bytes());
    Ok(Tensor::new(name, datatype, shape.to_vec(), data)?)
}
