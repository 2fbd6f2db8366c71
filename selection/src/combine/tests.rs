//! Reading, combining and judging answers.

mod drawn;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use skysail_proto::TensorSpec;

use super::*;
use crate::{ArmRecord, DecisionId, DecisionRecord, Loss, Outcome};

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
}

fn application(task: Task, outputs: Vec<TensorSpec>) -> Application {
    let has = |name: &str| outputs.iter().any(|o| o.name == name).then(|| Arc::from(name));
    Application {
        name: "app".into(),
        inputs: Vec::new(),
        label_output: has("label"),
        scores_output: has("scores"),
        outputs,
        objective: Duration::from_millis(20),
        slack: Duration::from_millis(1),
        task,
        class_labels: Vec::new(),
        loss: Loss::ZeroOne,
        loss_cap: 1.0,
        policy_name: "hedge".into(),
        policy_parameters: Vec::new(),
        shadow: None,
        confidence_threshold: 0.0,
        default_output: Vec::new(),
        arms: Vec::new(),
        max_age: None,
        feedback_window: Duration::from_secs(60),
        context_features_dim: 0,
    }
}

fn combiner(application: Application) -> Combiner {
    Combiner::new(Arc::new(application))
}

fn ints(name: &str, values: &[i64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor::new(name, DataType::Int64, [values.len() as i64], data).unwrap()
}

fn reals(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor::new(name, DataType::Fp32, shape, data).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn longs(tensor: &Tensor) -> Vec<i64> {
    tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// What the arms said, each with its weight; `late` is the weight of those that did not.
fn combine(of: &Combiner, rows: usize, said: &[(f64, Vec<Tensor>)], late: f64) -> Combined {
    let read = |(_, tensors): &(f64, Vec<Tensor>)| of.read(tensors, rows).unwrap();
    let answers: Vec<ArmAnswer> = said.iter().map(read).collect();
    let got = said.iter().zip(&answers).enumerate();
    let got: Vec<Got<'_>> = got
        .map(|(arm, ((weight, tensors), answer))| Got { arm, weight: *weight, answer, tensors })
        .collect();
    let weight = late + said.iter().map(|(weight, _)| weight).sum::<f64>();
    of.combine(rows, &got, Chosen { arms: said.len() + usize::from(late > 0.0), weight }, None)
}

fn close(got: &[f32], want: &[f32]) {
    let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6);
    assert!(near && got.len() == want.len(), "got {got:?}, want {want:?}");
}

#[test]
fn labels_are_voted_by_weight() {
    let of = combiner(application(
        Task::Classification,
        vec![spec("label", DataType::Int64, &[-1]), spec("note", DataType::Bytes, &[-1])],
    ));
    let said = [
        (0.4, vec![ints("y", &[1, 1]), Tensor::from_strings("n", &["a0", "a1"])]),
        (0.3, vec![ints("y", &[2, 1]), Tensor::from_strings("n", &["b0", "b1"])]),
        (0.2, vec![ints("y", &[2, 3]), Tensor::from_strings("n", &["", "c1"])]),
    ];
    let got = combine(&of, 2, &said, 0.1);
    assert_eq!(longs(&got.outputs[0]), [2, 1]);
    close(&got.confidence, &[0.5, 0.7]);
    // The note is of the best that agrees.
    let notes: Vec<Bytes> = got.outputs[1].bytes_elements().collect();
    assert_eq!(notes, ["b0", "a1"]);
    assert_eq!(got.outputs[0].name(), "label");
    assert_eq!((got.reason, got.missing, got.any_answered), ("", 0, true));
    let labels: Vec<_> = got.answers.iter().map(|row| row.label.clone()).collect();
    assert_eq!(labels, [Some(Label::Int(2)), Some(Label::Int(1))]);
}

#[test]
fn a_vote_of_equals_goes_to_the_first() {
    let of =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1])]));
    let said = [(0.5, vec![ints("y", &[8])]), (0.5, vec![ints("y", &[7])])];
    assert_eq!(longs(&combine(&of, 1, &said, 0.0).outputs[0]), [8]);
    // Without any weight all count the same.
    let said =
        [(0.0, vec![ints("y", &[8])]), (0.0, vec![ints("y", &[7])]), (0.0, vec![ints("y", &[7])])];
    let got = combine(&of, 1, &said, 0.0);
    assert_eq!(longs(&got.outputs[0]), [7]);
    close(&got.confidence, &[2.0 / 3.0]);
    // The smallest weights there are decide by their ratio.
    let said = [(4e-308, vec![ints("y", &[8])]), (8e-308, vec![ints("y", &[7])])];
    assert_eq!(longs(&combine(&of, 1, &said, 1.0).outputs[0]), [7]);
}

