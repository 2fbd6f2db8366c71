use proptest::prelude::*;

use super::*;

fn spec(datatype: DataType, shape: &[i64]) -> Spec<'_> {
    Spec { name: "x", datatype, shape }
}

fn fp32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn flat_and_nested_lists_are_the_same_tensor() {
    let expected = fp32(&[1.0, -2.5, 3e-3, 4.0, 5.0, 6.0]);
    for json in [
        "[1,-2.5,3e-3,4,5,6.0]",
        " [ [ [ 1 , -2.5 , 3E-3 ] ,\n [ 4 , 5 , 6 ] ] ] ",
        "[[[1,-2.5,0.003],[4,5,6]]]",
    ] {
        assert_eq!(read(spec(DataType::Fp32, &[1, 2, 3]), json).unwrap(), expected, "{json}");
    }
}

#[test]
fn empty_lists_are_tensors_of_no_element() {
    for (json, shape) in
        [("[]", &[0][..]), ("[]", &[0, 4]), ("[[],[]]", &[2, 0]), ("[ [ ] ]", &[1, 0])]
    {
        assert!(read(spec(DataType::Int8, shape), json).unwrap().is_empty(), "{json}");
    }
    assert!(read(spec(DataType::Int8, &[1, 0, 3]), "[[]]").unwrap().is_empty());
}

#[test]
fn a_wrong_nesting_is_refused_with_its_place() {
    for (shape, json, expected) in [
        (&[2, 2][..], "[1,2,3]", "shape [2, 2] takes 4 elements, got 3"),
        (&[2, 2], "[[1,2],[3]]", "data[1] has 1 members, but shape [2, 2] asks for 2 there"),
        (&[2, 2], "[[1,2]]", "data has 1 members, but shape [2, 2] asks for 2 there"),
        (&[2, 2], "[[1,2],3]", "data[1]: expected a list"),
        (&[2, 2], "[[1,2],[]]", "data[1] has 0 members"),
        (&[2, 2], "[1,[2]]", "data is nested deeper or less evenly than shape [2, 2]"),
        (&[2, 1], "[[[1]],[[2]]]", "data is nested deeper or less evenly than shape [2, 1]"),
        (&[2], "[[1,2]]", "data is nested deeper than shape [2]"),
        (&[1, 1, 2], "[[1,2]]", "data[0][0]: expected a list"),
        (
            &[1, 2, 1],
            "[[[1],[2],[3]]]",
            "data[0] has 3 members, but shape [1, 2, 1] asks for 2 there",
        ),
        (&[2, 2, 1], "[[[1],[2]],[[3],4]]", "data[1][1]: expected a list"),
        (&[1, 2, 2], "[[[1,2],[3,4,5]]]", "data[0][1] has 3 members"),
        (&[-1, 2], "[1,2]", "shape [any, 2] has a negative dimension"),
        (&[i64::MAX, i64::MAX], "[1,2]", "is too large"),
        (&[1], "3", "data: expected a list, got 3"),
        (&[1], "{\"a\":1}", "data: expected a list, got an object"),
    ] {
        let refused = read(spec(DataType::Fp32, shape), json).unwrap_err().0;
        assert!(refused.starts_with("input 'x': "), "{refused}");
        assert!(refused.contains(expected), "{json}: {refused}");
    }
}

#[test]
fn an_element_that_does_not_fit_is_refused_with_its_place() {
    for (datatype, json, expected) in [
        (DataType::Int8, "[1,300]", "element 1: 300 does not fit INT8, which takes -128 to 127"),
        (DataType::Uint8, "[1,-1]", "element 1: -1 does not fit UINT8, which takes 0 to 255"),
        (DataType::Int64, "[1,9223372036854775808]", "9223372036854775808 does not fit INT64"),
        (DataType::Uint64, "[18446744073709551616,1]", "element 0: 18446744073709551616"),
        (DataType::Int32, "[1,2.0]", "element 1: expected a whole number, got 2.0"),
        (DataType::Int32, "[1,1e2]", "element 1: expected a whole number, got 1e2"),
        (DataType::Int32, "[1,\"2\"]", "element 1: expected a whole number, got \"2\""),
        (DataType::Int32, "[1,true]", "element 1: expected a whole number, got true"),
        (DataType::Fp32, "[1,1e39]", "element 1: 1e39 does not fit FP32"),
        (DataType::Fp64, "[1,-1e999]", "element 1: -1e999 does not fit FP64"),
        (DataType::Fp32, "[1,null]", "element 1: expected a number, got null; NaN"),
        (DataType::Fp32, "[1,{\"a\":2}]", "element 1: expected a number, got an object"),
        (DataType::Bool, "[true,1]", "element 1: expected true or false, got 1"),
        (DataType::Bytes, "[\"a\",1]", "element 1: expected a string, got 1"),
        (DataType::Fp16, "[1,2]", "FP16 has no JSON form; send it as binary data"),
        (DataType::Bf16, "[1,2]", "BF16 has no JSON form; send it as binary data"),
    ] {
        let refused = read(spec(datatype, &[2]), json).unwrap_err().0;
        assert!(refused.contains(expected), "{json}: {refused}");
    }
}

