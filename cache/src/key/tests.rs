use std::sync::Arc;

use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelVersion, Signature, Tensor, call::call_identity,
};

use super::*;

/// All that a key depends on, in small alphabets, so that near misses are common.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    model: String,
    version: String,
    digest: String,
    outputs: Vec<String>,
    inputs: Vec<(String, DataType, Vec<i64>, Vec<u8>)>,
}

impl Parts {
    fn keys(&self) -> (CacheKey, CacheKey) {
        let model = ModelVersion {
            id: ModelId::new(self.model.as_str(), self.version.as_str()),
            digest: self.digest.as_str().into(),
            signature: Signature::default(),
            cacheable: true,
            max_batch_rows: 0,
        };
        let outputs: Arc<[Arc<str>]> = self.outputs.iter().map(|o| o.as_str().into()).collect();
        let tensors = self
            .inputs
            .iter()
            .map(|(name, datatype, shape, data)| {
                Tensor::new(name, *datatype, shape.clone(), data.clone()).expect("it fits")
            })
            .collect();
        let call = ModelCall {
            identity: call_identity(&model, &outputs),
            model: Arc::new(model),
            inputs: Arc::new(Inputs::new(tensors).expect("they agree")),
            outputs,
            deadline: std::time::Instant::now(),
            max_age: None,
            waiters: None,
            trace: None,
        };
        assert_eq!(CacheKey::private(&call).identity, CacheKey::of(&call).identity);
        (CacheKey::of(&call), CacheKey::private(&call))
    }
}

/// Whether the keys say so; those of all front ends and those of this process must agree.
fn equal(a: &Parts, b: &Parts) -> bool {
    let (a, b) = (a.keys(), b.keys());
    assert_eq!(a.0 == b.0, a.1 == b.1, "the two kinds of keys tell different calls apart");
    a.0 == b.0
}

fn parts() -> Parts {
    Parts {
        model: "digits".into(),
        version: "1".into(),
        digest: "ab".into(),
        outputs: vec!["label".into()],
        inputs: vec![("x".into(), DataType::Uint8, vec![2, 4], vec![7; 8])],
    }
}

#[test]
fn equal_bytes_under_another_description_have_another_key() {
    let base = parts();
    let x = |name: &str, datatype, shape: &[i64]| {
        vec![(name.to_owned(), datatype, shape.to_vec(), vec![7; 8])]
    };
    let variants = [
        ("model", Parts { model: "digit".into(), ..base.clone() }),
        (
            "model and version run together",
            Parts { model: "digit".into(), version: "s1".into(), ..base.clone() },
        ),
        ("version", Parts { version: "2".into(), ..base.clone() }),
        (
            "version and build run together",
            Parts { version: "1a".into(), digest: "b".into(), ..base.clone() },
        ),
        ("build", Parts { digest: String::new(), ..base.clone() }),
        ("outputs", Parts { outputs: vec!["label".into(), "score".into()], ..base.clone() }),
        (
            "outputs run together",
            Parts { outputs: vec!["la".into(), "bel".into()], ..base.clone() },
        ),
        ("no output", Parts { outputs: vec![], ..base.clone() }),
        ("input's name", Parts { inputs: x("y", DataType::Uint8, &[2, 4]), ..base.clone() }),
        ("signedness", Parts { inputs: x("x", DataType::Int8, &[2, 4]), ..base.clone() }),
        ("BOOL", Parts { inputs: x("x", DataType::Bool, &[2, 4]), ..base.clone() }),
        (
            "FP32 of the same bytes",
            Parts { inputs: x("x", DataType::Fp32, &[2, 1]), ..base.clone() },
        ),
        ("shape", Parts { inputs: x("x", DataType::Uint8, &[4, 2]), ..base.clone() }),
        ("rank", Parts { inputs: x("x", DataType::Uint8, &[2, 4, 1]), ..base.clone() }),
        (
            "one tensor split in two",
            Parts {
                inputs: vec![
                    ("x".into(), DataType::Uint8, vec![2, 2], vec![7; 4]),
                    ("y".into(), DataType::Uint8, vec![2, 2], vec![7; 4]),
                ],
                ..base.clone()
            },
        ),
        (
            "one bit",
            Parts {
                inputs: vec![(
                    "x".into(),
                    DataType::Uint8,
                    vec![2, 4],
                    vec![7, 7, 7, 7, 7, 7, 7, 6],
                )],
                ..base.clone()
            },
        ),
    ];
    for (what, variant) in &variants {
        assert!(!equal(variant, &base), "{what}");
    }
    assert!(equal(&base.clone(), &base));
}

#[test]
fn two_tensors_that_swap_their_bytes_have_another_key() {
    let tensor = |name: &str, byte| (name.to_owned(), DataType::Uint8, vec![1, 4], vec![byte; 4]);
    let one = Parts { inputs: vec![tensor("a", 1), tensor("b", 2)], ..parts() };
    let other = Parts { inputs: vec![tensor("a", 2), tensor("b", 1)], ..parts() };
    assert!(!equal(&one, &other));
    let reordered = Parts { inputs: vec![tensor("b", 2), tensor("a", 1)], ..parts() };
    assert!(equal(&one, &reordered), "the order in the request does not matter");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        "[ab]{1,3}"
    }

    fn input() -> impl Strategy<Value = (DataType, Vec<i64>, Vec<u8>)> {
        let datatype = prop_oneof![
            Just(DataType::Uint8),
            Just(DataType::Int8),
            Just(DataType::Uint16),
            Just(DataType::Fp16),
        ];
        (datatype, prop_oneof![Just(vec![2_i64, 2]), Just(vec![2, 4]), Just(vec![2, 2, 2])])
            .prop_flat_map(|(datatype, shape)| {
                let elements: i64 = shape.iter().product();
                let bytes = usize::try_from(elements).unwrap_or(0) * datatype.size().unwrap_or(0);
                (Just(datatype), Just(shape), proptest::collection::vec(0_u8..2, bytes))
            })
    }

    fn any_parts() -> impl Strategy<Value = Parts> {
        (
            name(),
            name(),
            "[ab]{0,2}",
            proptest::collection::btree_set(name(), 0..3),
            proptest::collection::btree_map(name(), input(), 1..3),
        )
            .prop_map(|(model, version, digest, outputs, inputs)| Parts {
                model,
                version,
                digest,
                outputs: outputs.into_iter().collect(),
                inputs: inputs.into_iter().map(|(n, (d, s, b))| (n, d, s, b)).collect(),
            })
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_the_calls_are(a in any_parts(), b in any_parts()) {
            prop_assert_eq!(a == b, equal(&a, &b));
            prop_assert!(equal(&a.clone(), &a));
        }
    }
}