fn digits() -> Application {
    let outputs =
        vec![spec("scores", DataType::Fp32, &[-1, 3]), spec("label", DataType::Bytes, &[-1])];
    Application {
        class_labels: vec!["cat".into(), "dog".into(), "owl".into()],
        ..application(Task::Classification, outputs)
    }
}

fn animal(scores: &[f32], label: &str) -> Vec<Tensor> {
    vec![reals("p", &[1, 3], scores), Tensor::from_strings("l", &[label])]
}

#[test]
fn probabilities_are_averaged() {
    let of = combiner(digits());
    let said = [
        (0.5, animal(&[0.6, 0.4, 0.0], "cat")),
        (0.25, animal(&[0.0, 0.9, 0.1], "dog")),
        // Not probabilities: it votes by its label.
        (0.25, animal(&[9.0, 1.0, -3.0], "cat")),
    ];
    let got = combine(&of, 1, &said, 0.0);
    close(&floats(&got.outputs[0]), &[0.55, 0.425, 0.025]);
    assert_eq!(got.outputs[0].shape(), [1, 3]);
    assert_eq!(got.outputs[1].bytes_elements().next().unwrap(), "cat");
    close(&got.confidence, &[0.75]);
}

#[test]
fn the_mean_may_say_what_no_arm_says() {
    let of = combiner(digits());
    let said = [(0.5, animal(&[0.55, 0.45, 0.0], "cat")), (0.5, animal(&[0.0, 0.45, 0.55], "owl"))];
    let got = combine(&of, 1, &said, 0.0);
    assert_eq!(got.answers[0].label, Some(Label::Text("dog".into())));
    assert_eq!(got.outputs[1].bytes_elements().next().unwrap(), "dog");
    close(&got.confidence, &[0.0]);
}

#[test]
fn without_probabilities_scores_are_those_of_the_best_that_agrees() {
    let outputs = vec![spec("scores", DataType::Fp32, &[-1, -1])];
    let of = combiner(application(Task::Classification, outputs));
    let logits = |scores: &[f32]| vec![reals("z", &[1, 3], scores)];
    let said = [
        (0.4, logits(&[5.0, 1.0, 1.0])),
        (0.3, logits(&[1.0, 5.0, 1.0])),
        (0.3, logits(&[1.0, 7.0, 1.0])),
    ];
    let got = combine(&of, 1, &said, 0.0);
    assert_eq!(floats(&got.outputs[0]), [1.0, 5.0, 1.0]);
    assert_eq!(got.answers[0].label, Some(Label::Int(1)));
    close(&got.confidence, &[0.6]);
}

#[test]
fn one_arm_is_passed_on_without_a_copy() {
    let of = combiner(digits());
    let tensors = animal(&[0.2, 0.7, 0.1], "dog");
    let got = combine(&of, 1, &[(0.01, tensors.clone())], 0.0);
    close(&got.confidence, &[0.7]);
    assert_eq!(got.outputs[0].data().as_ptr(), tensors[0].data().as_ptr());
    assert_eq!((got.outputs[0].name(), got.outputs[1].name()), ("scores", "label"));
    // Alone in time of two that were asked, it counts for its share.
    close(&combine(&of, 1, &[(0.25, tensors)], 0.75).confidence, &[0.25]);
    // No probabilities, no doubt.
    let got = combine(&of, 1, &[(1.0, animal(&[5.0, 7.0, 1.0], "dog"))], 0.0);
    close(&got.confidence, &[1.0]);
}

