use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    super::{
        LiveArm, Observation, Policy, SelectionPolicy, Situation, State,
        tests::{close, policy, record},
    },
    Exp4,
};
use crate::{DecisionRecord, Label};

/// A decision in which arms of these weights said these labels, and one of them was drawn.
fn decided(weights: &[f64], labels: &[Option<i64>], answer: i64) -> DecisionRecord {
    let mut record = record(&vec![1.0; weights.len()], labels);
    let weight = |only: Option<i64>| -> f64 {
        let said = |label: &Option<i64>| label.is_some() && (only.is_none() || *label == only);
        weights.iter().zip(labels).filter(|(_, label)| said(label)).map(|(weight, _)| weight).sum()
    };
    record.policy = Exp4::NAME.into();
    record.answer[0].label = Some(Label::Int(answer));
    record.answer[0].p = weight(Some(answer)) / weight(None);
    record
}

fn exp4(parameters: &[(&str, f64)], arms: usize) -> Exp4 {
    match policy("exp4", parameters, arms) {
        Policy::Exp4(exp4) => exp4,
        other => panic!("{other}"),
    }
}

fn estimates(exp4: &Exp4, record: &DecisionRecord, observation: Observation<'_>) -> Vec<f64> {
    exp4.estimates(record, 0, observation).into_iter().map(|(_, _, estimate)| estimate).collect()
}

/// Over the answers that may be drawn, each arm's estimate is its own loss; that of an arm
/// without an answer is the mean of the others by weight.
#[test]
fn the_loss_estimate_is_unbiased() {
    let exp4 = exp4(&[], 5);
    let weights = [0.1, 0.3, 0.2, 0.25, 0.15];
    let labels = [Some(1), Some(2), Some(1), Some(3), None];
    // By label.
    let loss = [0.0, 0.9, 0.2, 0.5];
    let mut expected = [0.0; 5];
    for answer in 1..4 {
        let record = decided(&weights, &labels, answer);
        let p = record.answer[0].p;
        let reward = Observation::Reward(1.0 - loss[answer as usize]);
        let by_arm: Vec<_> = labels.iter().map(|l| l.map(|label| loss[label as usize])).collect();
        let from_reward = estimates(&exp4, &record, reward);
        let from_label = estimates(&exp4, &record, Observation::Losses(&by_arm));
        for (arm, (x, y)) in from_reward.iter().zip(from_label).enumerate() {
            close(*x, y);
            expected[arm] += p * x;
        }
    }
    let mean = (0.3 * 0.9 + 0.3 * 0.2 + 0.25 * 0.5) / 0.85;
    for (got, want) in expected.iter().zip([0.9, 0.2, 0.9, 0.5, mean]) {
        close(*got, want);
    }
}

/// Arms that never agree are arms that are drawn: P(answer) is the weight of one.
#[test]
fn with_arms_that_never_agree_it_is_exp3() {
    let exp4 = policy("exp4", &[("eta", 0.1), ("floor", 0.0)], 4);
    let exp3 = policy("exp3", &[("eta", 0.1), ("floor", 0.0)], 4);
    let (mut a, mut b) = (exp4.init(), exp3.init());
    let names = ["a", "b", "c", "d"];
    let arms = names.map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 });
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..500 {
        let weights = exp4.weights(&a, &arms);
        let arm = rng.random_range(0..4);
        let loss = rng.random();
        let labels = [Some(0), Some(1), Some(2), Some(3)];
        exp4.observe(
            &mut a,
            &decided(&weights, &labels, arm as i64),
            0,
            Observation::Reward(1.0 - loss),
        );
        let mut losses = [None; 4];
        losses[arm] = Some(loss);
        exp3.observe(&mut b, &record(&weights, &labels), 0, Observation::Losses(&losses));
        for (x, y) in exp4.weights(&a, &arms).iter().zip(exp3.weights(&b, &arms)) {
            close(*x, y);
        }
    }
}

#[test]
fn only_arms_that_agree_with_the_answer_lose() {
    let policy = policy("exp4", &[("eta", 0.2), ("floor", 0.0)], 4);
    let mut state = policy.init();
    let record = decided(&[0.25; 4], &[Some(1), Some(2), Some(1), None], 1);
    assert!(policy.observe(&mut state, &record, 0, Observation::Reward(0.5)));
    // P(1) = 2/3; the arm without an answer loses the mean.
    close(state.arm("a").log_weight, -0.2 * 0.5 * 1.5);
    close(state.arm("b").log_weight, 0.0);
    close(state.arm("c").log_weight, -0.2 * 0.5 * 1.5);
    close(state.arm("d").log_weight, -0.2 * 0.5);
    let counted: Vec<_> = state.arms().map(|(_, arm)| arm.observations).collect();
    assert_eq!(counted, [1, 0, 1, 0]);
}

#[test]
fn a_default_teaches_nothing_and_another_policys_answer_everything() {
    let policy = policy("exp4", &[("eta", 0.2)], 3);
    let labels = [Some(1), Some(2), None];
    let losses = [Some(1.0), Some(0.0), None];
    let mut default = decided(&[0.4, 0.4, 0.2], &labels, 1);
    default.answer[0].default = true;
    let mut state = policy.init();
    assert!(!policy.observe(&mut state, &default, 0, Observation::Losses(&losses)));
    assert_eq!(state, policy.init());

    // In the shadow of a vote that was won by the second arm, the first lost all the same.
    let mut foreign = decided(&[0.4, 0.4, 0.2], &labels, 2);
    foreign.policy = "hedge".into();
    foreign.answer[0].p = 1.0;
    assert!(policy.observe(&mut state, &foreign, 0, Observation::Losses(&losses)));
    close(state.arm("a").log_weight, -0.2);
    close(state.arm("b").log_weight, 0.0);
    close(state.arm("c").log_weight, -0.1);
}

