#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use super::*;
use crate::pb::inference::model_infer_request::InferInputTensor;

const TYPED: [DataType; 12] = [
    DataType::Bool,
    DataType::Uint8,
    DataType::Uint16,
    DataType::Uint32,
    DataType::Uint64,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::Fp32,
    DataType::Fp64,
    DataType::Bytes,
];

fn sample(datatype: DataType) -> Tensor {
    match datatype.size() {
        None => Tensor::from_strings("t", &["a", "", "long one", "\u{1}"]),
        Some(size) => {
            let bits = |i: usize| if datatype == DataType::Bool { i % 2 } else { 37 * i % 251 };
            let data: Vec<u8> = (0..4 * size).map(|i| u8::try_from(bits(i)).unwrap()).collect();
            Tensor::new("t", datatype, [4], data).unwrap()
        }
    }
}

fn response(tensor: &Tensor, contents: Contents) -> ModelInferResponse {
    let (outputs, raw_output_contents) = reply(std::slice::from_ref(tensor), contents);
    ModelInferResponse { outputs, raw_output_contents, ..Default::default() }
}

#[test]
fn what_is_written_is_read_back_in_both_representations() {
    for datatype in TYPED {
        let tensor = sample(datatype);
        for contents in [Contents::Raw, Contents::Typed] {
            let response = response(&tensor, contents);
            assert_eq!(response.raw_output_contents.is_empty(), contents == Contents::Typed);
            let read = outputs(response).unwrap();
            assert_eq!(read.first(), Some(&tensor), "{datatype} {contents:?}");
        }
    }
    let half = Tensor::new("t", DataType::Fp16, [1], vec![1, 2]).unwrap();
    assert_eq!(outputs(response(&half, Contents::Typed)).unwrap(), [half]);
}

fn request(contents: Option<InferTensorContents>, raw: &[&'static [u8]]) -> ModelInferRequest {
    let input = InferInputTensor {
        name: "x".into(),
        datatype: "UINT8".into(),
        shape: vec![2],
        contents,
        ..Default::default()
    };
    let raw_input_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
    ModelInferRequest { inputs: vec![input], raw_input_contents, ..Default::default() }
}

fn uints(values: &[u32]) -> Option<InferTensorContents> {
    Some(InferTensorContents { uint_contents: values.to_vec(), ..Default::default() })
}

#[test]
fn wrong_contents_are_refused_with_what_was_expected() {
    let error = |request| inputs(request).unwrap_err().to_string();
    assert!(error(request(uints(&[1, 2]), &[&[1, 2]])).contains("expected one of the two"));
    assert!(error(request(None, &[&[1, 2], &[3]])).contains("each of the 1 inputs, got 2"));
    assert!(error(request(uints(&[1, 256]), &[])).contains("256 does not fit UINT8"));
    assert!(error(request(uints(&[1]), &[])).contains("takes 2 bytes, got 1"));
    assert!(error(request(None, &[&[1, 2, 3]])).contains("takes 2 bytes, got 3"));
    // An empty message for typed contents beside raw ones is what some clients send.
    let read = inputs(request(Some(InferTensorContents::default()), &[&[1, 2]])).unwrap();
    assert_eq!(read.1, Contents::Raw);
}

#[test]
fn contents_of_another_datatype_are_refused() {
    let mut contents = uints(&[1, 2, 3]).unwrap();
    contents.fp32_contents = vec![1.0];
    let error = inputs(request(Some(contents), &[])).unwrap_err().to_string();
    assert!(error.contains("another datatype") && error.contains("uint_contents alone"), "{error}");
}