#[test]
fn a_label_has_the_rank_that_clients_were_told() {
    let column = |values: &[i64]| {
        let label = ints("y", values);
        Tensor::new("y", DataType::Int64, [values.len() as i64, 1], label.data().clone()).unwrap()
    };
    let flat =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1])]));
    let got = combine(&flat, 2, &[(1.0, vec![column(&[4, 5])])], 0.0);
    assert_eq!((got.outputs[0].shape(), longs(&got.outputs[0])), (&[2][..], vec![4, 5]));
    let said = [(0.5, vec![column(&[4, 5])]), (0.6, vec![ints("y", &[4, 6])])];
    let got = combine(&flat, 2, &said, 0.0);
    assert_eq!((got.outputs[0].shape(), longs(&got.outputs[0])), (&[2][..], vec![4, 6]));
    let tall =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1, 1])]));
    let got = combine(&tall, 2, &[(1.0, vec![ints("y", &[4, 5])])], 0.0);
    assert_eq!(got.outputs[0].shape(), [2, 1]);
}

#[test]
fn values_are_averaged_over_those_that_answered() {
    let outputs = vec![spec("label", DataType::Fp32, &[-1]), spec("low", DataType::Fp32, &[-1])];
    let of = combiner(application(Task::Regression, outputs));
    let arm = |values: &[f32], low| vec![reals("v", &[2], values), reals("w", &[2], &[low; 2])];
    let said = [(0.2, arm(&[1.0, f32::NAN], 1.0)), (0.6, arm(&[2.0, 4.0], 2.0))];
    let got = combine(&of, 2, &said, 0.2);
    close(&floats(&got.outputs[0]), &[1.75, 4.0]);
    close(&floats(&got.outputs[1]), &[2.0, 2.0]);
    close(&got.confidence, &[0.8, 0.6]);
    // The record holds what the client was told.
    assert_eq!(got.answers[0].label, Some(Label::Real(f64::from(1.75_f32))));

    let of = combiner(application(Task::Regression, vec![spec("label", DataType::Int64, &[-1])]));
    let said = [(0.5, vec![ints("v", &[1])]), (0.5, vec![ints("v", &[4])])];
    assert_eq!(longs(&combine(&of, 1, &said, 0.0).outputs[0]), [3]);
}

#[test]
fn an_opaque_answer_is_the_best_arms() {
    let of = combiner(application(Task::Opaque, vec![spec("text", DataType::Bytes, &[-1])]));
    let text = |text: &str| vec![Tensor::from_strings("t", &[text])];
    let got = combine(&of, 1, &[(0.4, text("a")), (0.5, text("b"))], 0.1);
    assert_eq!(got.outputs[0].bytes_elements().next().unwrap(), "b");
    close(&got.confidence, &[0.5]);
    assert_eq!(got.answers[0], RowRecord { label: None, p: 1.0, arm: None, default: false });

    let of = combiner(application(Task::Opaque, vec![spec("v", DataType::Fp32, &[-1, 2])]));
    let said = [
        (0.6, vec![reals("v", &[2, 2], &[1.0, 2.0, f32::NAN, 4.0])]),
        (0.4, vec![reals("v", &[2, 2], &[5.0, 6.0, 7.0, 8.0])]),
    ];
    assert_eq!(floats(&combine(&of, 2, &said, 0.0).outputs[0]), [1.0, 2.0, 7.0, 8.0]);
}

fn with_default(threshold: f32) -> Application {
    Application {
        confidence_threshold: threshold,
        default_output: vec![ints("label", &[-1]), Tensor::from_strings("note", &["none"])],
        ..application(
            Task::Classification,
            vec![spec("label", DataType::Int64, &[-1]), spec("note", DataType::Bytes, &[-1])],
        )
    }
}

