//! A small world in which every policy's true reward is known.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    ArmRecord, DecisionId, DecisionRecord, FeedbackValue, Label, Outcome, RowRecord,
    policy::{LiveArm, SelectionPolicy, Situation},
};

/// How often each arm is right.
const RIGHT: [f64; 3] = [0.8, 0.6, 0.3];
/// Decisions; feedback comes 10 ms after each, and they are 1 ms apart.
const DECISIONS: u64 = 6_000;

fn arms() -> Vec<Arc<str>> {
    ["a", "b", "c"].map(Arc::from).to_vec()
}

fn policy(name: &str, parameters: &[(&str, f64)]) -> Policy {
    let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    Policy::new(name, &parameters, &arms(), 0).expect("the tests know the parameters")
}

fn target(name: &str, parameters: &[(&str, f64)]) -> Target {
    Target { name: name.into(), policy: policy(name, parameters) }
}

/// What became of a simulated application.
#[derive(Clone, Default)]
struct World {
    decisions: Vec<DecisionRecord>,
    feedback: Vec<GivenFeedback>,
    /// Sum of what clients got.
    earned: f64,
}

/// How the world differs from the plain one.
#[derive(Clone, Copy, Default)]
struct Ways {
    rewards: bool,
    /// How often an arm is late, by its place.
    late: [f64; 3],
    /// How often arm `a` is masked.
    masked: f64,
    rows: usize,
}

fn play(policy: &Policy, seed: u64, ways: Ways) -> World {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::default();
    let mut state = policy.init();
    let mut waiting = std::collections::VecDeque::new();
    let judge = Judge::new(Scoring::default(), &[one()]).expect("labels are integers");
    for time in 0..DECISIONS {
        while let Some((record, known)) =
            waiting.pop_front_if(|(r, _): &mut (DecisionRecord, Vec<_>)| r.time_ms + 10 <= time)
        {
            for (row, known) in known.into_iter().enumerate() {
                learn(policy, &mut state, &judge, &record, row, known);
            }
        }
        let record = decide(policy, &state, time, ways, &mut rng);
        let known: Vec<history::Known> = (0..ways.rows.max(1))
            .map(|row| {
                let reward = told(&record, row);
                world.earned += reward;
                if ways.rewards {
                    history::Known::Reward(reward)
                } else {
                    history::Known::Label(Label::Int(1))
                }
            })
            .collect();
        for (row, known) in known.iter().enumerate() {
            let value = match known {
                history::Known::Label(label) => FeedbackValue::Labels(vec![label.clone()]),
                history::Known::Reward(reward) => FeedbackValue::Reward(*reward),
            };
            world.feedback.push(GivenFeedback {
                decision: record.id,
                row: Some(row as u32),
                value,
                // After the decision of that millisecond, and before the next one.
                time_ms: time + 9,
                input: None,
            });
        }
        world.decisions.push(record.clone());
        waiting.push_back((record, known));
    }
    world
}

fn one() -> DecisionRecord {
    decide(
        &policy("static", &[]),
        &policy("static", &[]).init(),
        0,
        Ways::default(),
        &mut SmallRng::seed_from_u64(0),
    )
}

/// The truth is always 1, and an arm that is right says so.
fn told(record: &DecisionRecord, row: usize) -> f64 {
    if record.answer[row].label == Some(Label::Int(1)) { 1.0 } else { 0.0 }
}

fn learn(
    policy: &Policy,
    state: &mut crate::policy::State,
    judge: &Judge,
    record: &DecisionRecord,
    row: usize,
    known: history::Known,
) {
    use crate::policy::Observation;
    match known {
        history::Known::Reward(reward) => {
            policy.observe(state, record, row, Observation::Reward(reward));
        }
        history::Known::Label(label) => {
            let losses = judge.losses(record, row, &label);
            policy.observe(state, record, row, Observation::Losses(&losses));
        }
    }
}

