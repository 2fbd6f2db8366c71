//! Tensors as the Open Inference Protocol carries them: raw or typed, in requests and in replies.
//!
//! The two representations exclude each other in one message. FP16 and BF16 exist only as raw.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    DataType, Tensor, TensorError, TensorSpec,
    pb::inference::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        model_infer_response::InferOutputTensor, model_metadata_response::TensorMetadata,
    },
};

/// How a message carries its elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    /// One byte string per tensor, little-endian and row-major.
    #[default]
    Raw,
    /// Lists of numbers or byte strings.
    Typed,
}

/// The inputs of a request, and how it carried them. Raw ones are slices of the message.
///
/// # Errors
///
/// A tensor is wrong, both representations are used, or raw entries and inputs differ in number.
pub fn inputs(request: ModelInferRequest) -> Result<(Vec<Tensor>, Contents), TensorError> {
    let raw = request.raw_input_contents;
    let tensors = request.inputs.into_iter();
    let parts = tensors.map(|t| (t.name, t.datatype, t.shape, t.contents)).collect();
    tensors_of("input", parts, raw)
}

/// The outputs of a reply. Raw ones are slices of the message.
///
/// # Errors
///
/// As for [`inputs`].
pub fn outputs(response: ModelInferResponse) -> Result<Vec<Tensor>, TensorError> {
    let raw = response.raw_output_contents;
    let tensors = response.outputs.into_iter();
    let parts = tensors.map(|t| (t.name, t.datatype, t.shape, t.contents)).collect();
    Ok(tensors_of("output", parts, raw)?.0)
}

/// Outputs and raw entries of a reply that carries `tensors`. FP16 and BF16 have no typed form:
/// with one of them among the tensors all are raw, whatever was asked for.
pub fn reply(tensors: &[Tensor], contents: Contents) -> (Vec<InferOutputTensor>, Vec<Bytes>) {
    let half = |t: &Tensor| matches!(t.datatype(), DataType::Fp16 | DataType::Bf16);
    let raw = contents == Contents::Raw || tensors.iter().any(half);
    let outputs = tensors.iter().map(|tensor| InferOutputTensor {
        name: tensor.name().into(),
        datatype: tensor.datatype().name().into(),
        shape: tensor.shape().to_vec(),
        parameters: Default::default(),
        contents: (!raw).then(|| typed(tensor)),
    });
    let bytes = if raw { tensors.iter().map(|t| t.data().clone()).collect() } else { Vec::new() };
    (outputs.collect(), bytes)
}

/// A spec as metadata shows it.
pub fn metadata(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().into(),
        shape: spec.shape.clone(),
    }
}

/// What metadata says of a tensor.
///
/// # Errors
///
/// No name, an unknown datatype, or a shape without rows.
pub fn spec(metadata: TensorMetadata) -> Result<TensorSpec, TensorError> {
    let TensorMetadata { name, datatype, shape } = metadata;
    crate::pb::v1::TensorSpec { name, datatype, shape }.try_into()
}

type Part = (String, String, Vec<i64>, Option<InferTensorContents>);

fn tensors_of(
    what: &str,
    parts: Vec<Part>,
    raw: Vec<Bytes>,
) -> Result<(Vec<Tensor>, Contents), TensorError> {
    let said = |contents: &Option<InferTensorContents>| {
        contents.as_ref().is_some_and(|contents| *contents != InferTensorContents::default())
    };
    if raw.is_empty() {
        let tensors = parts.into_iter().map(|(name, datatype, shape, contents)| {
            let datatype = checked(&name, &datatype)?;
            let data = untyped(&name, datatype, contents.unwrap_or_default())?;
            Tensor::new(name, datatype, shape, data)
        });
        return Ok((tensors.collect::<Result<_, _>>()?, Contents::Typed));
    }
    if let Some((name, ..)) = parts.iter().find(|part| said(&part.3)) {
        return Err(TensorError::Contents(format!(
            "{what} '{name}' has typed contents beside raw_{what}_contents; expected one of the two"
        )));
    }
    if raw.len() != parts.len() {
        return Err(TensorError::Contents(format!(
            "expected one entry of raw_{what}_contents for each of the {} {what}s, got {}",
            parts.len(),
            raw.len()
        )));
    }
    let tensors = parts.into_iter().zip(raw).map(|((name, datatype, shape, _), data)| {
        let datatype = checked(&name, &datatype)?;
        Tensor::new(name, datatype, shape, data)
    });
    Ok((tensors.collect::<Result<_, _>>()?, Contents::Raw))
}

