//! The policies that compare arms by their mean reward.

use super::*;

const VALUES: [&str; 3] = ["epsilon_greedy", "ucb1", "thompson"];

/// Rewards of arms, one row each.
fn learned(policy: &Policy, rows: &[(usize, f64)]) -> State {
    let mut state = policy.init();
    for (arm, reward) in rows {
        let mut losses = [None; 8];
        losses[*arm] = Some(1.0 - reward);
        assert!(observe(policy, &mut state, &[0.5; 8], &losses));
    }
    state
}

fn q(policy: &Policy, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
    draw(policy, state, arms, &mut rng(1)).q
}

fn indices(ucb1: &Policy, state: &State, arms: usize) -> Vec<f64> {
    let Policy::Ucb1(ucb1) = ucb1 else { panic!("{ucb1}") };
    ucb1.indices(state, &all_live(arms), &(0..arms).collect::<Vec<_>>())
}

fn all_close(got: &[f64], want: &[f64], within: f64) {
    let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= within);
    assert!(near && got.len() == want.len(), "got {got:?}, want {want:?}");
}

/// mabwiser's with alpha 1, which is `c` = 2.
#[test]
fn ucb1_has_the_published_indices() {
    let ucb1 = policy("ucb1", &[("c", 2.0)], 3);
    let rows = [(0, 1.0), (0, 0.0), (1, 1.0), (1, 1.0), (1, 0.0), (2, 0.0)];
    let got = indices(&ucb1, &learned(&ucb1, &rows), 3);
    all_close(&got, &[1.838_566_199_0, 1.759_601_391_5, 1.893_018_472_9], 1e-10);
}

/// Vowpal Wabbit's: the third of four is best with ε = .4, and two of three are with ε = .1.
#[test]
fn epsilon_greedy_has_the_published_distributions() {
    let greedy = policy("epsilon_greedy", &[("epsilon", 0.4)], 4);
    let state = learned(&greedy, &[(0, 0.1), (1, 0.2), (2, 0.9), (3, 0.3)]);
    all_close(&q(&greedy, &state, &all_live(4)), &[0.1, 0.1, 0.7, 0.1], 1e-12);
    let greedy = policy("epsilon_greedy", &[("epsilon", 0.1)], 3);
    let state = learned(&greedy, &[(0, 0.1), (1, 0.9), (2, 0.9)]);
    all_close(&q(&greedy, &state, &all_live(3)), &[0.0333, 0.4833, 0.4833], 1e-4);
}

#[test]
fn epsilon_falls_with_what_is_known() {
    let third = policy("epsilon_greedy", &[("epsilon", 0.3), ("epsilon_decay", 1.0 / 3.0)], 2);
    let known =
        learned(&third, &[(0, 1.0), (1, 0.0), (1, 0.0), (1, 0.0), (0, 1.0), (0, 1.0), (1, 0.0)]);
    // (7 + 1)^(1/3) = 2.
    all_close(&q(&third, &known, &all_live(2)), &[1.0 - 0.075, 0.075], 1e-12);
    let inverse =
        policy("epsilon_greedy", &[("epsilon", 40.0), ("epsilon_decay", 1.0), ("floor", 0.0)], 2);
    let rows: Vec<_> = (0..99).map(|row| (row % 2, 1.0 - (row % 2) as f64)).collect();
    // It is cut at 1.
    all_close(&q(&inverse, &learned(&inverse, &rows[..9]), &all_live(2)), &[0.5, 0.5], 1e-12);
    all_close(&q(&inverse, &learned(&inverse, &rows), &all_live(2)), &[0.8, 0.2], 1e-12);
}

/// The floor is under what is otherwise one choice.
#[test]
fn ucb1_is_greedy_with_a_floor() {
    let ucb1 = policy("ucb1", &[("c", 0.0), ("floor", 0.3)], 3);
    let state = learned(&ucb1, &[(0, 0.2), (1, 0.7), (2, 0.1)]);
    all_close(&q(&ucb1, &state, &all_live(3)), &[0.1, 0.8, 0.1], 1e-12);
    let weights = ucb1.weights(&state, &all_live(3));
    assert_eq!(weights, [0.0, 1.0, 0.0]);
}

