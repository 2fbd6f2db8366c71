//! Answers that are drawn from the arms by weight.

use rand::{SeedableRng, rngs::SmallRng};

use super::*;

/// Many draws of one row: how often each arm's (label, place) came, and with which p.
fn draws(of: &Combiner, said: &[(f64, Vec<Tensor>)], count: u32) -> Vec<(RowRecord, f64)> {
    let answers: Vec<_> = said.iter().map(|(_, tensors)| of.read(tensors, 1).unwrap()).collect();
    let got: Vec<Got<'_>> = said
        .iter()
        .zip(&answers)
        .enumerate()
        // Places among the application's arms, of which the first was not asked.
        .map(|(at, ((weight, tensors), answer))| Got {
            arm: at + 1,
            weight: *weight,
            answer,
            tensors,
        })
        .collect();
    let weight = said.iter().map(|(weight, _)| weight).sum::<f64>();
    let mut rng = SmallRng::seed_from_u64(9);
    let mut seen: Vec<(RowRecord, f64)> = Vec::new();
    for _ in 0..count {
        let chosen = Chosen { arms: said.len(), weight };
        let row = of.combine(1, &got, chosen, Some(&mut rng)).answers.remove(0);
        let share = 1.0 / f64::from(count);
        match seen.iter_mut().find(|(known, _)| *known == row) {
            Some((_, sum)) => *sum += share,
            None => seen.push((row, share)),
        }
    }
    seen.sort_by(|x, y| x.0.p.total_cmp(&y.0.p));
    seen
}

/// They come as often as they say: within four standard deviations of so many draws.
fn as_recorded(seen: &[(RowRecord, f64)], count: u32) {
    close(&[seen.iter().map(|(row, _)| row.p as f32).sum()], &[1.0]);
    for (row, share) in seen {
        let deviation = (row.p * (1.0 - row.p) / f64::from(count)).sqrt();
        assert!((share - row.p).abs() < 4.0 * deviation, "{row:?} came with a share of {share}");
    }
}

#[test]
fn a_label_is_drawn_with_the_weight_of_all_that_say_it() {
    let of =
        combiner(application(Task::Classification, vec![spec("label", DataType::Int64, &[-1])]));
    let say = |label| vec![ints("y", &[label])];
    let said = [(0.2, say(7)), (0.1, say(3)), (0.15, say(7)), (0.05, say(4))];
    let seen = draws(&of, &said, 20_000);
    as_recorded(&seen, 20_000);
    let labels: Vec<_> = seen.iter().map(|(row, _)| row.label.clone()).collect();
    assert_eq!(labels, [4, 3, 7].map(|label| Some(Label::Int(label))));
    close(&[seen[2].0.p as f32], &[0.7]);
    assert!(seen.iter().all(|(row, _)| row.arm.is_none()));
}

#[test]
fn a_value_and_an_opaque_answer_are_one_arms_own() {
    let of = combiner(application(Task::Regression, vec![spec("y", DataType::Fp32, &[-1])]));
    let say = |value| vec![reals("y", &[1], &[value])];
    let seen = draws(&of, &[(0.3, say(1.0)), (0.5, say(2.0)), (0.2, say(1.0))], 10_000);
    as_recorded(&seen, 10_000);
    assert_eq!(seen.len(), 2, "equal values are one answer: {seen:?}");

    let of = combiner(application(Task::Opaque, vec![spec("y", DataType::Fp32, &[-1])]));
    let seen = draws(&of, &[(0.3, say(1.0)), (0.5, say(2.0)), (0.2, say(1.0))], 10_000);
    as_recorded(&seen, 10_000);
    let arms: Vec<_> = seen.iter().map(|(row, _)| row.arm).collect();
    assert_eq!(arms, [Some(3), Some(1), Some(2)]);
}

/// What the client gets is what was drawn: no mean of scores, and the agreeing share of all that
/// were chosen.
#[test]
fn the_answer_is_the_drawn_arms_in_all_outputs() {
    let of = combiner(digits());
    let said = [(0.5, animal(&[0.9, 0.1, 0.0], "cat")), (0.5, animal(&[0.1, 0.7, 0.2], "dog"))];
    let answers = [of.read(&said[0].1, 1).unwrap(), of.read(&said[1].1, 1).unwrap()];
    let got: Vec<_> = (0..2)
        .map(|arm| Got { arm, weight: 0.5, answer: &answers[arm], tensors: &said[arm].1 })
        .collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut seen = [false; 2];
    for _ in 0..50 {
        let combined = of.combine(1, &got, Chosen { arms: 3, weight: 1.25 }, Some(&mut rng));
        close(&combined.confidence, &[0.4]);
        let arm = usize::from(combined.answers[0].label != Some(Label::Text("cat".into())));
        for (output, own) in combined.outputs.iter().zip(&said[arm].1) {
            assert_eq!(output.data(), own.data());
        }
        seen[arm] = true;
    }
    assert_eq!(seen, [true; 2]);
}

/// Below the threshold there is the default, which nobody drew.
#[test]
fn a_default_has_no_draw() {
    let of = combiner(with_default(0.9));
    let said = [(0.5, noted(&[1], &["a"])), (0.5, noted(&[2], &["b"]))];
    let seen = draws(&of, &said, 10);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].0, RowRecord { label: None, p: 1.0, arm: None, default: true });
}
