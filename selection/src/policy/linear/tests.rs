//! The regressions, and what the three policies make of them.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    super::{
        KNOWN_POLICIES, Policy,
        tests::{close, policy, record},
    },
    *,
};
use crate::Outcome;

const LINEAR: [&str; 3] = ["linucb", "lin_thompson", "squarecb"];

fn of(name: &str, parameters: &[(&str, f64)], arms: usize, features: usize) -> Policy {
    let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    let names: Vec<Arc<str>> =
        "abcdefgh".chars().take(arms).map(|a| a.to_string().into()).collect();
    Policy::new(name, &parameters, &names, features).unwrap()
}

fn message(name: &str, parameters: &[(&str, f64)], features: usize) -> String {
    let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    Policy::new(name, &parameters, &["a".into()], features).unwrap_err().to_string()
}

/// A row in which one of `arms` arms lost so much at these features.
fn learn(
    policy: &Policy,
    state: &mut State,
    arms: usize,
    arm: usize,
    x: &[f32],
    loss: f64,
) -> bool {
    let mut losses = vec![None; arms];
    losses[arm] = Some(loss);
    let labels: Vec<_> = losses.iter().map(|loss| loss.map(|_| 1)).collect();
    let mut decision = record(&vec![1.0 / arms as f64; arms], &labels);
    decision.features = x.to_vec();
    policy.observe(state, &decision, 0, Observation::Losses(&losses))
}

fn live_arms(arms: usize) -> Vec<LiveArm<'static>> {
    ["a", "b", "c", "d", "e", "f", "g", "h"][..arms]
        .iter()
        .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
        .collect()
}