fn checked(name: &str, datatype: &str) -> Result<DataType, TensorError> {
    if name.is_empty() {
        return Err(TensorError::NoName);
    }
    DataType::parse(name, datatype)
}

/// Typed contents as bytes. Numbers that do not fit a small datatype are refused, not cut, and so is
/// a list that another datatype has.
fn untyped(
    name: &str,
    datatype: DataType,
    mut contents: InferTensorContents,
) -> Result<Bytes, TensorError> {
    let mut data = BytesMut::new();
    let outside = |value: &dyn std::fmt::Display| {
        TensorError::Contents(format!("tensor '{name}': {value} does not fit {datatype}"))
    };
    macro_rules! narrow {
        ($list:ident, $type:ty) => {
            for value in mem::take(&mut contents.$list) {
                let value = <$type>::try_from(value).map_err(|_| outside(&value))?;
                data.put_slice(&value.to_le_bytes());
            }
        };
    }
    macro_rules! whole {
        ($list:ident) => {
            for value in mem::take(&mut contents.$list) {
                data.put_slice(&value.to_le_bytes());
            }
        };
    }
    match datatype {
        DataType::Bool => {
            data.extend(mem::take(&mut contents.bool_contents).iter().map(|v| u8::from(*v)))
        }
        DataType::Int8 => narrow!(int_contents, i8),
        DataType::Int16 => narrow!(int_contents, i16),
        DataType::Int32 => whole!(int_contents),
        DataType::Int64 => whole!(int64_contents),
        DataType::Uint8 => narrow!(uint_contents, u8),
        DataType::Uint16 => narrow!(uint_contents, u16),
        DataType::Uint32 => whole!(uint_contents),
        DataType::Uint64 => whole!(uint64_contents),
        DataType::Fp32 => whole!(fp32_contents),
        DataType::Fp64 => whole!(fp64_contents),
        DataType::Bytes => {
            for element in mem::take(&mut contents.bytes_contents) {
                data.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
                data.put_slice(&element);
            }
        }
        DataType::Fp16 | DataType::Bf16 => {
            return Err(TensorError::Contents(format!(
                "tensor '{name}': {datatype} has no typed contents; send it raw"
            )));
        }
    }
    if contents == InferTensorContents::default() {
        Ok(data.freeze())
    } else {
        Err(TensorError::Contents(format!(
            "tensor '{name}': it has contents of another datatype than {datatype}; expected {} alone",
            list(datatype)
        )))
    }
}

/// The list that holds typed elements of a datatype.
fn list(datatype: DataType) -> &'static str {
    match datatype {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => "raw contents",
    }
}

fn typed(tensor: &Tensor) -> InferTensorContents {
    let data: &[u8] = tensor.data();
    let mut contents = InferTensorContents::default();
    macro_rules! numbers {
        ($type:ty) => {
            data.chunks_exact(size_of::<$type>())
                .filter_map(|chunk| Some(<$type>::from_le_bytes(chunk.try_into().ok()?)))
        };
    }
    match tensor.datatype() {
        DataType::Bool => contents.bool_contents = data.iter().map(|b| *b != 0).collect(),
        DataType::Int8 => contents.int_contents = numbers!(i8).map(i32::from).collect(),
        DataType::Int16 => contents.int_contents = numbers!(i16).map(i32::from).collect(),
        DataType::Int32 => contents.int_contents = numbers!(i32).collect(),
        DataType::Int64 => contents.int64_contents = numbers!(i64).collect(),
        DataType::Uint8 => contents.uint_contents = numbers!(u8).map(u32::from).collect(),
        DataType::Uint16 => contents.uint_contents = numbers!(u16).map(u32::from).collect(),
        DataType::Uint32 => contents.uint_contents = numbers!(u32).collect(),
        DataType::Uint64 => contents.uint64_contents = numbers!(u64).collect(),
        DataType::Fp32 => contents.fp32_contents = numbers!(f32).collect(),
        DataType::Fp64 => contents.fp64_contents = numbers!(f64).collect(),
        DataType::Bytes => contents.bytes_contents = tensor.bytes_elements().collect(),
        // `reply` keeps them raw.
        DataType::Fp16 | DataType::Bf16 => {}
    }
    contents
}

#[cfg(test)]
mod tests;
