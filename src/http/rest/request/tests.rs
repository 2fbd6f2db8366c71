use proptest::prelude::*;
use skysail_proto::{
    open_inference,
    pb::inference::{infer_parameter::ParameterChoice, model_metadata_response::TensorMetadata},
};

use super::*;
use crate::http::rest::elements::tests::tensors;

fn parsed(json: &str) -> Result<(ModelInferRequest, Form), Invalid> {
    read(&Bytes::from(json.to_owned()), None)
}

#[test]
fn a_request_is_read_with_everything_in_it() {
    let (request, form) = parsed(
        r#"{"id": "42", "unknown": [1], "model_name": "other",
            "parameters": {"timeout": 5, "big": 18446744073709551615, "f": 0.5, "s": "é", "b": true},
            "inputs": [{"data": [[1, 2]], "shape": [1, 2], "datatype": "FP32", "name": "x",
                        "parameters": {"p": 1}},
                       {"name": "y", "datatype": "BYTES", "shape": [1], "data": ["a"]}],
            "outputs": [{"name": "label"}, {"name": "scores", "parameters": {"binary_data": true}}]}"#,
    )
    .unwrap();
    assert_eq!(request.id, "42");
    let parameter = |name: &str| request.parameters[name].parameter_choice.clone().unwrap();
    assert_eq!(parameter("timeout"), ParameterChoice::Int64Param(5));
    assert_eq!(parameter("big"), ParameterChoice::Uint64Param(u64::MAX));
    assert_eq!(parameter("f"), ParameterChoice::DoubleParam(0.5));
    assert_eq!(parameter("s"), ParameterChoice::StringParam("é".into()));
    assert_eq!(parameter("b"), ParameterChoice::BoolParam(true));
    assert_eq!(request.inputs[0].parameters.len(), 1);
    let outputs: Vec<_> = request.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(outputs, ["label", "scores"]);
    assert!(form.is_binary("scores") && !form.is_binary("label"));
    let (tensors, _) = open_inference::inputs(request).unwrap();
    assert_eq!(tensors[0].data(), &[0, 0, 128, 63, 0, 0, 0, 64][..]);
    assert_eq!(tensors[1].data(), &b"\x01\0\0\0a"[..]);
}

#[test]
fn an_output_that_says_its_form_overrides_the_request() {
    let (request, form) = parsed(
        r#"{"parameters": {"binary_data_output": true}, "inputs": [], "id": null,
            "outputs": [{"name": "a", "parameters": {"binary_data": false}}, {"name": "b"}]}"#,
    )
    .unwrap();
    assert!(request.parameters.is_empty());
    assert!(!form.is_binary("a") && form.is_binary("b") && form.is_binary("any other"));
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    for (json, expected) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "at line 1 column 1"),
        ("{\"inputs\":\n  [}", "expected value at line 2 column 4"),
        ("{\"inputs\": []} x", "trailing characters at line 1 column 16"),
        ("[]", "invalid type: sequence, expected a JSON object"),
        ("{\"inputs\": [[]]}", "invalid type: sequence, expected a JSON object"),
        ("{\"id\": 1, \"inputs\": []}", "invalid type: integer `1`, expected a string"),
        ("{}", "missing field `inputs`"),
        ("{\"inputs\": [], \"inputs\": []}", "duplicate field `inputs`"),
        ("{\"inputs\": [{}]}", "missing field `name`"),
        (
            "{\"inputs\": [], \"parameters\": {\"a\": [1]}}",
            "invalid type: sequence, expected a parameter",
        ),
        (
            "{\"inputs\": [], \"parameters\": {\"binary_data_output\": 1}}",
            "binary_data_output: expected true or false, got 1",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FLOAT", "shape": [1], "data": [1]}]}"#,
            "unknown datatype 'FLOAT'",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}"#,
            "input 'x' has no data",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}"#,
            "expected the header Inference-Header-Content-Length",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1], "parameters": {"binary_data_size": 4}}]}"#,
            "has data and binary_data_size",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}]}"#,
            "input 'x': parameter binary_data_size: expected a number of bytes, got -4",
        ),
        (
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"shared_memory_region": "r"}}]}"#,
            "the extension shared_memory_region is not served",
        ),
        (
            r#"{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}"#,
            "the extension classification is not served",
        ),
        (
            r#"{"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}"#,
            "binary_data: expected true or false, got 'yes'",
        ),
    ] {
        let refused = parsed(json).unwrap_err().0;
        assert!(refused.contains(expected), "{json}: {refused}");
    }
}