fn select(policy: &Policy, state: &State, arms: &[LiveArm<'_>], x: &[f32]) -> Selection {
    policy.draw(state, &Situation { arms, features: x }, &mut SmallRng::seed_from_u64(1))
}

/// One with no intercept, no standardisation and no floor.
fn plain(features: usize, lambda: f64) -> Regression {
    let names = ["a".into(), "b".into(), "c".into()];
    Regression::new("test", &names, features, [lambda, 0.0, 0.0, 1.0, 0.0, 20.0]).unwrap()
}

#[test]
fn what_cannot_be_learned_from_is_refused_with_a_way_out() {
    let refused = "policy 'linucb' needs context features; set the application's \
                   context_features_dim to their number, 1 to 128";
    assert_eq!(message("linucb", &[], 0), refused);
    assert!(message("lin_thompson", &[], 0).contains("context_features_dim"));
    assert!(
        message("squarecb", &[("intercept", 0.0)], 0)
            .starts_with("policy 'squarecb' with intercept 0 needs context features")
    );
    assert_eq!(
        message("squarecb", &[], 129),
        "policy 'squarecb' takes 128 context features at most, got 129; its state grows with \
         their square"
    );
    for (name, bad) in
        [("lambda", 0.0), ("lambda", f64::NAN), ("intercept", 0.5), ("discount", 0.0)]
    {
        assert!(message("linucb", &[(name, bad)], 2).contains(&format!("'{name}' is")), "{name}");
    }
    assert!(message("linucb", &[("v", 1.0)], 2).contains(
        "it has: alpha, lambda, intercept, standardise, discount, floor, prior_strength"
    ));
}

/// The scores of mabwiser 2.7.4 for these six rows, alpha 1.25.
#[test]
fn linucb_has_the_reference_scores() {
    let rows: [(usize, f64, [f32; 2]); 6] = [
        (0, 1.0, [1.0, 0.0]),
        (0, 0.0, [0.5, 1.0]),
        (1, 1.0, [0.0, 1.0]),
        (1, 1.0, [1.0, 1.0]),
        (1, 0.0, [0.2, 0.4]),
        (2, 0.0, [1.0, 0.3]),
    ];
    let mut sums = [const { Vec::new() }; 3];
    for (arm, reward, x) in rows {
        sums::add(&mut sums[arm], &x, reward);
    }
    let reference = [
        (1.0, [0.686_757_817_8, 0.950_265_775_3, 0.843_680_774_2]),
        (2.0, [0.579_232_212_1, 0.795_280_148_1, 0.622_385_307_4]),
    ];
    for (lambda, want) in reference {
        let regression = plain(2, lambda);
        let known: Vec<_> = sums.iter().map(|sums| Sums::read(sums, 2).unwrap()).collect();
        let scale = Scale::new(&known, 2, false, false);
        let z = scale.point(&[0.3, 0.7]);
        for (sums, want) in known.iter().zip(want) {
            let ridge = regression.solve(Some(*sums), &scale);
            let got = ridge.mean(&z) + 1.25 * ridge.variance(&z).sqrt();
            // The features are f32 there and here, so that .3 is not quite .3.
            assert!((got - want).abs() < 1e-7, "lambda {lambda}: got {got}, want {want}");
        }
    }
}

/// With one feature per kind of query the regression is a mean per kind, and the score UCB's.
#[test]
fn one_hot_features_make_it_ucb() {
    let regression = plain(3, 1.0);
    let mut rng = SmallRng::seed_from_u64(2);
    let (mut sums, mut count, mut total) = (Vec::new(), [0.0; 3], [0.0; 3]);
    for _ in 0..200 {
        let (kind, y) = (rng.random_range(0..3), rng.random::<f64>());
        let mut x = [0.0_f32; 3];
        x[kind] = 1.0;
        sums::add(&mut sums, &x, y);
        count[kind] += 1.0;
        total[kind] += y;
    }
    let known = Sums::read(&sums, 3).unwrap();
    let scale = Scale::new(&[known], 3, false, false);
    let ridge = regression.solve(Some(known), &scale);
    for kind in 0..3 {
        let mut x = [0.0_f32; 3];
        x[kind] = 1.0;
        let z = scale.point(&x);
        close(ridge.mean(&z), total[kind] / (1.0 + count[kind]));
        close(ridge.variance(&z), 1.0 / (1.0 + count[kind]));
    }
}

/// Solved here by Gauss and Jordan, in the coordinates that the documentation states.
#[test]
fn standardised_sums_solve_what_standardised_rows_do() {
    let mut rng = SmallRng::seed_from_u64(3);
    let names = ["a".into(), "b".into()];
    let regression = Regression::new("test", &names, 3, [0.7, 1.0, 1.0, 1.0, 0.0, 20.0]).unwrap();
    let mut rows = Vec::new();
    for row in 0..300 {
        let x: [f32; 3] = [
            1e4 + 30.0 * rng.random::<f32>(),
            1e-3 * rng.random::<f32>(),
            if row % 3 == 0 { 1.0 } else { 0.0 },
        ];
        rows.push((row % 2, x, rng.random::<f64>() - 0.5));
    }
    let mut sums = [Vec::new(), Vec::new()];
    for (arm, x, y) in &rows {
        sums::add(&mut sums[*arm], x, *y);
    }
    let known: Vec<_> = sums.iter().map(|sums| Sums::read(sums, 3).unwrap()).collect();
    let scale = Scale::new(&known, 3, true, true);
    let ridge = regression.solve(Some(known[1]), &scale);

    let n = rows.len() as f64;
    let mean = |i: usize| rows.iter().map(|(_, x, _)| f64::from(x[i])).sum::<f64>() / n;
    let mean = [mean(0), mean(1), mean(2)];
    let square =
        |i: usize| rows.iter().map(|(_, x, _)| (f64::from(x[i]) - mean[i]).powi(2)).sum::<f64>();
    let deviation = [0, 1, 2].map(|i| (square(i) / n).sqrt());
    let point = |x: &[f32; 3]| {
        let z = |i: usize| (f64::from(x[i]) - mean[i]) / deviation[i];
        [1.0, z(0), z(1), z(2)]
    };
    let (mut a, mut b) = ([[0.0; 4]; 4], [0.0; 4]);
    for (i, row) in a.iter_mut().enumerate() {
        row[i] = 0.7;
    }
    for (_, x, y) in rows.iter().filter(|(arm, ..)| *arm == 1) {
        let z = point(x);
        for i in 0..4 {
            b[i] += z[i] * y;
            for j in 0..4 {
                a[i][j] += z[i] * z[j];
            }
        }
    }
    for (_, x, _) in &rows[..20] {
        let z = point(x);
        let (theta, width) = (solve(a, b), solve(a, z));
        let want: f64 = theta.iter().zip(z).map(|(t, z)| t * z).sum();
        let want_variance: f64 = width.iter().zip(z).map(|(w, z)| w * z).sum();
        let got = scale.point(x);
        // A mean of 10⁴ and a deviation of 9 cost six of sixteen digits.
        assert!((ridge.mean(&got) - want).abs() < 1e-8, "{} {want}", ridge.mean(&got));
        assert!((ridge.variance(&got) - want_variance).abs() < 1e-8);
    }
}

fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for i in 0..N {
        let pivot = a[i][i];
        a[i] = a[i].map(|value| value / pivot);
        b[i] /= pivot;
        for j in (0..N).filter(|j| *j != i) {
            let factor = a[j][i];
            let row = a[i];
            for (value, from) in a[j].iter_mut().zip(row) {
                *value -= factor * from;
            }
            b[j] -= factor * b[i];
        }
    }
    b
}

