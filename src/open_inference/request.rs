//! What a `ModelInferRequest` asks.

use skysail_proto::{
    DataType, PredictError, Tensor, TensorError,
    open_inference::{self, Contents},
    pb::inference::ModelInferRequest,
};

use super::parameters;
use crate::predict::Asked;

/// The input that holds the context features; it goes to the policy and to no model.
const FEATURES: &str = "skysail.context_features";

/// What is asked, and how the request carried it. Raw tensors are slices of the message.
///
/// # Errors
///
/// INVALID_ARGUMENT for the first thing that is wrong.
pub(super) fn asked(mut request: ModelInferRequest) -> Result<(Asked, Contents), PredictError> {
    let timeout = parameters::timeout(&request.parameters)?;
    let context_id = parameters::context_id(&mut request.parameters)?;
    for input in &request.inputs {
        parameters::of_tensor(&input.name, &input.parameters)?;
    }
    for output in &request.outputs {
        parameters::of_tensor(&output.name, &output.parameters)?;
    }
    let outputs = std::mem::take(&mut request.outputs);
    let (mut inputs, contents) = open_inference::inputs(request)?;
    let mut context_features = Vec::new();
    if let Some(index) = inputs.iter().position(|tensor| tensor.name() == FEATURES) {
        context_features = features(&inputs.remove(index))?;
        if inputs.iter().any(|tensor| tensor.name() == FEATURES) {
            return Err(TensorError::Twice { name: FEATURES.into() }.into());
        }
    }
    let outputs = outputs.into_iter().map(|output| output.name).collect();
    Ok((Asked { inputs, context_id, context_features, timeout, outputs }, contents))
}

fn features(tensor: &Tensor) -> Result<Vec<f32>, PredictError> {
    if tensor.datatype() != DataType::Fp32 || !matches!(tensor.shape(), [_] | [1, _]) {
        return Err(PredictError::invalid(format!(
            "tensor '{FEATURES}': expected FP32 of shape [n] or [1, n], got {} of shape {:?}",
            tensor.datatype(),
            tensor.shape()
        )));
    }
    let numbers = tensor.data().chunks_exact(4);
    Ok(numbers.filter_map(|four| Some(f32::from_le_bytes(four.try_into().ok()?))).collect())
}