fn decide(
    policy: &Policy,
    state: &crate::policy::State,
    time: u64,
    ways: Ways,
    rng: &mut SmallRng,
) -> DecisionRecord {
    let names = arms();
    let masked = rng.random_bool(ways.masked);
    let live = |place: usize| !(masked && place == 0);
    let set: Vec<LiveArm<'_>> = names
        .iter()
        .enumerate()
        .map(|(place, arm)| LiveArm { arm, live: live(place), availability: 1.0, pending: 0 })
        .collect();
    let selection = policy.draw(state, &Situation { arms: &set, features: &[] }, rng);
    let rows = ways.rows.max(1);
    let records: Vec<ArmRecord> = names
        .iter()
        .enumerate()
        .map(|(place, arm)| {
            let late = rng.random_bool(ways.late[place]);
            // Rows of a query go well or ill together.
            let luck: f64 = rng.random();
            let right = luck < RIGHT[place];
            let (outcome, labels) = match (live(place), selection.chosen.contains(&place), late) {
                (false, ..) => (Outcome::Masked, Vec::new()),
                (_, false, _) => (Outcome::NotAsked, Vec::new()),
                (_, _, true) => (Outcome::Late, Vec::new()),
                _ => (Outcome::Used, vec![Some(Label::Int(i64::from(right))); rows]),
            };
            ArmRecord {
                arm: Arc::clone(arm),
                version: "1".into(),
                q: selection.q[place],
                weight: selection.weights[place],
                outcome,
                labels,
                scores: Vec::new(),
            }
        })
        .collect();
    let mut votes = [0.0; 2];
    for arm in &records {
        if let Some(Some(Label::Int(label))) = arm.labels.first() {
            votes[*label as usize] += arm.weight;
        }
    }
    let answered = votes[0] + votes[1] > 0.0;
    let label = answered.then(|| Label::Int(i64::from(votes[1] > votes[0])));
    DecisionRecord {
        id: DecisionId::new(time, [1; 3], time as u32, [0; 16]),
        time_ms: time,
        application: "app".into(),
        context: Arc::default(),
        features: Vec::new(),
        features_kept: None,
        policy: policy.name().into(),
        state_version: 0,
        arms: records,
        answer: vec![RowRecord { label, p: 1.0, arm: None, default: !answered }; rows],
        shadow: None,
    }
}

fn report(world: &World, targets: &[Target]) -> Report {
    let judge = Judge::new(Scoring::default(), &world.decisions).expect("labels are integers");
    let history = History::new(world.decisions.clone(), world.feedback.clone(), &judge);
    let options = Options { confidence: 0.999, ..Options::default() };
    evaluate(&history, &judge, targets, &options)
}

fn estimates(report: &Report, at: usize) -> Estimates {
    *report.policies[at].estimates.as_ref().expect("not refused")
}

fn refusal(report: &Report, at: usize) -> Refusal {
    report.policies[at].estimates.clone().expect_err("refused")
}

fn holds(estimate: Estimate, truth: f64) {
    let (from, to) = estimate.interval.expect("an interval");
    assert!(from <= truth && truth <= to, "{truth} is not in {estimate}");
    assert!(to - from < 0.2, "{estimate} says little");
}

const SPLIT: [(&str, f64); 3] = [("a", 50.0), ("b", 30.0), ("c", 20.0)];
const OTHER: [(&str, f64); 3] = [("a", 10.0), ("b", 10.0), ("c", 80.0)];

fn mean_of(weights: &[(&str, f64)], earns: [f64; 3]) -> f64 {
    let all: f64 = weights.iter().map(|(_, weight)| weight).sum();
    weights.iter().zip(earns).map(|((_, weight), earns)| weight / all * earns).sum()
}

#[test]
fn every_estimator_finds_what_another_split_earns() {
    for rewards in [false, true] {
        let world = play(&policy("static", &SPLIT), 1, Ways { rewards, ..Ways::default() });
        let report = report(&world, &[target("static", &OTHER)]);
        let truth = mean_of(&OTHER, RIGHT);
        let found = estimates(&report, 0);
        for estimate in [Some(found.ips), Some(found.clipped), found.snips, found.doubly_robust] {
            holds(estimate.unwrap(), truth);
        }
        assert!((found.direct.unwrap().value - truth).abs() < 0.03, "{found:?}");
        assert!((found.cressie_read.unwrap() - truth).abs() < 0.04, "{found:?}");
        holds(report.logged.unwrap(), mean_of(&SPLIT, RIGHT));
        assert!((report.logged.unwrap().value - world.earned / DECISIONS as f64).abs() < 1e-9);
        assert_eq!(report.audit.failed(), None);
    }
}