/// Contexts of scale 100 that all but lie on one line: a running inverse in f32 ends with a
/// negative eigenvalue there, and the width is no number.
#[test]
fn near_collinear_features_give_numbers() {
    for standardise in [0.0, 1.0] {
        for name in LINEAR {
            let policy = of(name, &[("standardise", standardise), ("lambda", 1e-3)], 2, 3);
            let mut state = policy.init();
            let mut rng = SmallRng::seed_from_u64(4);
            let mut x = [0.0; 3];
            for row in 0..20_000 {
                let base = 100.0 * rng.random::<f32>();
                x = [base, base * (1.0 + 1e-6 * rng.random::<f32>()), -base];
                learn(&policy, &mut state, 2, row % 2, &x, f64::from(base / 100.0));
            }
            for x in [x, [1e30, -1e30, 1e-30], [f32::MAX; 3], [0.0; 3], [100.0, -100.0, 100.0]] {
                let selection = select(&policy, &state, &live_arms(2), &x);
                let sum: f64 = selection.q.iter().sum();
                assert!((sum - 1.0).abs() < 1e-9, "{name}: {selection:?} at {x:?}");
                let fitted = policy_fit(&policy, &state);
                let z = fitted.scale.point(&x);
                for arm in 0..2 {
                    let variance = fitted.variance(arm, &z);
                    assert!(variance >= 0.0 && fitted.mean(arm, &z).is_finite(), "{name} {x:?}");
                }
            }
        }
    }
}

fn policy_fit(policy: &Policy, state: &State) -> Arc<Fitted> {
    match policy.prepare(state, &live_arms(2)) {
        Prepared(Made::Linear(fitted)) => fitted,
        Prepared(other) => panic!("prepared {other:?}"),
    }
}

/// The largest features that there are, learned from: every number stays one.
#[test]
fn wild_features_are_survived() {
    for name in LINEAR {
        for standardise in [0.0, 1.0] {
            let policy = of(name, &[("standardise", standardise)], 2, 2);
            let mut state = policy.init();
            for row in 0..100 {
                let x = [[f32::MAX, 1.0], [f32::MIN, -1.0], [1e-40, 0.0], [0.0; 2]][row % 4];
                learn(&policy, &mut state, 2, row % 2, &x, (row % 3) as f64 / 2.0);
            }
            for x in [[f32::MAX, f32::MIN], [0.0, 1e-45], [1.0, 1.0]] {
                let q = select(&policy, &state, &live_arms(2), &x).q;
                assert!((q[0] + q[1] - 1.0).abs() < 1e-9, "{name}: {q:?} at {x:?}");
            }
        }
    }
}

#[test]
fn a_constant_feature_says_nothing() {
    let policy = of("linucb", &[("floor", 0.0)], 2, 2);
    let mut state = policy.init();
    let mut rng = SmallRng::seed_from_u64(5);
    for row in 0..1000 {
        let x = [0.1, rng.random::<f32>()];
        learn(&policy, &mut state, 2, row % 2, &x, f64::from(x[1]));
    }
    let fitted = policy_fit(&policy, &state);
    assert_eq!(fitted.scale.inverse[0], 0.0);
    let (usual, far) = (fitted.scale.point(&[0.1, 0.5]), fitted.scale.point(&[1e9, 0.5]));
    close(fitted.mean(0, &usual), fitted.mean(0, &far));
}

/// Of N values none is more than √N deviations away, so a rare one is not cut.
#[test]
fn only_what_is_beyond_all_that_was_seen_is_cut() {
    let mut sums = Vec::new();
    for row in 0..10_000 {
        sums::add(&mut sums, &[if row == 77 { 1.0 } else { 0.0 }], 0.0);
    }
    let scale = Scale::new(&[Sums::read(&sums, 1).unwrap()], 1, false, true);
    let rare = scale.point(&[1.0])[0];
    assert!((rare - (10_000.0_f64 - 1.0).sqrt()).abs() < 1e-6, "{rare}");
    assert_eq!(scale.point(&[5.0]), [100.0]);
}