#[test]
fn an_arm_of_which_nothing_is_known_is_tried() {
    let ucb1 = policy("ucb1", &[("floor", 0.0)], 3);
    let rows: Vec<_> = (0..100).map(|row| (row % 2, 1.0)).collect();
    assert_eq!(q(&ucb1, &learned(&ucb1, &rows), &all_live(3)), [0.0, 0.0, 1.0]);
    let greedy = policy("epsilon_greedy", &[("epsilon", 0.0), ("floor", 0.0)], 3);
    let known = learned(&greedy, &[(0, 0.9), (1, 0.8)]);
    assert_eq!(q(&greedy, &known, &all_live(3)), [0.0, 0.0, 1.0]);
    let thompson = policy("thompson", &[("floor", 0.0)], 3);
    let known = learned(&thompson, &rows.iter().map(|(arm, _)| (*arm, 0.5)).collect::<Vec<_>>());
    let q = q(&thompson, &known, &all_live(3));
    // Its mean is uniform on [0, 1], theirs are near ½, and the larger of them a little above.
    assert!((0.4..0.5).contains(&q[2]), "{q:?}");
}

/// Without the rows that wait, all hundred would be asked of one arm.
#[test]
fn a_burst_without_feedback_is_spread() {
    for known in [&[][..], &[(0, 1.0), (1, 1.0), (2, 0.9), (3, 1.0), (4, 1.0)]] {
        let ucb1 = policy("ucb1", &[("floor", 0.0)], 5);
        let state = learned(&ucb1, known);
        let mut arms = all_live(5);
        let mut rng = rng(2);
        for _ in 0..100 {
            let chosen = draw(&ucb1, &state, &arms, &mut rng).chosen[0];
            arms[chosen].pending += 1;
        }
        let asked: Vec<_> = arms.iter().map(|arm| arm.pending).collect();
        assert!(asked.iter().all(|asked| (10..=30).contains(asked)), "{asked:?}");
    }
}

/// Nothing is ever learned of an arm that is always late. It must not be asked for ever for that.
#[test]
fn an_arm_that_is_never_in_time_is_left_alone() {
    for name in VALUES {
        let policy = policy(name, &[], 3);
        let mut state = policy.init();
        let mut arms = all_live(3);
        let (mut rng, mut late) = (rng(3), 0);
        for query in 0..4000 {
            let selection = draw(&policy, &state, &arms, &mut rng);
            let arm = selection.chosen[0];
            let in_time = arm != 0;
            let seen = if in_time { 1.0 } else { 0.0 };
            arms[arm].availability += 0.02 * (seen - arms[arm].availability);
            late += u32::from(!in_time && query >= 2000);
            let mut losses = [None; 3];
            losses[arm] = in_time.then_some(if rng.random::<f64>() < 0.6 { 0.0 } else { 1.0 });
            observe(&policy, &mut state, &selection.q, &losses);
        }
        assert!(late < 100, "{name}: {late} of the last 2000 went to the arm that is always late");
    }
}

/// With almost no discount the sums are those without.
#[test]
fn a_discount_of_one_forgets_nothing() {
    let plain = policy("ucb1", &[], 4);
    let discounted = policy("ucb1", &[("discount", 1.0 - 1e-13)], 4);
    let mut rng = rng(4);
    let rows: Vec<_> = (0..500).map(|_| (rng.random_range(0..4), rng.random())).collect();
    let got = indices(&discounted, &learned(&discounted, &rows), 4);
    all_close(&got, &indices(&plain, &learned(&plain, &rows), 4), 1e-9);
}

#[test]
fn a_discount_fades_every_arm_at_each_row() {
    for name in VALUES {
        let policy = policy(name, &[("discount", 0.5)], 2);
        let state = learned(&policy, &[(0, 0.0), (1, 0.75), (0, 1.0)]);
        assert_eq!(state.arm("a").sums, [1.25, 0.25]);
        assert_eq!(state.arm("b").sums, [0.5, 0.125]);
        assert_eq!((state.arm("a").observations, state.arm("a").loss_sum), (2, 1.0));
    }
}

/// Two normal beliefs: Φ of the difference over its deviation.
#[test]
fn thompson_asks_with_the_probability_of_being_best() {
    let thompson = policy("thompson", &[("gaussian", 1.0), ("floor", 0.0)], 2);
    let rows: Vec<_> = (0..20).map(|row| (row % 2, if row % 2 == 0 { 0.8 } else { 0.6 })).collect();
    let q = q(&thompson, &learned(&thompson, &rows), &all_live(2));
    // Precision 1 + 10 / .25 = 41; means (.5 + 8 / .25) / 41 and (.5 + 6 / .25) / 41.
    let z = (8.0 / 41.0) / (2.0_f64 / 41.0).sqrt();
    assert!((z - 0.883_452).abs() < 1e-6);
    assert!((q[0] - 0.811_506).abs() < 0.005, "{q:?}");

    let thompson = policy("thompson", &[("floor", 0.0)], 2);
    let q = super::values::q(&thompson, &learned(&thompson, &[(0, 1.0)]), &all_live(2));
    // Beta(2, 1) against Beta(1, 1): E[x] of the first is 2/3.
    assert!((q[0] - 2.0 / 3.0).abs() < 0.002, "{q:?}");
}