/// An arm that is late earned nothing, and what it is worth when it answers is no excuse.
#[test]
fn late_arms_earn_nothing() {
    let late = [0.5, 0.0, 0.0];
    let world = play(&policy("static", &SPLIT), 2, Ways { late, ..Ways::default() });
    let report = report(&world, &[target("static", &[("a", 1.0), ("b", 0.0), ("c", 0.0)])]);
    holds(estimates(&report, 0).ips, 0.5 * RIGHT[0]);
    holds(estimates(&report, 0).doubly_robust.unwrap(), 0.5 * RIGHT[0]);
}

/// A target is renormalised on the arms that were live.
#[test]
fn a_masked_arm_is_no_choice() {
    let world = play(&policy("static", &SPLIT), 3, Ways { masked: 0.5, ..Ways::default() });
    let report = report(&world, &[target("static", &OTHER)]);
    let without = (10.0 * RIGHT[1] + 80.0 * RIGHT[2]) / 90.0;
    holds(estimates(&report, 0).ips, 0.5 * mean_of(&OTHER, RIGHT) + 0.5 * without);
}

/// Ten rows that go well or ill together are one piece of evidence.
#[test]
fn errors_are_those_of_decisions_and_not_of_rows() {
    let split = policy("static", &SPLIT);
    let targets = [target("static", &OTHER)];
    let one = report(&play(&split, 4, Ways { rows: 1, ..Ways::default() }), &targets);
    let ten = report(&play(&split, 4, Ways { rows: 10, ..Ways::default() }), &targets);
    assert_eq!(ten.rows, 10 * one.rows);
    let (a, b) = (estimates(&one, 0).ips.error.unwrap(), estimates(&ten, 0).ips.error.unwrap());
    assert!((a / b - 1.0).abs() < 0.05, "{a} and {b}");
    assert_eq!(ten.policies[0].diagnostics.joined, DECISIONS as usize);
}

/// What a policy earns while it learns from another one's log is near what it earns live.
#[test]
fn a_learner_is_replayed() {
    let world = play(&policy("static", &[]), 5, Ways::default());
    let report = report(&world, &[target("exp3", &[("eta", 0.1)])]);
    let live = (0..8)
        .map(|seed| play(&policy("exp3", &[("eta", 0.1)]), seed, Ways::default()).earned)
        .sum::<f64>()
        / (8.0 * DECISIONS as f64);
    let found = estimates(&report, 0);
    assert!(live > 0.74, "it learns: {live}");
    holds(found.doubly_robust.unwrap(), live);
    holds(found.ips, live);
}

/// The policy that made the log, replayed with its log, is what earned the log's mean.
#[test]
fn a_learner_s_own_log_gives_its_own_mean() {
    let world = play(&policy("exp3", &[]), 6, Ways::default());
    let report = report(&world, &[target("exp3", &[])]);
    let judged = &report.policies[0];
    assert!((judged.diagnostics.mean_weight - 1.0).abs() < 1e-9, "{judged:?}");
    assert!((judged.diagnostics.largest_weight - 1.0).abs() < 1e-9, "{judged:?}");
    let own = world.earned / DECISIONS as f64;
    assert!((estimates(&report, 0).ips.value - own).abs() < 1e-9);
}

/// Where every arm was asked, a target that combines is judged by its own combination.
#[test]
fn combinations_are_judged_where_all_were_asked() {
    let world = play(&policy("hedge", &[]), 7, Ways::default());
    let report = report(&world, &[target("hedge", &[]), target("static", &OTHER)]);
    let own = world.earned / DECISIONS as f64;
    assert!((estimates(&report, 0).ips.value - own).abs() < 1e-9, "{report:?}");
    assert_eq!(estimates(&report, 0).direct, None);
    let full = &report.policies[1];
    assert!((full.diagnostics.effective - DECISIONS as f64).abs() < 1e-6, "{full:?}");
    holds(estimates(&report, 1).ips, mean_of(&OTHER, RIGHT));
}

#[test]
fn combinations_are_refused_where_not_all_were_asked() {
    let world = play(&policy("static", &[]), 8, Ways::default());
    let refused = refusal(&report(&world, &[target("hedge", &[])]), 0);
    assert_eq!(refused, Refusal::NotAllAsked { share: 1.0 });
    let world = play(&policy("static", &[]), 8, Ways { rewards: true, ..Ways::default() });
    assert_eq!(refusal(&report(&world, &[target("hedge", &[])]), 0), Refusal::NeedsLabels);
}