fn noted(labels: &[i64], notes: &[&str]) -> Vec<Tensor> {
    vec![ints("y", labels), Tensor::from_strings("n", notes)]
}

#[test]
fn a_row_below_the_threshold_gets_the_default() {
    let said = [
        (0.6, noted(&[1, 2, 3], &["a", "bb", "ccc"])),
        (0.4, noted(&[1, 5, 3], &["d", "ee", "fff"])),
    ];
    let got = combine(&combiner(with_default(0.7)), 3, &said, 0.0);
    assert_eq!(longs(&got.outputs[0]), [1, -1, 3]);
    assert_eq!(got.outputs[1].bytes_elements().collect::<Vec<_>>(), ["a", "none", "ccc"]);
    use RowStatus::{Answered, Default};
    assert_eq!(got.row_status, [Answered, Default, Answered]);
    assert_eq!(got.answers[1], RowRecord { label: None, p: 1.0, arm: None, default: true });
    close(&got.confidence, &[1.0, 0.6, 1.0]);
    assert_eq!(got.reason, LOW_CONFIDENCE);

    // Without a default the answer is given all the same, and says so.
    let bare = Application { default_output: Vec::new(), ..with_default(0.7) };
    let got = combine(&combiner(bare), 3, &said, 0.0);
    assert_eq!(longs(&got.outputs[0]), [1, 2, 3]);
    assert_eq!((got.reason, got.missing), (LOW_CONFIDENCE, 0));
    assert_eq!(got.row_status, [Answered; 3]);
}

#[test]
fn nothing_at_all_is_the_default() {
    let got = combine(&combiner(with_default(0.0)), 3, &[], 1.0);
    assert_eq!(longs(&got.outputs[0]), [-1; 3]);
    assert_eq!(got.outputs[1].bytes_elements().collect::<Vec<_>>(), ["none"; 3]);
    assert_eq!(got.outputs[1].shape(), [3]);
    assert_eq!((got.any_answered, got.missing, got.reason), (false, 0, ROW_FAILED));
    close(&got.confidence, &[0.0; 3]);

    let bare = Application { default_output: Vec::new(), ..with_default(0.0) };
    let got = combine(&combiner(bare), 3, &[], 1.0);
    assert_eq!((got.missing, got.outputs.len()), (3, 0));
}

#[test]
fn a_default_of_another_size_replaces_all_rows() {
    let application = Application {
        confidence_threshold: 0.6,
        default_output: vec![reals("scores", &[1, 2], &[0.5, 0.5])],
        ..application(Task::Classification, vec![spec("scores", DataType::Fp32, &[-1, -1])])
    };
    let scores = reals("p", &[2, 3], &[0.8, 0.1, 0.1, 0.4, 0.3, 0.3]);
    let other = reals("p", &[2, 3], &[0.8, 0.1, 0.1, 0.1, 0.8, 0.1]);
    let got = combine(&combiner(application), 2, &[(0.5, vec![scores]), (0.5, vec![other])], 0.0);
    assert_eq!(floats(&got.outputs[0]), [0.5; 4]);
    assert_eq!(got.row_status, [RowStatus::Default; 2]);
}

#[test]
fn an_arm_that_answers_out_of_shape_failed() {
    let of = combiner(digits());
    let label = Tensor::from_strings("l", &["cat"]);
    let scores = reals("p", &[1, 3], &[1.0, 0.0, 0.0]);
    let error = |outputs: &[Tensor], rows| of.read(outputs, rows).unwrap_err();
    assert_eq!(error(&[], 1), "expected 2 outputs, got 0");
    let pair = [scores.clone(), label.clone()];
    assert_eq!(error(&pair, 2), "output 'p': expected 2 rows, got 1");
    let pair = [scores.clone(), ints("l", &[1])];
    assert_eq!(error(&pair, 1), "output 'l': expected datatype BYTES, got INT64");
    let wide = [reals("p", &[1, 4], &[0.25; 4]), label];
    assert_eq!(error(&wide, 1), "output 'p': expected 3 scores per row, got 4");
    let two = Tensor::new("l", DataType::Bytes, [1, 2], vec![0; 8]).unwrap();
    assert_eq!(error(&[scores, two], 1), "output 'l': expected one element per row, got 2");
    let scalar = Tensor::new("p", DataType::Fp32, [], vec![0; 4]).unwrap();
    assert!(error(&[scalar.clone(), scalar], 1).contains("scalar"));
}