#[test]
fn a_decision_with_other_features_moves_nothing() {
    for name in ["linucb", "lin_thompson"] {
        let policy = of(name, &[("discount", 0.9)], 2, 2);
        let mut state = policy.init();
        assert!(learn(&policy, &mut state, 2, 0, &[1.0, 2.0], 0.5));
        let before = state.clone();
        for x in [&[][..], &[1.0], &[1.0, 2.0, 3.0], &[1.0, f32::NAN], &[f32::INFINITY, 0.0]] {
            assert!(!learn(&policy, &mut state, 2, 0, x, 0.5));
        }
        assert_eq!(state, before);

        // The application takes three features now: what was learned of two is of no use.
        let wider = of(name, &[], 2, 3);
        let q = select(&wider, &state, &live_arms(2), &[1.0, 2.0, 3.0]).q;
        assert!((q[0] - 0.5).abs() < 1e-12, "{q:?}");
        assert!(learn(&wider, &mut state, 2, 0, &[1.0, 2.0, 3.0], 1.0));
        assert_eq!(state.arm("a").sums.len(), sums::length(3));
    }
}

/// Two arms, each the better one in its half of the features.
#[test]
fn each_learns_who_is_good_where() {
    for name in LINEAR {
        let policy = of(name, &[], 2, 1);
        let mut state = policy.init();
        let mut rng = SmallRng::seed_from_u64(6);
        let (mut last, rows) = (0, 2000);
        for row in 0..rows {
            let x = 2.0 * rng.random::<f32>() - 1.0;
            let situation = Situation { arms: &live_arms(2), features: &[x] };
            let arm = policy.draw(&state, &situation, &mut rng).chosen[0];
            let right = usize::from(x > 0.0);
            last += usize::from(row >= rows / 2 && arm == right);
            let loss = if arm == right { 0.1 } else { 0.9 };
            learn(&policy, &mut state, 2, arm, &[x], loss);
        }
        assert!(last as f64 >= 0.9 * f64::from(rows / 2), "{name}: right {last} times, seed 6");
        // Both are as good at the mean, so their weights there are far from 0 and 1; which is
        // greedy's to break for linucb.
        let weights = policy.weights(&state, &live_arms(2));
        close(weights.iter().sum(), 1.0);
    }
}

#[test]
fn rows_under_way_turn_linucb_to_another_arm() {
    let policy = of("linucb", &[("floor", 0.0)], 2, 2);
    assert!(policy.counts_pending() && !of("squarecb", &[], 2, 2).counts_pending());
    let mut state = policy.init();
    for row in 0..20_u8 {
        let x = [f32::from(row % 4), f32::from(row % 3)];
        learn(&policy, &mut state, 2, 0, &x, 0.4);
        learn(&policy, &mut state, 2, 1, &x, 0.5);
    }
    let mut arms = live_arms(2);
    assert_eq!(select(&policy, &state, &arms, &[1.0, 1.0]).q, [1.0, 0.0]);
    arms[0].pending = 100;
    assert_eq!(select(&policy, &state, &arms, &[1.0, 1.0]).q, [0.0, 1.0]);

    // Of which nothing is known but that rows are under way: the other one's turn.
    let fresh = policy.init();
    assert_eq!(select(&policy, &fresh, &arms, &[1.0, 1.0]).q, [0.0, 1.0]);
    arms[1].pending = 100;
    assert_eq!(select(&policy, &fresh, &arms, &[1.0, 1.0]).q, [0.5, 0.5]);
}

#[test]
fn a_prior_is_warm_and_capped_and_replays() {
    for name in LINEAR {
        let policy = of(name, &[("prior_strength", 10.0)], 3, 2);
        let mut state = policy.init();
        for row in 0..100_u8 {
            let x = [f32::from(row % 7), f32::from(row % 5)];
            learn(&policy, &mut state, 3, 0, &x, f64::from(row % 2));
        }
        for row in 0..4_u8 {
            learn(&policy, &mut state, 3, 1, &[f32::from(row), 1.0], 0.25);
        }
        let prior = policy.prior(&state);
        for (got, want) in prior.arm("a").sums.iter().zip(&state.arm("a").sums) {
            close(*got, want / 10.0);
        }
        assert_eq!(prior.arm("b").sums, state.arm("b").sums);
        assert_eq!(prior.arm("c").sums, []);
        assert!(prior.arms().all(|(_, arm)| arm.observations == 0 && arm.prior_sums == arm.sums));

        let run = |mut state: State| {
            for row in 0..50_u8 {
                let x = [0.1 * f32::from(row), -f32::from(row % 3)];
                learn(&policy, &mut state, 3, usize::from(row % 3), &x, f64::from(row % 4) / 3.0);
            }
            state
        };
        let context = run(prior.clone());
        assert_eq!(context.beginning(), prior);
        // After a crash: the same to the bit, through the bytes, too.
        let stored = policy.decode(&policy.encode(&context)).unwrap().unwrap();
        assert_eq!(stored, context);
        assert_eq!(run(stored.beginning()), context);
    }
}