#[test]
fn an_answer_that_does_not_come_out_again_is_refused() {
    let mut world = play(&policy("hedge", &[]), 9, Ways::default());
    for record in world.decisions.iter_mut().step_by(10) {
        record.answer[0].label = Some(Label::Int(7));
    }
    let Refusal::NotReproduced { agreement } = refusal(&report(&world, &[target("hedge", &[])]), 0)
    else {
        panic!("another refusal");
    };
    assert!((agreement - 0.9).abs() < 0.01, "{agreement}");
}

#[test]
fn arms_without_a_chance_are_no_overlap() {
    let split = [("a", 1.0), ("b", 1.0), ("c", 0.0)];
    let world = play(&policy("static", &split), 10, Ways::default());
    let refused = refusal(&report(&world, &[target("static", &OTHER)]), 0);
    let Refusal::NoOverlap { arm, share } = refused else { panic!("{refused}") };
    assert_eq!(arm, "c");
    assert!((share - 0.8).abs() < 1e-9);
}

#[test]
fn little_overlap_and_no_feedback_are_refused() {
    let split = [("a", 996.0), ("b", 2.0), ("c", 2.0)];
    let mut world = play(&policy("static", &split), 11, Ways::default());
    let refused = refusal(&report(&world, &[target("static", &OTHER)]), 0);
    assert!(matches!(refused, Refusal::FewEffective { .. }), "{refused}");
    world.feedback.clear();
    let refused = refusal(&report(&world, &[target("static", &OTHER)]), 0);
    assert_eq!(refused, Refusal::NoFeedback { decisions: DECISIONS as usize });
}

/// Feedback that comes more often for one arm than for another would pass for a better arm.
#[test]
fn feedback_that_depends_on_the_arm_is_refused() {
    let mut world = play(&policy("static", &SPLIT), 12, Ways::default());
    let mut rng = SmallRng::seed_from_u64(1);
    let decisions = &world.decisions;
    world.feedback.retain(|given| {
        let record = &decisions[given.decision.time_ms() as usize];
        record.arms[2].outcome != Outcome::Used || rng.random_bool(0.5)
    });
    let refused = refusal(&report(&world, &[target("static", &OTHER)]), 0);
    assert!(matches!(refused, Refusal::MeanWeight { .. }), "{refused}");
}

#[test]
fn a_log_with_other_probabilities_is_refused() {
    let mut world = play(&policy("static", &SPLIT), 13, Ways::default());
    for record in &mut world.decisions {
        for (arm, q) in record.arms.iter_mut().zip([0.4, 0.3, 0.3]) {
            arm.q = q;
        }
    }
    let refused = refusal(&report(&world, &[target("static", &SPLIT)]), 0);
    assert!(matches!(refused, Refusal::Audit { .. }), "{refused}");
}

/// The model of features takes away what features explain, and does not bias.
#[test]
fn features_make_the_doubly_robust_interval_narrower() {
    let mut world = play(&policy("static", &SPLIT), 14, Ways::default());
    let mut rng = SmallRng::seed_from_u64(2);
    for record in &mut world.decisions {
        let x: f32 = rng.random();
        record.features = vec![x];
        for arm in record.arms.iter_mut().filter(|arm| arm.outcome == Outcome::Used) {
            // Right where x is large, for every arm alike.
            arm.labels = vec![Some(Label::Int(i64::from(rng.random_bool(f64::from(x)))))];
        }
    }
    let report = report(&world, &[target("static", &OTHER)]);
    let found = estimates(&report, 0);
    holds(found.doubly_robust.unwrap(), 0.5);
    let (with, without) = (found.doubly_robust.unwrap().error, found.ips.error);
    assert!(with.unwrap() < 0.75 * without.unwrap(), "{with:?} {without:?}");
}

#[test]
fn fractions_need_a_loss() {
    let mut record = one();
    record.arms[0].labels = vec![Some(Label::Real(0.5))];
    for arm in &mut record.arms[1..] {
        arm.labels.clear();
    }
    let records = [record];
    assert_eq!(Judge::new(Scoring::default(), &records).err(), Some(JudgeError::Fractions(0.5)));
    let scoring =
        Scoring { loss: Some(crate::Loss::Squared), loss_cap: 4.0, class_labels: Vec::new() };
    let judge = Judge::new(scoring, &records).expect("squares of differences");
    let losses = judge.losses(&records[0], 0, &judge.cast(&Label::Int(2)).unwrap());
    assert_eq!(losses[0], Some(2.25 / 4.0));
}