#[test]
fn the_ends_of_each_range_fit() {
    for (datatype, json, expected) in [
        (DataType::Int8, "[-128,127]", vec![0x80, 0x7f]),
        (DataType::Uint8, "[0,255]", vec![0, 255]),
        (DataType::Int16, "[-32768,-0]", vec![0, 0x80, 0, 0]),
        (DataType::Uint16, "[65535,1]", vec![0xff, 0xff, 1, 0]),
        (DataType::Bool, "[true,false]", vec![1, 0]),
        (DataType::Bytes, r#"["é\n","]"]"#, b"\x03\0\0\0\xc3\xa9\n\x01\0\0\0]".to_vec()),
        (DataType::Bytes, r#"["\"\\","\u00e9"]"#, b"\x02\0\0\0\"\\\x02\0\0\0\xc3\xa9".to_vec()),
    ] {
        assert_eq!(read(spec(datatype, &[2]), json).unwrap(), expected, "{json}");
    }
}

#[test]
fn a_shape_alone_takes_no_memory() {
    let refused = read(spec(DataType::Fp64, &[1 << 50]), "[1]").unwrap_err().0;
    assert!(refused.contains("takes 1125899906842624 elements, got 1"), "{refused}");
}

#[test]
fn what_json_does_not_have_is_null_or_refused() {
    let values = fp32(&[f32::NAN, f32::INFINITY, 1.5, -0.0]);
    let tensor = Tensor::new("y", DataType::Fp32, [4], values).unwrap();
    assert_eq!(serde_json::to_string(&Flat(&tensor)).unwrap(), "[null,null,1.5,-0.0]");
    let tensor = Tensor::new("y", DataType::Fp16, [1], vec![0, 0]).unwrap();
    assert!(check(&tensor).unwrap_err().0.contains("'y': FP16 has no JSON form"));
    let tensor = Tensor::from_strings("y", &[&b"a"[..], b"\xff"]);
    let refused = check(&tensor).unwrap_err().0;
    assert!(refused.contains("element 1 is not UTF-8"), "{refused}");
    assert!(refused.contains("binary_data"), "{refused}");
}

pub(in super::super) fn tensors(json: bool) -> impl Strategy<Value = Tensor> {
    let numbers = vec![
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
    let halves = vec![DataType::Fp16, DataType::Bf16];
    let datatypes = if json { numbers } else { [numbers, halves].concat() };
    let shapes = prop::collection::vec(0_i64..4, 1..4);
    (prop::sample::select(datatypes), shapes, any::<u64>()).prop_flat_map(
        move |(datatype, shape, _)| {
            let elements = shape.iter().product::<i64>() as usize;
            match datatype.size() {
                Some(size) => prop::collection::vec(any::<u8>(), elements * size)
                    .prop_map(move |mut data| {
                        if datatype == DataType::Bool {
                            data.iter_mut().for_each(|byte| *byte &= 1);
                        }
                        if json {
                            finite(datatype, &mut data);
                        }
                        Tensor::new("x", datatype, shape.clone(), data).unwrap()
                    })
                    .boxed(),
                None => prop::collection::vec(".{0,5}", elements)
                    .prop_map(move |strings| {
                        let data = Tensor::from_strings("x", &strings).data().clone();
                        Tensor::new("x", datatype, shape.clone(), data).unwrap()
                    })
                    .boxed(),
            }
        },
    )
}

/// Clears a bit of the exponent of what JSON cannot write.
fn finite(datatype: DataType, data: &mut [u8]) {
    let size = match datatype {
        DataType::Fp32 => 4,
        DataType::Fp64 => 8,
        _ => return,
    };
    for element in data.chunks_mut(size) {
        element[size - 1] &= 0b1011_1111;
    }
}

/// The list nested as the shape says.
fn nested(flat: &mut std::vec::IntoIter<serde_json::Value>, shape: &[i64]) -> serde_json::Value {
    match shape {
        [] => flat.next().unwrap(),
        [first, rest @ ..] => (0..*first).map(|_| nested(flat, rest)).collect(),
    }
}

proptest! {
    #[test]
    fn tensors_survive_json(tensor in tensors(true)) {
        let json = serde_json::to_string(&Flat(&tensor)).unwrap();
        let spec = spec(tensor.datatype(), tensor.shape());
        prop_assert_eq!(&read(spec, &json).unwrap(), tensor.data());
        // Floats keep their digits, which a parsed value could lose.
        if !matches!(tensor.datatype(), DataType::Fp32 | DataType::Fp64) {
            let flat: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
            let nested = nested(&mut flat.into_iter(), tensor.shape()).to_string();
            prop_assert_eq!(&read(spec, &nested).unwrap(), tensor.data());
        }
    }

    #[test]
    fn any_json_is_read_or_refused(
        json in json(),
        shape in prop::collection::vec(0_i64..3, 0..4),
    ) {
        for datatype in [DataType::Fp32, DataType::Int8, DataType::Bytes] {
            if let Ok(data) = read(spec(datatype, &shape), &json) {
                prop_assert!(Tensor::new("x", datatype, shape.clone(), data).is_ok());
            }
        }
    }
}

/// Valid JSON with lists in it.
fn json() -> impl Strategy<Value = String> {
    let leaf =
        prop::sample::select(vec!["1", "-2.5", "\"a\"", " null", "true ", "{\"a\": [1, 2]}"]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 32, 3, |inner| {
        let members = prop::collection::vec(inner, 0..3);
        members.prop_map(|members| format!("[{}]", members.join(" , ")))
    })
}