/// A JSON with an input `x` of so many binary bytes, and `tail` behind it.
fn binary(size: usize, tail: &[u8]) -> (Bytes, usize) {
    let json = format!(
        r#"{{"inputs": [{{"name": "x", "datatype": "UINT8", "shape": [{size}],
            "parameters": {{"binary_data_size": {size}}}}}]}}"#
    );
    ([json.as_bytes(), tail].concat().into(), json.len())
}

#[test]
fn binary_data_is_a_slice_of_the_body() {
    let (body, length) = binary(3, b"abc");
    let (request, _) = read(&body, Some(length)).unwrap();
    assert_eq!(request.raw_input_contents, ["abc"]);
    assert_eq!(request.raw_input_contents[0].as_ptr(), body[length..].as_ptr());
    assert!(request.inputs[0].parameters.is_empty());
}

#[test]
fn missing_and_trailing_bytes_are_refused() {
    for (size, tail, header, expected) in [
        (3, "ab", 0, "binary_data_size is 3, but 2 bytes are left"),
        (3, "abcd", 0, "1 bytes follow the binary data of the last input"),
        (3, "abc", 4, "Inference-Header-Content-Length is"),
        (3, "abc", -1, "the inference request: EOF"),
    ] {
        let (body, length) = binary(size, tail.as_bytes());
        let length = length.checked_add_signed(header).unwrap();
        let refused = read(&body, Some(length)).unwrap_err().0;
        assert!(refused.contains(expected), "{refused}");
    }
}

fn metadata(inputs: &[(&str, &[i64])]) -> ModelMetadataResponse {
    let inputs = inputs.iter().enumerate().map(|(index, (datatype, shape))| TensorMetadata {
        name: format!("x{index}"),
        datatype: (*datatype).into(),
        shape: shape.to_vec(),
    });
    ModelMetadataResponse { name: "app".into(), inputs: inputs.collect(), ..Default::default() }
}

#[test]
fn a_raw_body_takes_its_shape_from_the_application() {
    for (datatype, shape, bytes, expected) in [
        ("FP32", &[-1, 2][..], 16, &[2, 2][..]),
        ("FP32", &[-1, 2], 8, &[1, 2]),
        ("UINT8", &[-1, -1], 5, &[1, 5]),
        ("UINT8", &[2, 3], 6, &[2, 3]),
        ("UINT8", &[3, -1], 6, &[3, 2]),
        ("BYTES", &[-1], 5, &[1]),
        ("BYTES", &[-1, 1], 5, &[1, 1]),
        ("BYTES", &[-1, -1], 0, &[1, 1]),
    ] {
        let body = Bytes::from(vec![1; bytes]);
        let request = raw(&metadata(&[(datatype, shape)]), body).unwrap();
        assert_eq!(request.inputs[0].shape, expected, "{datatype} {shape:?}");
        assert!(open_inference::inputs(request).is_ok(), "{datatype} {shape:?}");
    }
}

#[test]
fn a_raw_body_that_has_no_shape_is_refused() {
    for (inputs, bytes, expected) in [
        (&[("FP32", &[-1_i64, 2][..]), ("FP32", &[-1])][..], 8, "one input; 'app' has 2"),
        (&[("FP32", &[-1, 2])], 6, "expected elements of FP32, 4 bytes each, got 6 bytes"),
        (&[("FP32", &[-1, 2])], 12, "expected a multiple of 2 elements of FP32, got 12 bytes"),
        (&[("FP32", &[1, 2])], 12, "expected 2 elements of FP32, got 12 bytes"),
        (&[("FP32", &[-1, -1, -1])], 8, "several free dimensions"),
        (&[("BYTES", &[-1, 2])], 8, "expected a multiple of 2 elements of BYTES"),
    ] {
        let refused = raw(&metadata(inputs), Bytes::from(vec![0; bytes])).unwrap_err().0;
        assert!(refused.contains(expected), "{refused}");
    }
}

proptest! {
    #[test]
    fn tensors_survive_the_binary_form(tensors in prop::collection::vec(tensors(false), 0..4)) {
        let inputs: Vec<_> = tensors.iter().map(|tensor| serde_json::json!({
            "name": tensor.name(),
            "datatype": tensor.datatype().name(),
            "shape": tensor.shape(),
            "parameters": { "binary_data_size": tensor.data().len() },
        })).collect();
        let json = serde_json::json!({ "inputs": inputs }).to_string();
        let mut body = json.clone().into_bytes();
        tensors.iter().for_each(|tensor| body.extend_from_slice(tensor.data()));
        let (request, _) = read(&body.into(), Some(json.len())).unwrap();
        prop_assert_eq!(open_inference::inputs(request).unwrap_or_default().0, tensors);
    }

    #[test]
    fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..99), json in 0_usize..99) {
        let _ = read(&body.clone().into(), None);
        let _ = read(&body.into(), Some(json));
    }
}
