use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

use super::*;

const ARMS: usize = 4;
const DECISIONS: usize = 200_000;

/// ε-greedy with ε = .2: what is drawn from, by the place of the best arm.
fn drawn_from(best: usize) -> [f64; ARMS] {
    std::array::from_fn(|arm| if arm == best { 0.85 } else { 0.05 })
}

fn draw(q: &[f64], rng: &mut dyn Rng) -> usize {
    let mut left: f64 = rng.random();
    for (arm, q) in q.iter().enumerate() {
        left -= q;
        if left < 0.0 {
            return arm;
        }
    }
    q.len() - 1
}

/// Mean weights of targets that ask the best arm, and the one behind it, beside the checks.
struct Outcome {
    best: f64,
    other: f64,
    audit: Audit,
}

/// `log` says what is recorded of a draw: probabilities, the arm, and the arm's own probability.
fn experiment(
    log: impl Fn([f64; ARMS], usize, &mut SmallRng) -> ([f64; ARMS], usize, f64),
) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(6);
    let (mut tally, mut best_sum, mut other_sum) = (Tally::default(), 0.0, 0.0);
    for _ in 0..DECISIONS {
        // Which arm is the best depends on the query.
        let best = rng.random_range(0..ARMS);
        let q = drawn_from(best);
        let arm = draw(&q, &mut rng);
        let (q, arm, p) = log(q, arm, &mut rng);
        tally.add(&Drawn { q: &q, asked: &[(arm, p)], live: &[true; ARMS] });
        best_sum += if arm == best { 1.0 / p } else { 0.0 };
        other_sum += if arm == (best + 1) % ARMS { 1.0 / p } else { 0.0 };
    }
    let n = DECISIONS as f64;
    Outcome { best: best_sum / n, other: other_sum / n, audit: tally.finish() }
}

/// One decision in ten goes to another arm than the one that was drawn.
fn overridden(arm: usize, rng: &mut SmallRng) -> usize {
    if rng.random_bool(0.1) { (arm + rng.random_range(1..ARMS)) % ARMS } else { arm }
}

fn weights(audit: &Audit) -> &[Check] {
    &audit.checks[..2]
}

#[test]
fn a_right_log_passes() {
    let Outcome { best, other, audit } = experiment(|q, arm, _| (q, arm, q[arm]));
    assert!((best - 1.0).abs() < 0.01 && (other - 1.0).abs() < 0.05, "{best} {other}");
    assert_eq!(audit.failed(), None);
    assert_eq!(audit.checks.len(), 2 + ARMS);
}

/// The override that no weight shows, and that the ranks show.
#[test]
fn an_override_under_the_first_choice_s_probability_is_seen_by_the_ranks_alone() {
    let Outcome { best, other, audit } =
        experiment(|q, arm, rng| (q, overridden(arm, rng), q[arm]));
    assert!((best - 1.0).abs() < 0.01 && (other - 1.0).abs() < 0.05, "{best} {other}");
    assert!(weights(&audit).iter().all(|check| check.passed), "{:?}", audit.checks);
    let top = &audit.checks[2];
    assert!(!top.passed && (top.z + 99.0).abs() < 5.0, "{top}");
}

#[test]
fn an_override_under_its_own_probability_is_seen_by_both() {
    let Outcome { best, other, audit } = experiment(|q, arm, rng| {
        let arm = overridden(arm, rng);
        (q, arm, q[arm])
    });
    assert!((best - 0.907).abs() < 0.01 && (other - 1.52).abs() < 0.05, "{best} {other}");
    assert!(audit.checks.iter().take(3).all(|check| !check.passed), "{:?}", audit.checks);
}

#[test]
fn a_probability_of_one_is_seen_by_the_weights() {
    let Outcome { best, other, audit } = experiment(|q, arm, _| (q, arm, 1.0));
    assert!((best - 0.85).abs() < 0.01 && (other - 0.05).abs() < 0.01, "{best} {other}");
    assert!(weights(&audit).iter().all(|check| !check.passed), "{:?}", audit.checks);
}

/// .8 to one arm and the rest to the others is what the floor of .2/4 makes .85 and .05 of.
#[test]
fn probabilities_from_before_the_floor_are_seen_by_both() {
    let Outcome { best, other, audit } = experiment(|q, arm, _| {
        let before = q.map(|q| if q > 0.5 { 0.8 } else { 0.2 / 3.0 });
        (before, arm, before[arm])
    });
    assert!((best - 1.064).abs() < 0.01 && (other - 0.746).abs() < 0.02, "{best} {other}");
    assert!(audit.checks.iter().take(3).all(|check| !check.passed), "{:?}", audit.checks);
}

#[test]
fn an_arm_that_is_always_asked_must_have_been() {
    let mut tally = Tally::default();
    for _ in 0..1_000 {
        let asked = [(0, 1.0), (1, 1.0)];
        tally.add(&Drawn { q: &[1.0, 1.0], asked: &asked, live: &[true, true] });
    }
    assert_eq!(tally.clone().finish().failed(), None);
    tally.add(&Drawn { q: &[1.0, 1.0], asked: &[(0, 1.0)], live: &[true, true] });
    let failed = tally.finish().failed().expect("an arm was left out");
    assert!(failed.contains("uniform") && failed.contains("-inf"), "{failed}");
}

/// A rare arm that is drawn a few times too often, by luck, is no alarm.
#[test]
fn few_draws_of_rare_arms_are_no_alarm() {
    let mut alarms = 0;
    for seed in 0..500 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut tally = Tally::default();
        let q = [0.9966, 0.0034];
        for _ in 0..1_000 {
            let arm = draw(&q, &mut rng);
            tally.add(&Drawn { q: &q, asked: &[(arm, q[arm])], live: &[true; 2] });
        }
        alarms += usize::from(tally.finish().failed().is_some());
    }
    assert!(alarms <= 1, "{alarms} of 500");
}