/// Opaque answers have no labels; the record says whose it was.
#[test]
fn a_reward_for_an_opaque_answer_is_of_the_arm_that_was_drawn() {
    let policy = policy("exp4", &[("eta", 0.2)], 3);
    let mut record = decided(&[0.5, 0.3, 0.2], &[Some(1), Some(2), Some(3)], 2);
    for arm in &mut record.arms {
        arm.labels = vec![None];
    }
    record.answer[0].label = None;
    record.answer[0].arm = Some(1);
    let mut state = policy.init();
    assert!(policy.observe(&mut state, &record, 0, Observation::Reward(0.0)));
    let weights: Vec<_> = state.arms().map(|(_, arm)| arm.log_weight).collect();
    close(weights[1], -0.2 / 0.3);
    assert_eq!((weights[0], weights[2]), (0.0, 0.0));
}

#[test]
fn it_asks_all_and_hears_each_by_the_floor() {
    let policy = policy("exp4", &[("floor", 0.3)], 3);
    let mut state = policy.init();
    for _ in 0..1000 {
        let record = decided(&[0.5, 0.3, 0.2], &[Some(1), Some(2), Some(2)], 2);
        policy.observe(&mut state, &record, 0, Observation::Reward(0.0));
    }
    let arm = |arm, live| LiveArm { arm, live, availability: 1.0, pending: 0 };
    let arms = [arm("a", true), arm("b", true), arm("c", true)];
    let mut rng = SmallRng::seed_from_u64(1);
    let situation = Situation { arms: &arms, features: &[] };
    let selection = policy.draw(&state, &situation, &mut rng);
    assert_eq!((selection.chosen, selection.q), (vec![0, 1, 2], vec![1.0; 3]));
    for (got, want) in selection.weights.iter().zip([0.8, 0.1, 0.1]) {
        close(*got, want);
    }
    let arms = [arm("a", true), arm("b", false), arm("c", true)];
    let situation = Situation { arms: &arms, features: &[] };
    let selection = policy.draw(&state, &situation, &mut rng);
    assert_eq!((selection.chosen, selection.q), (vec![0, 2], vec![1.0, 0.0, 1.0]));
}

/// Clipper's failure experiment in small (NSDI 2017, figure 8): five models whose errors are those
/// of its CIFAR-10 models, wrong in ways of their own; the best says anything from a quarter of
/// the run to half of it. `late` is how often the worst one has no answer.
struct Failure {
    errors: [f64; 4],
    late_weight: f64,
}

fn failure(policy: &Policy, seed: u64, late: f64) -> Failure {
    const ERRORS: [f64; 5] = [0.46, 0.346, 0.243, 0.183, 0.105];
    const QUARTER: usize = 5000;
    let mut rng = SmallRng::seed_from_u64(seed);
    let names: Vec<Arc<str>> = ["a", "b", "c", "d", "e"].map(Arc::from).to_vec();
    let arms: Vec<_> = names
        .iter()
        .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
        .collect();
    let mut state: State = policy.init();
    let mut failure = Failure { errors: [0.0; 4], late_weight: 0.0 };
    for query in 0..4 * QUARTER {
        let quarter = query / QUARTER;
        let situation = Situation { arms: &arms, features: &[] };
        let mut weights = policy.draw(&state, &situation, &mut rng).weights;
        failure.late_weight += weights[0] / (4 * QUARTER) as f64;
        let truth = rng.random_range(0..10_i64);
        let mut labels: Vec<_> = ERRORS
            .iter()
            .enumerate()
            .map(|(arm, error)| {
                let error = if arm == 4 && quarter == 1 { 0.9 } else { *error };
                let wrong = (truth + rng.random_range(1..10)) % 10;
                Some(if rng.random::<f64>() < error { wrong } else { truth })
            })
            .collect();
        if rng.random::<f64>() < late {
            labels[0] = None;
            weights[0] = 0.0;
        }
        let drawn = super::super::draw_by_weight(&mut weights, &mut rng).unwrap();
        let answer = labels[drawn].unwrap();
        let wrong = f64::from(u8::from(answer != truth));
        failure.errors[quarter] += wrong / QUARTER as f64;
        let record = decided(&weights, &labels, answer);
        policy.observe(&mut state, &record, 0, Observation::Reward(1.0 - wrong));
    }
    failure
}

#[test]
fn it_survives_the_failure_of_its_best_arm() {
    let exp4 = policy("exp4", &[], 5);
    let runs: Vec<_> = (0..6).map(|seed| failure(&exp4, seed, 0.0)).collect();
    let mean = |quarter: usize| runs.iter().map(|run| run.errors[quarter]).sum::<f64>() / 6.0;
    let errors = [mean(0), mean(1), mean(2), mean(3)];
    let whole = errors.iter().sum::<f64>() / 4.0;
    println!("errors by quarter {errors:.4?}, whole {whole:.4}");
    // The best alone is wrong in .105, .9, .105, .105; the second best in .183.
    assert!(errors[0] < 0.125 && errors[1] < 0.26 && errors[3] < 0.16, "{errors:?}");
    assert!(whole < 0.17, "{whole}");
}

/// With nothing to lose for an answer that was late, the worst arm would come to the top.
#[test]
fn being_late_is_no_way_to_the_top() {
    let exp4 = policy("exp4", &[], 5);
    for seed in 0..3 {
        let weight = failure(&exp4, seed, 0.9).late_weight;
        assert!(weight < 0.2, "seed {seed}: the worst arm has weight {weight}");
    }
}
