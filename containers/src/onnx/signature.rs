//! What an ONNX model takes and gives, in this project's words.

use ort::{
    session::Session,
    value::{Outlet, TensorElementType, ValueType},
};
use skysail_proto::{DataType, Signature, TensorSpec};

use crate::error::ContainerError;

pub(super) fn of_session(session: &Session) -> Result<Signature, ContainerError> {
    let inputs = session.inputs().iter().map(|outlet| spec("input", outlet));
    let outputs = session.outputs().iter().map(|outlet| spec("output", outlet));
    Ok(Signature {
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: outputs.collect::<Result<_, _>>()?,
    })
}

fn spec(what: &'static str, outlet: &Outlet) -> Result<TensorSpec, ContainerError> {
    let unsupported = |expected| ContainerError::UnsupportedType {
        what,
        name: outlet.name().into(),
        got: outlet.dtype().to_string(),
        expected,
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(unsupported("expected a tensor (with skl2onnx: the option zipmap=False)"));
    };
    let datatype = datatype(*ty).ok_or_else(|| {
        unsupported("expected BOOL, an integer, FP16, BF16, FP32, FP64 or a string")
    })?;
    let shape: Vec<i64> = shape.iter().map(|dimension| (*dimension).max(-1)).collect();
    // Exporters leave the shape of an output out where it follows from the inputs; rows it has.
    match (shape.is_empty(), what) {
        (true, "output") => {
            Ok(TensorSpec { name: outlet.name().into(), datatype, shape: vec![-1] })
        }
        (true, _) => Err(unsupported("expected a first dimension of rows")),
        (false, _) => Ok(TensorSpec { name: outlet.name().into(), datatype, shape }),
    }
}

fn datatype(ty: TensorElementType) -> Option<DataType> {
    Some(match ty {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}