#[test]
fn a_discount_forgets_every_arm() {
    let policy = of("squarecb", &[("discount", 0.5)], 2, 1);
    let mut state = policy.init();
    learn(&policy, &mut state, 2, 0, &[2.0], 0.0);
    learn(&policy, &mut state, 2, 1, &[3.0], 1.0);
    assert_eq!(state.arm("a").sums, [0.5, 0.25, 1.0, 0.5, 2.0]);
    assert_eq!(state.arm("b").sums, [1.0, -0.5, 3.0, -1.5, 9.0]);
    assert_eq!(state.arm("a").observations, 1);
    for _ in 0..100 {
        learn(&policy, &mut state, 2, 1, &[3.0], 1.0);
    }
    assert_eq!(state.arm("a").sums, [0.0; 5], "and does not linger as a tiny number");
    assert!((state.arm("b").sums[0] - 2.0).abs() < 1e-9);
}

/// The better arm becomes the worse one; with a discount the policy notices.
#[test]
fn a_discount_follows_a_change() {
    let late_share = |discount: f64| {
        let policy = of("squarecb", &[("discount", discount)], 2, 0);
        let mut state = policy.init();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut right = 0;
        for row in 0..4000 {
            let good = usize::from(row >= 2000);
            let situation = Situation { arms: &live_arms(2), features: &[] };
            let arm = policy.draw(&state, &situation, &mut rng).chosen[0];
            learn(&policy, &mut state, 2, arm, &[], if arm == good { 0.3 } else { 0.6 });
            right += usize::from((2000..3000).contains(&row) && arm == good);
        }
        right as f64 / 1000.0
    };
    let (with, without) = (late_share(0.99), late_share(1.0));
    assert!(with > 0.6 && without < 0.3, "right {with} with a discount, {without} without");
}

#[test]
fn a_reward_is_learned_at_its_features() {
    for name in LINEAR {
        let (a, b) = (of(name, &[], 2, 1), of(name, &[], 2, 1));
        let (mut by_loss, mut by_reward) = (a.init(), b.init());
        learn(&a, &mut by_loss, 2, 1, &[0.5], 0.25);
        let mut decision = record(&[0.5, 0.5], &[None, Some(1)]);
        assert_eq!(decision.arms[1].outcome, Outcome::Used);
        decision.features = vec![0.5];
        assert!(b.observe(&mut by_reward, &decision, 0, Observation::Reward(0.75)));
        assert_eq!(by_loss, by_reward);
    }
}

#[test]
fn linear_policies_are_known() {
    assert!(LINEAR.iter().all(|name| KNOWN_POLICIES.contains(name)));
    assert!(LINEAR.iter().all(|name| policy(name, &[], 2).takes_rewards()));
}

proptest! {
    #[test]
    fn the_order_of_the_feedback_changes_nothing(
        rows in prop::collection::vec(
            (0_usize..3, -100.0..100.0_f32, 0.0..1.0_f32, 0.0..=1.0_f64), 1..60),
    ) {
        for name in LINEAR {
            let policy = of(name, &[], 3, 2);
            let run = |rows: &mut dyn Iterator<Item = &(usize, f32, f32, f64)>| {
                let mut state = policy.init();
                for (arm, x0, x1, loss) in rows {
                    learn(&policy, &mut state, 3, *arm, &[*x0, *x1], *loss);
                }
                state
            };
            let (forth, back) = (run(&mut rows.iter()), run(&mut rows.iter().rev()));
            for ((_, x), (_, y)) in forth.arms().zip(back.arms()) {
                prop_assert_eq!(x.observations, y.observations);
                prop_assert_eq!(x.sums.len(), y.sums.len());
                for (x, y) in x.sums.iter().zip(&y.sums) {
                    prop_assert!((x - y).abs() <= 1e-9 * x.abs().max(1.0), "{x} and {y}");
                }
            }
        }
    }
}