#[test]
fn what_was_prepared_is_what_is_drawn_from() {
    let thompson = policy("thompson", &[("floor", 0.0)], 4);
    let state = learned(&thompson, &[(0, 1.0), (1, 0.5), (2, 0.0), (3, 0.7)]);
    let mut arms = all_live(4);
    arms[1].live = false;
    let prepared = thompson.prepare(&state, &arms);
    let situation = Situation { arms: &arms, features: &[] };
    let with = thompson.select(&state, &prepared, &situation, &mut rng(5));
    let without = thompson.select(&state, &Prepared::default(), &situation, &mut rng(5));
    assert_eq!(with, without);
    assert_eq!((with.q[1], with.q.len()), (0.0, 4));
}

#[test]
fn a_prior_holds_the_means_on_few_rows() {
    for name in VALUES {
        let policy = policy(name, &[], 3);
        let rows: Vec<_> = (0..1000).map(|_| (0, 0.25)).chain([(1, 1.0), (1, 0.5)]).collect();
        let application = learned(&policy, &rows);
        let prior = policy.prior(&application);
        all_close(&prior.arm("a").sums, &[20.0, 15.0], 1e-9);
        all_close(&prior.arm("b").sums, &[2.0, 0.5], 1e-9);
        assert_eq!((&prior.arm("c").sums[..], prior.arm("a").observations), (&[][..], 0));
        // It moves, and can be replayed.
        let mut context = prior.clone();
        observe(&policy, &mut context, &[0.3; 3], &[Some(0.1), None, None]);
        let mut replayed = context.beginning();
        assert_eq!(replayed, prior);
        observe(&policy, &mut replayed, &[0.3; 3], &[Some(0.1), None, None]);
        assert_eq!(replayed, context);
        assert_eq!(policy.decode(&policy.encode(&context)), Ok(Some(context)));
    }
}

/// E over the draw of 1[asked] · l is q · l, so the mean over the rows that an arm was asked in is
/// l, whatever q was.
#[test]
fn the_mean_needs_no_division_by_q() {
    let greedy = policy("epsilon_greedy", &[], 2);
    let mut state = greedy.init();
    for row in 0..100 {
        // Asked with .9 in rows in which it loses .2 and .4, and with .1 in others of these.
        let q = if row % 3 == 0 { 0.1 } else { 0.9 };
        observe(&greedy, &mut state, &[q, 1.0 - q], &[Some(0.2 + 0.2 * f64::from(row % 2)), None]);
    }
    close(state.arm("a").sums[1] / state.arm("a").sums[0], 0.3);
}

proptest! {
    #[test]
    fn without_a_discount_the_order_does_not_matter(
        rows in prop::collection::vec((0_usize..3, 0.0..=1.0_f64), 1..50),
    ) {
        for name in VALUES {
            let policy = policy(name, &[], 3);
            let forth = learned(&policy, &rows);
            let back = learned(&policy, &rows.iter().rev().copied().collect::<Vec<_>>());
            for ((_, x), (_, y)) in forth.arms().zip(back.arms()) {
                prop_assert!(x.sums.iter().zip(&y.sums).all(|(x, y)| (x - y).abs() < 1e-9));
                prop_assert_eq!(x.observations, y.observations);
            }
        }
    }

    /// Whatever was learned, nothing is NaN and the distribution holds.
    #[test]
    fn any_evidence_gives_a_distribution(
        rows in prop::collection::vec((0_usize..5, 0.0..=1.0_f64), 0..200),
        discount in 0.001..=1.0_f64, gaussian in 0..2_u8, pending in 0_u64..1000,
    ) {
        let parameters = [
            ("epsilon_greedy", vec![("discount", discount)]),
            ("ucb1", vec![("discount", discount)]),
            ("thompson", vec![("discount", discount), ("gaussian", f64::from(gaussian))]),
        ];
        for (name, parameters) in parameters {
            let policy = policy(name, &parameters, 5);
            let mut arms = all_live(5);
            arms[0].pending = pending;
            let q = q(&policy, &learned(&policy, &rows), &arms);
            prop_assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}: {q:?}");
            prop_assert!(q.iter().all(|q| *q >= 0.002 - 1e-12), "{name}: {q:?}");
        }
    }
}
