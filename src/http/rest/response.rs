//! The body of an inference answer: JSON, and behind it the elements of binary tensors.

use serde::Serialize;
use skysail_proto::{
    Tensor, open_inference,
    pb::inference::{InferParameter, ModelInferResponse, infer_parameter::ParameterChoice},
};

use super::{
    Invalid, elements,
    parameters::{BINARY_DATA_SIZE, Parameters, Written},
    request::Form,
};

/// An answer as it leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The length of the JSON, where binary data follows it.
    pub(super) json: Option<usize>,
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    parameters: Written<'a>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
    #[serde(skip_serializing_if = "is_empty")]
    parameters: Written<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<elements::Flat<'a>>,
}

fn is_empty(parameters: &Written<'_>) -> bool {
    parameters.0.is_empty()
}

/// Writes an answer in the form that the client wants.
///
/// # Errors
///
/// An output is wanted as JSON and JSON cannot carry it.
pub(super) fn write(mut response: ModelInferResponse, form: &Form) -> Result<Answer, Invalid> {
    let mut parameters: Vec<Parameters> =
        response.outputs.iter_mut().map(|output| std::mem::take(&mut output.parameters)).collect();
    let of_request = std::mem::take(&mut response.parameters);
    let (model_name, model_version, id) = (
        std::mem::take(&mut response.model_name),
        std::mem::take(&mut response.model_version),
        std::mem::take(&mut response.id),
    );
    let tensors = open_inference::outputs(response).map_err(|error| Invalid(error.to_string()))?;
    let is_binary = |tensor: &Tensor| form.is_binary(tensor.name());
    let (mut expected, mut has_binary) = (512, false);
    for (tensor, parameters) in tensors.iter().zip(&mut parameters) {
        let size = tensor.data().len();
        if is_binary(tensor) {
            has_binary = true;
            expected += size + 128;
            let size = ParameterChoice::Int64Param(i64::try_from(size).unwrap_or(i64::MAX));
            let size = InferParameter { parameter_choice: Some(size) };
            parameters.insert(BINARY_DATA_SIZE.into(), size);
        } else {
            elements::check(tensor)?;
            // Digits are longer than bytes.
            expected += 3 * size + 128;
        }
    }
    let outputs = tensors.iter().zip(&parameters).map(|(tensor, parameters)| Output {
        name: tensor.name(),
        datatype: tensor.datatype().name(),
        shape: tensor.shape(),
        parameters: Written(parameters),
        data: (!is_binary(tensor)).then_some(elements::Flat(tensor)),
    });
    let json = Body {
        model_name: &model_name,
        model_version: &model_version,
        id: &id,
        parameters: Written(&of_request),
        outputs: outputs.collect(),
    };
    let mut body = Vec::with_capacity(expected);
    serde_json::to_writer(&mut body, &json).map_err(|error| Invalid(error.to_string()))?;
    let length = body.len();
    for tensor in tensors.iter().filter(|tensor| is_binary(tensor)) {
        body.extend_from_slice(tensor.data());
    }
    Ok(Answer { body, json: has_binary.then_some(length) })
}

#[cfg(test)]
mod tests;