#[test]
fn a_nan_fails_its_row_alone() {
    let of = combiner(digits());
    let scores = reals("p", &[2, 3], &[0.2, f32::NAN, 0.8, 0.0, 0.0, 1.0]);
    let read = of.read(&[scores, Tensor::from_strings("l", &["cat", "owl"])], 2).unwrap();
    assert_eq!(read.labels(), [None, Some(Label::Text("owl".into()))]);
    assert!(read.any_answered() && !read.rows[0].answered);
}

#[test]
fn feedback_is_cast_to_the_label_output() {
    let of = |datatype, classes: &[&str]| {
        combiner(Application {
            class_labels: classes.iter().map(|class| Arc::from(*class)).collect(),
            ..application(Task::Classification, vec![spec("label", datatype, &[-1])])
        })
    };
    let int = of(DataType::Uint8, &["cat", "dog"]);
    let text = |text: &str| Label::Text(text.into());
    assert_eq!(int.cast_label(&Label::Real(3.0)), Ok(Label::Int(3)));
    assert_eq!(int.cast_label(&text("7")), Ok(Label::Int(7)));
    assert_eq!(int.cast_label(&text("dog")), Ok(Label::Int(1)), "a class by its name");
    for bad in [Label::Int(256), Label::Int(-1), Label::Real(0.5), text("emu")] {
        assert!(int.cast_label(&bad).unwrap_err().contains("does not fit UINT8"), "{bad:?}");
    }
    let named = of(DataType::Int64, &["5", "9"]);
    assert_eq!(named.cast_label(&text("9")), Ok(Label::Int(9)));
    let bytes = of(DataType::Bytes, &[]);
    assert_eq!(bytes.cast_label(&Label::Int(7)), Ok(text("7")));
    let real = of(DataType::Fp32, &[]);
    assert_eq!(real.cast_label(&Label::Real(0.1)), Ok(Label::Real(f64::from(0.1_f32))));
    assert!(real.cast_label(&Label::Real(1e300)).is_err());
    assert_eq!(of(DataType::Bool, &[]).cast_label(&text("true")), Ok(Label::Int(1)));

    // Scores alone.
    let outputs = || vec![spec("scores", DataType::Fp32, &[-1, 2])];
    let plain = combiner(application(Task::Classification, outputs()));
    assert_eq!(plain.cast_label(&text("1")), Ok(Label::Int(1)));
    let class_labels = vec!["no".into(), "yes".into()];
    let named = Application { class_labels, ..application(Task::Classification, outputs()) };
    assert_eq!(combiner(named).cast_label(&Label::Int(1)), Ok(text("yes")));
}

#[test]
fn feedback_tensors_have_one_label_per_row() {
    let of =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1])]));
    assert_eq!(
        of.labels_from_tensor(&ints("y", &[1, 2]), 2),
        Ok(vec![Label::Int(1), Label::Int(2)])
    );
    assert_eq!(of.labels_from_tensor(&reals("y", &[1, 1], &[3.0]), 1), Ok(vec![Label::Int(3)]));
    let error = |tensor, rows| of.labels_from_tensor(&tensor, rows).unwrap_err();
    assert!(error(ints("y", &[1, 2]), 3).contains("expected one label per row: [3]"));
    assert!(error(reals("y", &[1, 2], &[0.0; 2]), 1).contains("expected one label per row"));
    assert!(error(reals("y", &[2], &[1.0, f32::NAN]), 2).contains("row 1: it is not finite"));
    let bytes = Tensor::from_strings("y", &[[0xff_u8]]);
    assert!(error(bytes, 1).contains("row 0: it is not UTF-8"));
}

