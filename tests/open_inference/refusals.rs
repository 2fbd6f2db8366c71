//! What is wrong with a request, and how that is said.

use super::*;

type Break = fn(&mut ModelInferRequest);

/// What is wrong, what makes it so, the code, and words that the message must hold.
const CASES: &[(&str, Break, Code, &[&str])] = &[
    (
        "unknown application",
        |r| r.model_name = "absent".into(),
        Code::NotFound,
        &["'absent'", "app"],
    ),
    ("no application", |r| r.model_name.clear(), Code::NotFound, &["''"]),
    ("another version", |r| r.model_version = "2".into(), Code::NotFound, &["'app:2'", "\"1\""]),
    (
        "no signature yet",
        |r| r.model_name = "pending".into(),
        Code::FailedPrecondition,
        &["nobody", "register"],
    ),
    (
        "no live replica and no default",
        |r| r.model_name = "gone".into(),
        Code::Unavailable,
        &["nobody", "no live replica"],
    ),
    (
        "typed beside raw",
        |r| r.inputs[0].contents = typed("app", &[[1.0, 2.0]]).inputs[0].contents.clone(),
        Code::InvalidArgument,
        &["'x'", "beside raw_input_contents", "one of the two"],
    ),
    (
        "an input without its raw entry",
        |r| r.inputs.push(input("y", "FP32", &[1, 1])),
        Code::InvalidArgument,
        &["each of the 2 inputs", "got 1"],
    ),
    (
        "a raw entry too many",
        |r| r.raw_input_contents.push(Bytes::from_static(&[0; 8])),
        Code::InvalidArgument,
        &["each of the 1 inputs", "got 2"],
    ),
    (
        "raw that is cut off",
        |r| r.raw_input_contents[0].truncate(7),
        Code::InvalidArgument,
        &["'x'", "FP32 [1, 2] takes 8 bytes, got 7"],
    ),
    (
        "typed that is too long",
        |r| {
            *r = typed("app", &[[1.0, 2.0], [3.0, 4.0]]);
            r.inputs[0].shape = vec![1, 2];
        },
        Code::InvalidArgument,
        &["'x'", "takes 8 bytes, got 16"],
    ),
    (
        "no contents at all",
        |r| r.raw_input_contents.clear(),
        Code::InvalidArgument,
        &["'x'", "takes 8 bytes, got 0"],
    ),
    (
        "the list of another datatype",
        |r| {
            *r = typed("app", &[[1.0, 2.0]]);
            let contents =
                InferTensorContents { fp64_contents: vec![1.0, 2.0], ..Default::default() };
            r.inputs[0].contents = Some(contents);
        },
        Code::InvalidArgument,
        &["'x'", "another datatype than FP32", "fp32_contents"],
    ),
    (
        "typed FP16",
        |r| {
            *r = typed("app", &[[1.0, 2.0]]);
            r.inputs[0].datatype = "FP16".into();
        },
        Code::InvalidArgument,
        &["'x'", "FP16", "send it raw"],
    ),
    (
        "a number that does not fit",
        |r| {
            r.raw_input_contents.clear();
            r.inputs[0].datatype = "INT8".into();
            let contents = InferTensorContents { int_contents: vec![1, 128], ..Default::default() };
            r.inputs[0].contents = Some(contents);
        },
        Code::InvalidArgument,
        &["128 does not fit INT8"],
    ),
    (
        "BYTES that are cut off",
        |r| {
            r.inputs[0].datatype = "BYTES".into();
            r.raw_input_contents[0] = Bytes::from_static(b"\x01\0\0\0a\x02\0\0\0b");
        },
        Code::InvalidArgument,
        &["'x'", "BYTES element 1 is cut off"],
    ),
    (
        "a BYTES element too few",
        |r| {
            r.inputs[0].datatype = "BYTES".into();
            r.raw_input_contents[0] = Bytes::from_static(b"\x01\0\0\0a");
        },
        Code::InvalidArgument,
        &["'x'", "takes 2 BYTES elements, got 1"],
    ),
    (
        "BOOL of more than a byte",
        |r| r.inputs[0].datatype = "BOOL".into(),
        Code::InvalidArgument,
        &["'x'", "BOOL [1, 2] takes 2 bytes, got 8"],
    ),
    (
        "a datatype that is none",
        |r| r.inputs[0].datatype = "FLOAT".into(),
        Code::InvalidArgument,
        &["'x'", "'FLOAT'", "FP32"],
    ),
    (
        "another datatype",
        |r| r.inputs[0].datatype = "INT32".into(),
        Code::InvalidArgument,
        &["'x'", "expected datatype FP32, got INT32"],
    ),
    (
        "another shape",
        |r| r.inputs[0].shape = vec![2, 1],
        Code::InvalidArgument,
        &["'x'", "expected shape [any, 2], got [2, 1]"],
    ),
    (
        "a negative dimension",
        |r| r.inputs[0].shape = vec![-1, 2],
        Code::InvalidArgument,
        &["'x'", "negative"],
    ),
    (
        "no rows",
        |r| {
            r.inputs[0].shape = vec![0, 2];
            r.raw_input_contents[0] = Bytes::new();
        },
        Code::InvalidArgument,
        &["'x'", "zero rows"],
    ),
    ("no name", |r| r.inputs[0].name.clear(), Code::InvalidArgument, &["no name"]),
    (
        "an input twice",
        |r| {
            r.inputs.push(r.inputs[0].clone());
            r.raw_input_contents.push(r.raw_input_contents[0].clone());
        },
        Code::InvalidArgument,
        &["'x' is given twice"],
    ),
    (
        "an unknown input",
        |r| r.inputs[0].name = "y".into(),
        Code::InvalidArgument,
        &["no input 'y'", "x"],
    ),
    (
        "no input",
        |r| {
            r.inputs.clear();
            r.raw_input_contents.clear();
        },
        Code::InvalidArgument,
        &["missing input: x FP32 [any, 2]"],
    ),
    (
        "an unknown output",
        |r| *r = asking(r.clone(), &["label", "absent"]),
        Code::InvalidArgument,
        &["no output 'absent'", "label, scores"],
    ),
    (
        "classes in place of an output",
        |r| {
            *r = asking(r.clone(), &["scores"]);
            r.outputs[0].parameters.insert("classification".into(), parameter(Int64Param(1)));
        },
        Code::InvalidArgument,
        &["'scores'", "classification"],
    ),
    (
        "a tensor in shared memory",
        |r| {
            let region = parameter(StringParam("region".into()));
            r.inputs[0].parameters.insert("shared_memory_region".into(), region);
        },
        Code::InvalidArgument,
        &["'x'", "shared_memory_region", "in the message"],
    ),
    (
        "features of an application without them",
        |r| {
            r.inputs.push(input(FEATURES, "FP32", &[1]));
            r.raw_input_contents.push(fp32(&[1.0]));
        },
        Code::InvalidArgument,
        &["expected 0 context features, got 1"],
    ),
    (
        "a context that is no string",
        |r| *r = with(r.clone(), &[("context_id", Uint64Param(7))]),
        Code::InvalidArgument,
        &["context_id", "expected a string", "7"],
    ),
    (
        "a negative timeout",
        |r| *r = with(r.clone(), &[("timeout", Int64Param(-5))]),
        Code::InvalidArgument,
        &["timeout", "microseconds", "-5"],
    ),
    (
        "a timeout with a fraction",
        |r| *r = with(r.clone(), &[("timeout", DoubleParam(0.5))]),
        Code::InvalidArgument,
        &["timeout", "microseconds", "0.5"],
    ),
    (
        "a timeout in words",
        |r| *r = with(r.clone(), &[("timeout", StringParam("5".into()))]),
        Code::InvalidArgument,
        &["timeout", "microseconds", "'5'"],
    ),
];

