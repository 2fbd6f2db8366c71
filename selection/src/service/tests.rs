//! A query's way through selection, in paused time.

mod contexts;
mod drawn;
mod features;
pub(crate) mod fixture;

use std::time::Duration;

use skysail_proto::{
    Code, DataType, Inputs, ModelId, PredictError, Tensor, TensorSpec, error::LateReason,
};
use tokio::time::Instant;
use tower::ServiceExt;

use self::fixture::{Does, Fixture, OBJECTIVE, labels, query, read};
use crate::{Outcome, RowStatus, Status, Task, store::Mask};

fn outcomes(prediction: &crate::Prediction) -> Vec<(&str, Outcome)> {
    prediction.contributions.iter().map(|c| (&*c.arm, c.outcome)).collect()
}

fn late() -> Does {
    Does::SaysAfter(0, Duration::from_secs(10))
}

fn broken() -> Does {
    Does::Fails(PredictError::Container { model: ModelId::new("m", "1"), why: "boom".into() })
}

#[tokio::test(start_paused = true)]
async fn all_arms_in_time_answer_and_leave_a_record() {
    let fixture = Fixture::new("hedge", 3);
    fixture.models.set("c", Does::Says(1));
    let prediction = fixture.open().await.oneshot(query(2, "")).await.unwrap();
    assert_eq!(prediction.status, Status::Answered);
    assert_eq!(&*prediction.reason, "");
    assert_eq!(read(&prediction.outputs[0]), [1, 1]);
    assert_eq!(
        outcomes(&prediction),
        [("a", Outcome::Used), ("b", Outcome::Used), ("c", Outcome::Used)]
    );
    assert!(prediction.contributions.iter().all(|c| c.propensity == 1.0 && c.cached));
    let weight: f64 = prediction.contributions.iter().map(|c| c.weight).sum();
    assert!((weight - 1.0).abs() < 1e-12);

    let records = fixture.log.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].id, prediction.decision_id);
    assert_eq!(&*records[0].policy, "hedge");
    assert_eq!(records[0].arms[2].labels, vec![Some(crate::Label::Int(1)); 2]);
    assert_eq!(&*records[0].arms[2].version, "1");
    assert_eq!(records[0].answer.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_straggler_is_left_out_at_the_deadline() {
    let fixture = Fixture::new("hedge", 2);
    fixture.models.set("b", late());
    let selector = fixture.open().await;
    let start = Instant::now();
    let prediction = selector.predict(query(1, "")).await.unwrap();
    // A tick of the timer sooner, so that it is no later on a real clock.
    assert!((OBJECTIVE - Duration::from_millis(1)..=OBJECTIVE).contains(&start.elapsed()));
    assert_eq!(prediction.status, Status::Partial);
    assert_eq!(&*prediction.reason, "b: no answer at the deadline");
    assert_eq!(outcomes(&prediction), [("a", Outcome::Used), ("b", Outcome::Late)]);
    assert_eq!(prediction.confidence, [0.5]);
    assert_eq!(fixture.log.records()[0].arms[1].outcome, Outcome::Late);
    // The last hundred times count, and it was asked once.
    let view = selector.selection("").await.unwrap();
    assert_eq!(view.arms[0].availability, 1.0);
    assert!((view.arms[1].availability - 0.98).abs() < 1e-12);
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_is_in_before_the_deadline_is_waited_for_and_no_longer() {
    let fixture = Fixture::new("hedge", 2);
    let after = Duration::from_millis(5);
    fixture.models.set("b", Does::SaysAfter(1, after));
    let selector = fixture.open().await;
    let start = Instant::now();
    let prediction = selector.predict(query(1, "")).await.unwrap();
    assert_eq!((prediction.status, start.elapsed()), (Status::Answered, after));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_answered_the_default_is_given_or_the_reason_told() {
    let dropped = || Does::Fails(PredictError::overloaded("the queue of m:1 is full", OBJECTIVE));
    let expired = || {
        let model = ModelId::new("m", "1");
        Does::Fails(PredictError::Late { model, why: LateReason::Queued })
    };
    let lost = || {
        let model = ModelId::new("m", "1");
        Does::Fails(PredictError::ReplicaLost { model, why: "gone".into() })
    };
    let cases = [
        ([late(), late()], Code::DeadlineExceeded, [Outcome::Late; 2]),
        ([late(), expired()], Code::DeadlineExceeded, [Outcome::Late, Outcome::Dropped]),
        ([dropped(), expired()], Code::DeadlineExceeded, [Outcome::Dropped; 2]),
        ([dropped(), dropped()], Code::ResourceExhausted, [Outcome::Dropped; 2]),
        ([late(), broken()], Code::DeadlineExceeded, [Outcome::Late, Outcome::Failed]),
        ([broken(), broken()], Code::Internal, [Outcome::Failed; 2]),
        ([broken(), Does::Gives(Vec::new())], Code::Internal, [Outcome::Failed; 2]),
        ([lost(), lost()], Code::Unavailable, [Outcome::Failed; 2]),
    ];
    for ([a, b], code, expected) in cases {
        let fixture = Fixture::new("hedge", 2);
        fixture.models.set("a", a.clone()).set("b", b.clone());
        let error = fixture.open().await.predict(query(2, "")).await.unwrap_err();
        assert_eq!(error.code(), code, "{a:?} {b:?}: {error}");

        let fixture = fixture.with_default(9);
        let prediction = fixture.open().await.predict(query(2, "")).await.unwrap();
        assert_eq!(prediction.status, Status::Default);
        assert_eq!(read(&prediction.outputs[0]), [9, 9]);
        assert_eq!(prediction.row_status, [RowStatus::Default; 2]);
        assert_eq!(outcomes(&prediction), [("a", expected[0]), ("b", expected[1])]);
        assert!(prediction.reason.starts_with("a: "), "{}", prediction.reason);
        assert!(fixture.log.records()[0].answer.iter().all(|row| row.default));
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_arm_takes_is_refused_even_where_there_is_a_default() {
    let fixture = Fixture::new("hedge", 2).with_default(9);
    let too_many = || Does::Fails(PredictError::invalid("expected at most 1 row, got 2"));
    fixture.models.set("a", too_many()).set("b", too_many());
    let selector = fixture.open().await;
    let error = selector.predict(query(2, "")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(selector.selection("").await.unwrap().arms[0].availability, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_masked_arm_is_not_asked_and_that_alone_is_not_partial() {
    let fixture = Fixture::new("hedge", 2);
    fixture.models.mask("a", Mask::NoLiveReplica);
    let prediction = fixture.open().await.predict(query(1, "")).await.unwrap();
    assert_eq!(prediction.status, Status::Answered);
    assert_eq!(outcomes(&prediction), [("a", Outcome::Masked), ("b", Outcome::Used)]);
    assert_eq!(&*prediction.contributions[0].reason, "no live replica");
    assert_eq!(prediction.contributions[0].propensity, 0.0);
    assert_eq!(fixture.models.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_all_are_masked_the_default_is_given_or_the_reason_told() {
    let cases = [
        (Some(Mask::NoLiveReplica), Some(Mask::NoLiveReplica), Code::Unavailable),
        (Some(Mask::PredictedLate), Some(Mask::PredictedLate), Code::ResourceExhausted),
        (Some(Mask::NoLiveReplica), Some(Mask::PredictedLate), Code::ResourceExhausted),
    ];
    for (a, b, code) in cases {
        let fixture = Fixture::new("hedge", 2);
        for (arm, mask) in [("a", a), ("b", b)] {
            mask.map(|mask| fixture.models.mask(arm, mask));
        }
        let error = fixture.open().await.predict(query(1, "")).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let fixture = fixture.with_default(9);
        let prediction = fixture.open().await.predict(query(1, "")).await.unwrap();
        assert_eq!(prediction.status, Status::Default);
        assert_eq!(outcomes(&prediction), [("a", Outcome::Masked), ("b", Outcome::Masked)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_arm_without_a_model_is_masked() {
    let mut fixture = Fixture::new("hedge", 1);
    let unknown = crate::Arm { name: "z".into(), ..fixture.application.arms[0].clone() };
    fixture.application.arms.push(unknown);
    let prediction = fixture.open().await.predict(query(1, "")).await.unwrap();
    assert_eq!(outcomes(&prediction), [("a", Outcome::Used), ("z", Outcome::Masked)]);
    assert_eq!(&*prediction.contributions[1].reason, "not registered");
    assert_eq!(prediction.contributions[1].model, None);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_no_number_fails_alone() {
    let mut fixture = Fixture::new("hedge", 2);
    let name = "value".to_owned();
    fixture.application.task = Task::Regression;
    fixture.application.outputs =
        vec![TensorSpec { name, datatype: DataType::Fp32, shape: vec![-1] }];
    fixture.application.label_output = Some("value".into());
    let give = |values: [f32; 2]| {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Does::Gives(vec![Tensor::new("value", DataType::Fp32, [2], data).unwrap()])
    };
    fixture.models.set("a", give([1.0, f32::NAN])).set("b", give([3.0, 4.0]));
    let prediction = fixture.open().await.predict(query(2, "")).await.unwrap();
    assert_eq!(prediction.status, Status::Answered);
    assert_eq!(outcomes(&prediction), [("a", Outcome::Used), ("b", Outcome::Used)]);
    assert_eq!(fixture.log.records()[0].arms[0].labels[1], None);
    assert_eq!(prediction.confidence, [1.0, 0.5]);

    fixture.models.set("b", give([f32::NAN; 2]));
    let error = fixture.open().await.predict(query(2, "")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    fixture.models.set("a", give([f32::NAN; 2]));
    let error = fixture.open().await.predict(query(2, "")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_room_for_the_record_refuses_even_where_there_is_a_default() {
    let fixture = Fixture::new("hedge", 1).with_default(9);
    fixture.log.set_full(true);
    let error = fixture.open().await.predict(query(1, "")).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(fixture.models.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn links_rename_and_arms_without_share_the_inputs() {
    let mut fixture = Fixture::new("hedge", 3);
    let spec =
        |name: &str| TensorSpec { name: name.into(), ..fixture.application.outputs[0].clone() };
    fixture.application.outputs = vec![spec("label"), spec("extra")];
    let arm = &mut fixture.application.arms[1];
    arm.inputs = vec![("x".into(), "input_1".into())];
    arm.outputs = vec![("label".into(), "zz".into()), ("extra".into(), "aa".into())];
    let give = |first: (&str, i64), second: (&str, i64)| {
        Does::Gives(vec![labels(first.0, &[first.1]), labels(second.0, &[second.1])])
    };
    let models = &fixture.models;
    models.set("a", give(("extra", 10), ("label", 1)));
    models.set("b", give(("aa", 10), ("zz", 1)));
    models.set("c", give(("extra", 10), ("label", 1)));
    let query = query(1, "");
    let selector = fixture.open().await;
    let prediction = selector.predict(query.clone()).await.unwrap();
    assert_eq!(prediction.status, Status::Answered, "{}", prediction.reason);
    let names: Vec<_> = prediction.outputs.iter().map(Tensor::name).collect();
    assert_eq!(names, ["label", "extra"]);
    assert_eq!(read(&prediction.outputs[0]), [1]);
    assert_eq!(read(&prediction.outputs[1]), [10]);

    let calls = models.calls();
    assert!(std::ptr::eq::<Inputs>(&*calls[0].inputs, &*query.inputs));
    assert!(std::ptr::eq::<Inputs>(&*calls[2].inputs, &*query.inputs));
    assert_eq!(calls[1].inputs.tensors()[0].name(), "input_1");
    assert_eq!(*calls[0].outputs, ["extra".into(), "label".into()]);
    assert_eq!(*calls[1].outputs, ["aa".into(), "zz".into()]);
    assert_ne!(calls[0].identity, calls[1].identity);
    assert_eq!(calls[0].max_age, fixture.application.max_age);
}

/// Every use of a timer panics in this runtime.
#[test]
fn a_kept_answer_needs_no_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fixture = Fixture::new("hedge", 2);
    runtime.block_on(async {
        let prediction = fixture.open().await.predict(query(1, "")).await.unwrap();
        assert_eq!(prediction.status, Status::Answered);
    });
}

#[tokio::test(start_paused = true)]
async fn a_split_of_70_to_30_is_recorded_and_drawn_as_such() {
    let mut fixture = Fixture::new("static", 2);
    fixture.application.policy_parameters = vec![("a".into(), 70.0), ("b".into(), 30.0)];
    let selector = fixture.open().await;
    let mut first = 0;
    for _ in 0..2000 {
        let prediction = selector.predict(query(1, "")).await.unwrap();
        let [asked] = &*prediction.contributions else { panic!("one arm is asked") };
        let expected = if &*asked.arm == "a" { 0.7 } else { 0.3 };
        assert!((asked.propensity - expected).abs() < 1e-12);
        first += u32::from(&*asked.arm == "a");
    }
    // Five standard errors.
    assert!((1297..=1503).contains(&first), "{first} of 2000");
}