#[test]
fn losses_are_cut_at_the_cap() {
    let of = |loss, loss_cap, task| {
        combiner(Application {
            loss,
            loss_cap,
            ..application(task, vec![spec("label", DataType::Int64, &[-1])])
        })
    };
    let int = Label::Int;
    let zero_one = of(Loss::ZeroOne, 1.0, Task::Classification);
    assert_eq!(zero_one.loss(&int(1), &int(1), None), (0.0, false));
    assert_eq!(zero_one.loss(&int(1), &int(2), None), (1.0, false));
    let squared = of(Loss::Squared, 4.0, Task::Regression);
    assert_eq!(squared.loss(&int(1), &int(2), None), (0.25, false));
    assert_eq!(squared.loss(&int(1), &int(4), None), (1.0, true));
    let absolute = of(Loss::Absolute, 4.0, Task::Regression);
    assert_eq!(absolute.loss(&Label::Real(0.5), &int(2), None), (0.375, false));
    assert_eq!(absolute.loss(&Label::Text("x".into()), &int(2), None), (1.0, true));
    let log = of(Loss::Log, 0.0, Task::Classification);
    let (loss, cut) = log.loss(&int(1), &int(0), Some(&[0.5, 0.25, 0.25]));
    assert!((loss - 4_f64.ln() / 4.6).abs() < 1e-9 && !cut);
    assert_eq!(log.loss(&int(1), &int(0), Some(&[1.0, 0.0])), (1.0, true));
    assert_eq!(log.loss(&int(7), &int(0), Some(&[1.0, 0.0])), (1.0, true), "no such class");
    assert_eq!(log.loss(&int(0), &int(0), Some(&[1.0005, 0.0])), (0.0, false));
    assert_eq!(log.loss(&int(0), &int(0), None), (0.0, false));
}

#[test]
fn a_label_scores_every_arm_that_answered() {
    let of =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1])]));
    let arm = |labels: &[Option<i64>]| ArmRecord {
        arm: "a".into(),
        version: "1".into(),
        q: 1.0,
        weight: 1.0,
        outcome: Outcome::Used,
        labels: labels.iter().map(|label| label.map(Label::Int)).collect(),
        scores: Vec::new(),
    };
    let record = DecisionRecord {
        id: DecisionId::from_bytes([0; 28]),
        time_ms: 0,
        application: "app".into(),
        context: "".into(),
        features: Vec::new(),
        features_kept: None,
        policy: "hedge".into(),
        state_version: 1,
        arms: vec![arm(&[Some(1), Some(5)]), arm(&[Some(1), None]), arm(&[])],
        shadow: None,
        answer: Vec::new(),
    };
    let losses = |row| of.losses(&record, row, &Label::Int(5)).by_arm;
    assert_eq!(losses(0), [Some(1.0), Some(1.0), None]);
    assert_eq!(losses(1), [Some(0.0), None, None]);
    assert_eq!(losses(2), [None; 3]);
}

#[test]
fn scores_are_recorded_where_the_loss_needs_them() {
    let of = combiner(Application { loss: Loss::Log, loss_cap: 4.6, ..digits() });
    let scores = reals("p", &[2, 3], &[0.2, 0.0, 0.8, 9.0, 0.0, 1.0]);
    let tensors = [scores, Tensor::from_strings("l", &["owl", "cat"])];
    let read = of.read(&tensors, 2).unwrap();
    assert_eq!(of.record_scores(&read), [vec![0.2, 0.0, 0.8], vec![]]);
    let of = combiner(digits());
    assert!(of.record_scores(&of.read(&tensors, 2).unwrap()).is_empty());
}

