use bytes::Bytes;
use skysail_proto::{DataType, open_inference::Contents};

use super::*;
use crate::http::rest::request;

fn form(json: &str) -> Form {
    request::read(&Bytes::from(json.to_owned()), None).unwrap().1
}

fn answer() -> ModelInferResponse {
    let label = Tensor::new("label", DataType::Int64, [2], [1_u8, 0, 0, 0, 0, 0, 0, 0].repeat(2));
    let scores =
        Tensor::new("scores", DataType::Fp32, [2, 1], [0, 0, 0, 63, 0, 0, 192, 127].to_vec());
    let (outputs, raw) = open_inference::reply(&[label.unwrap(), scores.unwrap()], Contents::Raw);
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    ModelInferResponse {
        model_name: "app".into(),
        model_version: "1".into(),
        id: "a \"b\"".into(),
        parameters: [
            ("status".into(), parameter(ParameterChoice::StringParam("ANSWERED".into()))),
            ("decision_id".into(), parameter(ParameterChoice::StringParam("d".into()))),
        ]
        .into(),
        outputs,
        raw_output_contents: raw,
    }
}

#[test]
fn json_is_flat_and_in_order() {
    let written = write(answer(), &Form::default()).unwrap();
    assert_eq!(written.json, None);
    assert_eq!(
        String::from_utf8(written.body).unwrap(),
        concat!(
            r#"{"model_name":"app","model_version":"1","id":"a \"b\"","#,
            r#""parameters":{"decision_id":"d","status":"ANSWERED"},"outputs":["#,
            r#"{"name":"label","datatype":"INT64","shape":[2],"data":[1,1]},"#,
            r#"{"name":"scores","datatype":"FP32","shape":[2,1],"data":[0.5,null]}]}"#
        )
    );
}

#[test]
fn binary_outputs_stand_behind_the_json_in_their_order() {
    let all = form(r#"{"inputs": [], "parameters": {"binary_data_output": true}}"#);
    let written = write(answer(), &all).unwrap();
    let length = written.json.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&written.body[..length]).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 16);
    assert_eq!(json["outputs"][1]["parameters"]["binary_data_size"], 8);
    assert!(json["outputs"][0].get("data").is_none());
    assert_eq!(&written.body[length..], answer().raw_output_contents.concat());

    let one = form(
        r#"{"inputs": [], "outputs": [{"name": "scores", "parameters": {"binary_data": true}}]}"#,
    );
    let written = write(answer(), &one).unwrap();
    let length = written.json.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&written.body[..length]).unwrap();
    assert_eq!(json["outputs"][0]["data"], serde_json::json!([1, 1]));
    assert_eq!(&written.body[length..], answer().raw_output_contents[1]);
}

#[test]
fn typed_contents_are_written_too() {
    let mut response = answer();
    let tensors = open_inference::outputs(response.clone()).unwrap();
    (response.outputs, response.raw_output_contents) =
        open_inference::reply(&tensors, Contents::Typed);
    assert_eq!(write(response, &Form::default()), write(answer(), &Form::default()));
}