/// Feedback by input teaches a target as it taught the policy that was there.
#[test]
fn what_came_by_input_is_learned() {
    let mut world = play(&policy("static", &[]), 15, Ways::default());
    world.feedback.clear();
    let answer = |arm: &ArmRecord| ArmRecord {
        outcome: Outcome::Used,
        q: 1.0,
        labels: vec![Some(Label::Int(i64::from(*arm.arm == *"c")))],
        ..arm.clone()
    };
    for record in world.decisions.iter().take(100) {
        world.feedback.push(GivenFeedback {
            decision: DecisionId::new(record.time_ms, [9; 3], 0, [9; 16]),
            row: None,
            value: FeedbackValue::Labels(vec![Label::Int(1)]),
            time_ms: record.time_ms,
            input: Some(InputAnswers {
                context: Arc::default(),
                arms: record.arms.iter().map(answer).collect(),
            }),
        });
    }
    // Rewards that come after all decisions teach nothing in time.
    for record in world.decisions.iter().skip(200) {
        world.feedback.push(GivenFeedback {
            decision: record.id,
            row: None,
            value: FeedbackValue::Reward(told(record, 0)),
            time_ms: DECISIONS + record.time_ms,
            input: None,
        });
    }
    let report = report(&world, &[target("exp3", &[("eta", 0.2)])]);
    assert_eq!(report.rows, DECISIONS as usize - 200);
    // All weight is on c by now, but for the floor; without the inputs it would be on all alike.
    holds(estimates(&report, 0).ips, RIGHT[2]);
    let (_, to) = estimates(&report, 0).ips.interval.unwrap();
    assert!(to < RIGHT.iter().sum::<f64>() / 3.0, "{report:?}");
}

/// Each context has a state of its own, as live.
#[test]
fn contexts_are_learned_apart() {
    let mut world = play(&policy("static", &[]), 16, Ways::default());
    for (record, context) in world.decisions.iter_mut().zip(["x", "y"].iter().cycle()) {
        record.context = (*context).into();
        let best = if *context == "x" { "a" } else { "c" };
        for arm in record.arms.iter_mut().filter(|arm| arm.outcome == Outcome::Used) {
            arm.labels = vec![Some(Label::Int(i64::from(*arm.arm == *best)))];
        }
    }
    let report = report(&world, &[target("exp3", &[("eta", 0.2)])]);
    let found = estimates(&report, 0).doubly_robust.unwrap();
    // One state for both would earn a half.
    assert!(found.interval.unwrap().0 > 0.85, "{found}");
}

/// Rows of a decision are correlated, weights are not 1, and the interval holds all the same.
#[test]
fn intervals_hold_as_often_as_they_say() {
    const RUNS: u64 = 400;
    const ROWS: usize = 3;
    let (q, pi) = ([0.5, 0.3, 0.2], [0.1, 0.2, 0.7]);
    let truth = mean_of(&[("a", pi[0]), ("b", pi[1]), ("c", pi[2])], RIGHT);
    let mut held = [0_u32; 3];
    for seed in 0..RUNS {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut rows = Rows::new(10.0);
        for decision in 0..500 {
            let draw: f64 = rng.random();
            let arm = if draw < q[0] { 0 } else { usize::from(draw >= q[0] + q[1]) + 1 };
            let luck: f64 = rng.random();
            for _ in 0..ROWS {
                // Mostly one luck for all rows.
                let luck = if rng.random_bool(0.8) { luck } else { rng.random() };
                let reward = if luck < RIGHT[arm] { 1.0 } else { 0.0 };
                let predicted = [0.7, 0.7, 0.4];
                let model = pi.iter().zip(predicted).map(|(pi, p)| pi * p).sum();
                let term = Term { weight: pi[arm] / q[arm], reward, predicted: predicted[arm] };
                rows.push(decision, Some(model), &[term]);
            }
        }
        let found = rows.estimates(0.95);
        for (held, estimate) in
            held.iter_mut().zip([Some(found.ips), found.snips, found.doubly_robust])
        {
            let (from, to) = estimate.unwrap().interval.unwrap();
            *held += u32::from(from <= truth && truth <= to);
        }
    }
    for held in held {
        let share = f64::from(held) / RUNS as f64;
        assert!((0.92..=0.98).contains(&share), "{held} of {RUNS}");
    }
}
