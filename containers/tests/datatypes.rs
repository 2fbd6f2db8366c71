//! Every datatype goes through the runtime and comes back as it was. Needs the library:
//! `cargo xtask setup`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;

use skysail_containers::{Container, Device, init_onnx_runtime, onnx::OnnxContainer};
use skysail_proto::{DataType, Inputs, Tensor};

/// An ONNX model of one Identity node over [rows, 3], written field by field.
fn identity(element: u8) -> Vec<u8> {
    fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128);
        [&[field << 3 | 2, length], content].concat()
    }
    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }
    let value = |name: &str| {
        let rows = bytes(1, &bytes(2, b"N"));
        let columns = bytes(1, &number(1, 3));
        let shape = bytes(2, &[rows, columns].concat());
        let tensor = bytes(1, &[number(1, element), shape].concat());
        [bytes(1, name.as_bytes()), bytes(2, &tensor)].concat()
    };
    let node = [bytes(1, b"x"), bytes(2, b"y"), bytes(4, b"Identity")].concat();
    let graph =
        [bytes(1, &node), bytes(2, b"g"), bytes(11, &value("x")), bytes(12, &value("y"))].concat();
    [number(1, 8), bytes(8, &number(2, 17)), bytes(7, &graph)].concat()
}

fn query(datatype: DataType, rows: usize, seed: u8) -> Arc<Inputs> {
    let elements = rows * 3;
    let data: Vec<u8> = match datatype.size() {
        Some(_) if datatype == DataType::Bool => (0..elements).map(|i| (i % 2) as u8).collect(),
        Some(size) => (0..elements * size).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect(),
        None => {
            let words: Vec<String> = (0..elements).map(|i| "é".repeat(i % 4)).collect();
            Tensor::from_strings("x", &words).data().to_vec()
        }
    };
    let shape = [i64::try_from(rows).unwrap(), 3];
    Arc::new(Inputs::new(vec![Tensor::new("x", datatype, shape, data).unwrap()]).unwrap())
}

#[test]
fn all_datatypes_pass_unchanged() {
    init_onnx_runtime(None, None).unwrap_or_else(|error| panic!("{error}"));
    for (element, datatype) in [
        (1, DataType::Fp32),
        (2, DataType::Uint8),
        (3, DataType::Int8),
        (4, DataType::Uint16),
        (5, DataType::Int16),
        (6, DataType::Int32),
        (7, DataType::Int64),
        (8, DataType::Bytes),
        (9, DataType::Bool),
        (10, DataType::Fp16),
        (11, DataType::Fp64),
        (12, DataType::Uint32),
        (13, DataType::Uint64),
        (16, DataType::Bf16),
    ] {
        let mut container = OnnxContainer::open(&identity(element), Device::Cpu, 1)
            .unwrap_or_else(|error| panic!("{datatype}: {error}"));
        let signature = container.signature();
        assert_eq!(
            signature.to_string(),
            format!("(x {datatype} [any, 3]) -> (y {datatype} [any, 3])")
        );
        // The second batch is smaller: what the buffer still holds must not show.
        for rows in [[2, 1, 4], [1, 1, 1]] {
            let batch: Vec<_> = rows.iter().map(|rows| query(datatype, *rows, 5)).collect();
            let answers = container.predict_batch(&batch, &["y".into()]).unwrap();
            for (answer, inputs) in answers.iter().zip(&batch) {
                let asked = &inputs.tensors()[0];
                assert_eq!(answer[0].datatype(), datatype);
                assert_eq!(answer[0].shape(), asked.shape());
                assert_eq!(answer[0].data(), asked.data(), "{datatype}");
            }
        }
    }
}

#[test]
fn a_string_that_is_not_utf8_is_said() {
    init_onnx_runtime(None, None).unwrap_or_else(|error| panic!("{error}"));
    let mut container = OnnxContainer::open(&identity(8), Device::Cpu, 1).unwrap();
    let words: [&[u8]; 3] = [b"a", &[0xff, 0xfe], b"c"];
    let data = Tensor::from_strings("x", &words).data().clone();
    let tensor = Tensor::new("x", DataType::Bytes, [1, 3], data).unwrap();
    let batch = [Arc::new(Inputs::new(vec![tensor]).unwrap())];
    let error = container.predict_batch(&batch, &["y".into()]).unwrap_err();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}