#[tokio::test]
async fn wrong_requests_are_refused_with_code_and_message_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(CONFIG, folder.path()).await;
    for (what, change, code, words) in CASES {
        let mut request = raw("app", &[[1.0, 2.0]]);
        change(&mut request);
        let refused = infer(&server, request).await.expect_err(what);
        assert_eq!(refused.code(), *code, "{what}: {refused}");
        for word in *words {
            assert!(refused.message().contains(word), "{what}: '{word}' in: {refused}");
        }
    }
    assert!(infer(&server, raw("app", &[[1.0, 2.0]])).await.is_ok());
    let of = |code: Code| CASES.iter().filter(move |case| case.2 == code).count() as f64;
    assert_eq!(replies(&server, "app", "INVALID_ARGUMENT").await, of(Code::InvalidArgument));
    assert_eq!(replies(&server, "unknown", "NOT_FOUND").await, 2.0);
    assert_eq!(replies(&server, "app", "NOT_FOUND").await, 1.0);
    assert_eq!(replies(&server, "pending", "FAILED_PRECONDITION").await, 1.0);
    assert_eq!(replies(&server, "gone", "UNAVAILABLE").await, 1.0);
    assert_eq!(server.metric("skysail_requests_total{").await, CASES.len() as f64 + 1.0);
    // What the protocol counts is what was replied.
    let stats = statistics(&server, "app").await.inference_stats.unwrap();
    assert_eq!(stats.success.unwrap().count, 1);
    assert_eq!(stats.fail.unwrap().count as f64, of(Code::InvalidArgument) + 1.0);
}