/// A tensor of any trailing shape.
fn any_tensor(rows: i64, datatype: DataType) -> impl Strategy<Value = Tensor> {
    let shapes = [vec![], vec![], vec![], vec![], vec![1], vec![3], vec![0], vec![2, 2]];
    let trailing = prop::sample::select(shapes.to_vec());
    let like = (trailing, prop::collection::vec(any::<u8>(), 8 * 16));
    like.prop_map(move |(trailing, bytes)| {
        let count = (rows * trailing.iter().product::<i64>()) as usize;
        let shape: Vec<i64> = std::iter::once(rows).chain(trailing).collect();
        let data = match datatype.size() {
            Some(size) => bytes[..size * count].to_vec(),
            None => {
                let text = |byte: &u8| vec![b'x'; usize::from(*byte % 3)];
                let text: Vec<_> = bytes[..count].iter().map(text).collect();
                Tensor::from_strings("t", &text).data().to_vec()
            }
        };
        Tensor::new("t", datatype, shape, data).unwrap()
    })
}

fn any_datatype() -> impl Strategy<Value = DataType> {
    use DataType::{Bool, Bytes, Fp16, Fp32, Int64};
    prop::sample::select(vec![Bool, Bytes, Fp16, Fp32, Int64])
}

type Odd = (usize, Task, Vec<(f64, Vec<Tensor>)>, Vec<Tensor>, f32, bool);

fn odd() -> impl Strategy<Value = Odd> {
    (1_usize..4, any_datatype(), any_datatype()).prop_flat_map(|(rows, a, b)| {
        let tensors =
            move |rows| (any_tensor(rows, a), any_tensor(rows, b)).prop_map(|(a, b)| vec![a, b]);
        (
            Just(rows),
            prop::sample::select(vec![Task::Classification, Task::Regression, Task::Opaque]),
            prop::collection::vec((0.0..1.0_f64, tensors(rows as i64)), 0..5),
            tensors(1),
            0.0..1.0_f32,
            any::<bool>(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the arms send: no panic, and an answer has the rows and datatypes that clients
    /// were told.
    #[test]
    fn odd_shapes_give_an_answer_or_none(
        (rows, task, said, default, threshold, labels) in odd(), late in 0.0..1.0_f64,
    ) {
        let like = said.first().map_or(&default, |(_, tensors)| tensors);
        let named = [if labels { "label" } else { "other" }, "scores"];
        let outputs: Vec<_> =
            named.iter().zip(like).map(|(name, t)| spec(name, t.datatype(), &[-1])).collect();
        let default_output =
            named.iter().zip(&default).map(|(name, tensor)| tensor.renamed(*name)).collect();
        let of = combiner(Application {
            default_output,
            confidence_threshold: threshold,
            ..application(task, outputs.clone())
        });
        let mut read = Vec::new();
        for (place, (weight, tensors)) in said.iter().enumerate() {
            if let Ok(answer) = of.read(tensors, rows) {
                read.push((place, *weight, answer));
            }
        }
        let got: Vec<_> = read.iter().map(|(arm, weight, answer)| {
            Got { arm: *arm, weight: *weight, answer, tensors: &said[*arm].1 }
        }).collect();
        let weight = late + got.iter().map(|got| got.weight).sum::<f64>();
        let combined = of.combine(rows, &got, Chosen { arms: said.len(), weight }, None);
        prop_assert_eq!(combined.confidence.len(), rows);
        prop_assert!(combined.confidence.iter().all(|c| (0.0..=1.0).contains(c)));
        prop_assert_eq!(combined.row_status.len(), rows);
        prop_assert_eq!(combined.answers.len(), rows);
        prop_assert_eq!(combined.outputs.is_empty(), combined.missing > 0);
        for (tensor, spec) in combined.outputs.iter().zip(&outputs) {
            prop_assert_eq!(tensor.datatype(), spec.datatype);
            prop_assert_eq!(tensor.name(), &spec.name);
            prop_assert_eq!(tensor.rows(), Ok(rows));
        }
    }
}
