//! A kept answer is the model's own, byte for byte; and no two calls that differ share one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::Arc,
    time::Instant,
};

use common::{FrontEnd, LONG, redis::RedisServer, version};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use skysail_proto::{DataType, Inputs, ModelCall, Tensor, call::call_identity};

const DATATYPES: [DataType; 6] = [
    DataType::Bool,
    DataType::Int16,
    DataType::Fp32,
    DataType::Int64,
    DataType::Bf16,
    DataType::Bytes,
];

/// Tensors of the same number of rows under different names, of any type and shape.
fn inputs() -> impl Strategy<Value = Vec<Tensor>> {
    let tensor = |rows: i64| {
        let shape = proptest::collection::vec(0_i64..4, 0..3);
        let shape = shape.prop_map(move |rest| [&[rows], &rest[..]].concat());
        (select(&DATATYPES), shape).prop_flat_map(|(datatype, shape)| {
            let elements = usize::try_from(shape.iter().product::<i64>()).unwrap();
            let element = datatype.size().unwrap_or(6);
            proptest::collection::vec(any::<u8>(), elements * element).prop_map(move |mut data| {
                if datatype == DataType::Bytes {
                    // Each element is two bytes long.
                    data.chunks_mut(6).for_each(|e| e[..4].copy_from_slice(&2_u32.to_le_bytes()));
                }
                (datatype, shape.clone(), data)
            })
        })
    };
    (1_i64..4)
        .prop_flat_map(move |rows| {
            proptest::collection::btree_map("[a-z]{1,8}", tensor(rows), 1..4)
        })
        .prop_map(|tensors| {
            let named = tensors.into_iter();
            named
                .map(|(name, (datatype, shape, data))| {
                    Tensor::new(name, datatype, shape, data).unwrap()
                })
                .collect()
        })
}

fn call(model: (&str, &str, &str), outputs: &[&str], inputs: Vec<Tensor>) -> ModelCall {
    let model = version(model.0, model.1, model.2);
    let outputs: Arc<[Arc<str>]> = outputs.iter().map(|&output| output.into()).collect();
    ModelCall {
        identity: call_identity(&model, &outputs),
        model,
        inputs: Arc::new(Inputs::new(inputs).unwrap()),
        outputs,
        deadline: Instant::now() + LONG,
        max_age: Some(LONG),
        waiters: None,
        trace: None,
    }
}

/// The seed of a failure is printed; cases are few, since each starts from what is in Redis.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    })
}

#[test]
fn cached_and_uncached_answers_are_byte_equal() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = RedisServer::start();
    let (writer, reader, tiered) = runtime.block_on(async {
        let url = redis.url();
        (
            FrontEnd::redis_alone(&url).await,
            FrontEnd::redis_alone(&url).await,
            FrontEnd::over(&url).await,
        )
    });
    let written = Cell::new(0);
    let outputs = proptest::collection::vec(select(&["p", "q", "pq"][..]), 0..3);
    let cases = (inputs(), outputs);
    let tested = runner(200).run(&cases, |(inputs, outputs)| {
        runtime.block_on(async {
            let call = || call(("m", "1", "d"), &outputs, inputs.clone());
            let plain = writer.model.answer(&call());
            let first = writer.ask(call()).await;
            prop_assert_eq!(&first.outputs, &plain);
            written.set(written.get() + u64::from(!first.cached));
            writer.written(written.get()).await;
            // From Redis, from Redis into memory, and from memory.
            for front_end in [&reader, &tiered, &tiered] {
                let kept = front_end.ask(call()).await;
                prop_assert!(kept.cached);
                prop_assert_eq!(&kept.outputs, &plain);
            }
            Ok(())
        })
    });
    tested.unwrap();
    assert_eq!((reader.model.asked(), tiered.model.asked()), (0, 0));
    assert_eq!(reader.redis().corrupt, 0);
}

/// Models, versions, builds, outputs, names, datatypes and shapes over the same bytes, from
/// alphabets so small that they often run into one another.
fn same_bytes() -> impl Strategy<Value = Vec<ModelCall>> {
    let name = || select(&["a", "b", "ab", "a1", ""][..]);
    let kinds = [
        (DataType::Uint8, vec![2, 4]),
        (DataType::Uint8, vec![1, 8]),
        (DataType::Uint8, vec![8]),
        (DataType::Int8, vec![2, 4]),
        (DataType::Bool, vec![8, 1]),
        (DataType::Fp32, vec![2, 1]),
        (DataType::Fp32, vec![1, 2]),
        (DataType::Int64, vec![1]),
    ];
    let call = (
        (name(), select(&["1", "2", "11"][..]), name()),
        proptest::collection::btree_set(name(), 0..3),
        name(),
        select(kinds.to_vec()),
    )
        .prop_map(|(model, outputs, input, (datatype, shape))| {
            let outputs: Vec<&str> = outputs.into_iter().collect();
            let x = Tensor::new(input, datatype, shape, vec![1; 8]).unwrap();
            call(model, &outputs, vec![x])
        });
    proptest::collection::vec(call, 1..40)
}

#[test]
fn calls_that_differ_never_share_an_answer() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = RedisServer::start();
    let (writer, reader) = runtime.block_on(async {
        (FrontEnd::redis_alone(&redis.url()).await, FrontEnd::redis_alone(&redis.url()).await)
    });
    let written = Cell::new(0);
    // Told apart by all that they are, not by their keys.
    let seen = RefCell::new(HashSet::new());
    let tested = runner(40).run(&same_bytes(), |calls| {
        runtime.block_on(async {
            for call in calls {
                let what = format!(
                    "{:?} {:?} {:?} {:?}",
                    call.model.id,
                    call.model.digest,
                    call.outputs,
                    call.inputs.tensors()
                );
                let right = writer.model.answer(&call);
                let new = seen.borrow_mut().insert(what.clone());
                for front_end in [&writer, &reader] {
                    let got = front_end.ask(call.clone()).await;
                    prop_assert_eq!(&got.outputs, &right);
                    // The writer computes each once; the reader finds what it wrote.
                    let first = new && std::ptr::eq(front_end, &writer);
                    prop_assert_eq!(got.cached, !first, "{}", what);
                    written.set(written.get() + u64::from(first));
                    writer.written(written.get()).await;
                }
            }
            Ok(())
        })
    });
    tested.unwrap();
}
