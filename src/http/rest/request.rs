//! The body of an inference request: JSON, and behind it the elements of binary tensors.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use skysail_proto::{
    DataType,
    pb::inference::{
        ModelInferRequest, ModelMetadataResponse,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};

use super::{
    Invalid, elements,
    object::Object,
    parameters::{self, BINARY_DATA, BINARY_DATA_OUTPUT, BINARY_DATA_SIZE, Parameters},
};

/// The form in which a client wants its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Of the outputs that say nothing themselves.
    binary: bool,
    /// Of those that do.
    outputs: Vec<(String, bool)>,
}

impl Form {
    /// Whether an output leaves as binary data.
    pub(super) fn is_binary(&self, output: &str) -> bool {
        let said = self.outputs.iter().find(|(name, _)| name == output);
        said.map_or(self.binary, |(_, binary)| *binary)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Object<Input<'a>>>,
    #[serde(default)]
    outputs: Option<Vec<Object<Output>>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
    /// Kept as text: the names of its type and shape may stand behind it.
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
}

/// Reads a request. `json` is the length of the JSON where binary data follows, which is not copied.
///
/// # Errors
///
/// The body is not what the protocol says; the message names the place.
pub(super) fn read(
    body: &Bytes,
    json: Option<usize>,
) -> Result<(ModelInferRequest, Form), Invalid> {
    let length = json.unwrap_or(body.len());
    if length > body.len() {
        return Err(Invalid(format!(
            "Inference-Header-Content-Length is {length}, but the body has {} bytes",
            body.len()
        )));
    }
    let mut binary = body.slice(length..);
    let text = body.get(..length).unwrap_or_default();
    let Object(mut body) = serde_json::from_slice::<Object<Body<'_>>>(text)
        .map_err(|error| Invalid(format!("the inference request: {error}")))?;
    let mut form = Form {
        binary: parameters::take_bool(&mut body.parameters, BINARY_DATA_OUTPUT)?.unwrap_or(false),
        outputs: Vec::new(),
    };
    let mut request = ModelInferRequest {
        id: body.id.unwrap_or_default(),
        parameters: body.parameters,
        inputs: Vec::with_capacity(body.inputs.len()),
        outputs: Vec::new(),
        raw_input_contents: Vec::with_capacity(body.inputs.len()),
        ..Default::default()
    };
    for Object(input) in body.inputs {
        let (tensor, data) = self::input(input, &mut binary, json.is_some())?;
        request.inputs.push(tensor);
        request.raw_input_contents.push(data);
    }
    if !binary.is_empty() {
        return Err(Invalid(format!(
            "{} bytes follow the binary data of the last input; expected none",
            binary.len()
        )));
    }
    for Object(mut output) in body.outputs.unwrap_or_default() {
        refuse_extensions("output", &output.name, &output.parameters)?;
        if let Some(binary) = parameters::take_bool(&mut output.parameters, BINARY_DATA)? {
            form.outputs.push((output.name.clone(), binary));
        }
        request
            .outputs
            .push(InferRequestedOutputTensor { name: output.name, parameters: output.parameters });
    }
    Ok((request, form))
}

fn input(
    mut input: Input<'_>,
    binary: &mut Bytes,
    has_header: bool,
) -> Result<(InferInputTensor, Bytes), Invalid> {
    let name = &input.name;
    refuse_extensions("input", name, &input.parameters)?;
    let size = parameters::take_size(&mut input.parameters, BINARY_DATA_SIZE)
        .map_err(|Invalid(wrong)| Invalid(format!("input '{name}': {wrong}")))?;
    let data = match (input.data, size) {
        (Some(data), None) => {
            let datatype = DataType::parse(name, &input.datatype)
                .map_err(|error| Invalid(error.to_string()))?;
            elements::read(elements::Spec { name, datatype, shape: &input.shape }, data.get())?
        }
        (None, Some(_)) if !has_header => {
            return Err(Invalid(format!(
                "input '{name}' has binary_data_size; expected the header \
                 Inference-Header-Content-Length, which says where the JSON ends"
            )));
        }
        (None, Some(size)) if size <= binary.len() => binary.split_to(size),
        (None, Some(size)) => {
            return Err(Invalid(format!(
                "input '{name}': binary_data_size is {size}, but {} bytes are left of the body",
                binary.len()
            )));
        }
        (Some(_), Some(_)) => {
            return Err(Invalid(format!(
                "input '{name}' has data and binary_data_size; expected one of the two"
            )));
        }
        (None, None) => {
            return Err(Invalid(format!(
                "input '{name}' has no data; expected data, or the parameter binary_data_size and \
                 the elements behind the JSON"
            )));
        }
    };
    let tensor = InferInputTensor {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
        parameters: input.parameters,
        contents: None,
    };
    Ok((tensor, data))
}

/// What would change the answer is refused rather than ignored.
fn refuse_extensions(what: &str, name: &str, parameters: &Parameters) -> Result<(), Invalid> {
    for (parameter, instead) in [
        ("shared_memory_region", "send and ask for data or binary data"),
        ("classification", "read the scores of an output"),
    ] {
        if parameters.contains_key(parameter) {
            return Err(Invalid(format!(
                "{what} '{name}': the extension {parameter} is not served; {instead}"
            )));
        }
    }
    Ok(())
}

/// The request whose whole body is the elements of the application's one input. Its shape is the
/// application's; one free dimension is what the elements need. A BYTES input is one element, and
/// the body has no length in front of it.
///
/// # Errors
///
/// The application has several inputs, or its shape and the body do not go together.
pub(super) fn raw(
    metadata: &ModelMetadataResponse,
    body: Bytes,
) -> Result<ModelInferRequest, Invalid> {
    let [spec] = metadata.inputs.as_slice() else {
        return Err(Invalid(format!(
            "a body of one raw tensor (Inference-Header-Content-Length: 0) needs an application with \
             one input; '{}' has {}: send JSON with binary_data_size",
            metadata.name,
            metadata.inputs.len()
        )));
    };
    let datatype =
        DataType::parse(&spec.name, &spec.datatype).map_err(|error| Invalid(error.to_string()))?;
    let wrong = |expected: String| {
        Invalid(format!("input '{}': expected {expected}, got {} bytes", spec.name, body.len()))
    };
    // Of several free dimensions the first is the rows, of which there is one.
    let free = spec.shape.iter().filter(|dimension| **dimension < 0).count();
    let rows_are_free = spec.shape.first().is_some_and(|first| *first < 0);
    let mut shape = spec.shape.clone();
    if let (true, true, Some(rows)) = (free > 1, rows_are_free, shape.first_mut()) {
        *rows = 1;
    }
    let fixed = shape.iter().filter(|dimension| **dimension >= 0);
    let fixed = fixed.filter_map(|dimension| usize::try_from(*dimension).ok()).product::<usize>();
    let (data, elements) = match datatype.size() {
        None => {
            let length = u32::try_from(body.len())
                .map_err(|_| wrong("a BYTES element of at most 4 GiB".into()))?;
            ([&length.to_le_bytes(), &*body].concat().into(), 1)
        }
        Some(size) if body.len().is_multiple_of(size) => (body.clone(), body.len() / size),
        Some(size) => {
            return Err(wrong(format!("elements of {datatype}, {size} bytes each")));
        }
    };
    let mut open = shape.iter_mut().filter(|dimension| **dimension < 0);
    match (open.next(), open.next()) {
        (None, _) if elements == fixed => {}
        (None, _) => return Err(wrong(format!("{fixed} elements of {datatype}"))),
        (Some(dimension), None) if fixed > 0 && elements.is_multiple_of(fixed) => {
            *dimension = i64::try_from(elements / fixed).unwrap_or(i64::MAX);
        }
        (Some(_), None) => {
            return Err(wrong(format!("a multiple of {fixed} elements of {datatype}")));
        }
        (Some(_), Some(_)) => {
            return Err(Invalid(format!(
                "input '{}' has several free dimensions, so a body of one raw tensor has no shape: \
                 send JSON with binary_data_size",
                spec.name
            )));
        }
    }
    Ok(ModelInferRequest {
        inputs: vec![InferInputTensor {
            name: spec.name.clone(),
            datatype: spec.datatype.clone(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: vec![data],
        ..Default::default()
    })
}

#[cfg(test)]
mod tests;
