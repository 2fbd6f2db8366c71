use super::*;
use crate::{DecisionId, RowRecord};

fn arm(name: &str, q: f64, label: Option<Label>, scores: &[f32]) -> ArmRecord {
    ArmRecord {
        arm: name.into(),
        version: "1".into(),
        q,
        weight: 0.5,
        outcome: if label.is_some() { Outcome::Used } else { Outcome::Late },
        labels: label.into_iter().map(Some).collect(),
        scores: if scores.is_empty() { Vec::new() } else { vec![scores.to_vec()] },
    }
}

fn record(arms: Vec<ArmRecord>, label: Option<Label>, p: f64) -> DecisionRecord {
    DecisionRecord {
        id: DecisionId::new(0, [0; 3], 0, [0; 16]),
        time_ms: 0,
        application: "app".into(),
        context: Arc::default(),
        features: Vec::new(),
        features_kept: None,
        policy: "any".into(),
        state_version: 0,
        arms,
        answer: vec![RowRecord { default: label.is_none(), label, p, arm: None }],
        shadow: None,
    }
}

fn judge(loss: Option<Loss>, cap: f64, record: &DecisionRecord) -> Judge {
    let scoring = Scoring { loss, loss_cap: cap, class_labels: Vec::new() };
    Judge::new(scoring, std::slice::from_ref(record)).unwrap()
}

fn truth(value: Known) -> Truth {
    Truth { decision: 0, row: 0, value }
}

const INT: fn(i64) -> Label = Label::Int;

/// Several arms were asked: the reward goes to those whose answer was given.
#[test]
fn a_reward_of_several_arms_is_credited_by_the_answer() {
    let arms = || {
        let dropped = ArmRecord { outcome: Outcome::Dropped, ..arm("late", 0.5, None, &[]) };
        vec![arm("a", 1.0, Some(INT(1)), &[]), arm("b", 0.8, Some(INT(2)), &[]), dropped]
    };
    let reward = truth(Known::Reward(0.75));
    // Drawn with probability .4: the others might have been drawn.
    let drawn = record(arms(), Some(INT(1)), 0.4);
    let seen = judge(None, 0.0, &drawn).see(&drawn, &reward);
    assert_eq!(
        seen,
        [Sight::Seen { reward: 0.75, probability: 0.4 }, Sight::Unseen, Sight::Unseen]
    );
    // By vote: who was overruled could not be seen.
    let voted = record(arms(), Some(INT(1)), 1.0);
    let seen = judge(None, 0.0, &voted).see(&voted, &reward);
    assert_eq!(
        seen,
        [Sight::Seen { reward: 0.75, probability: 1.0 }, Sight::Hidden, Sight::Hidden]
    );
    // A default is nobody's.
    let default = record(arms(), None, 1.0);
    assert_eq!(judge(None, 0.0, &default).see(&default, &reward), [Sight::Hidden; 3]);
}

/// One arm was asked: the reward is of asking it, whatever the client was told.
#[test]
fn a_reward_of_one_arm_is_its_own() {
    let asked = arm("a", 0.3, None, &[]);
    let other = ArmRecord { outcome: Outcome::NotAsked, ..arm("b", 0.7, None, &[]) };
    let masked = ArmRecord { outcome: Outcome::Masked, ..arm("c", 0.0, None, &[]) };
    let record = record(vec![asked, other, masked], None, 1.0);
    let judge = judge(None, 0.0, &record);
    let seen = judge.see(&record, &truth(Known::Reward(0.25)));
    let first = Sight::Seen { reward: 0.25, probability: 0.3 };
    assert_eq!(seen, [first, Sight::Unseen, Sight::Hidden]);
    assert_eq!(judge.told(&record, &truth(Known::Reward(0.25))), 0.25);
}

#[test]
fn a_late_arm_earns_nothing_by_a_label() {
    let record = record(
        vec![arm("a", 1.0, Some(INT(3)), &[]), arm("late", 1.0, None, &[])],
        Some(INT(3)),
        1.0,
    );
    let judge = judge(None, 0.0, &record);
    let label = truth(Known::Label(judge.cast(&INT(3)).unwrap()));
    let seen = |reward| Sight::Seen { reward, probability: 1.0 };
    assert_eq!(judge.see(&record, &label), [seen(1.0), seen(0.0)]);
    assert_eq!(judge.told(&record, &label), 1.0);
}

/// Means of numbers and of scores, and votes of texts, as the service combines them.
#[test]
fn combinations_are_those_of_the_service() {
    let numbers = record(
        vec![
            arm("a", 1.0, Some(Label::Real(1.0)), &[]),
            arm("b", 1.0, Some(Label::Real(3.0)), &[]),
        ],
        Some(Label::Real(2.0)),
        1.0,
    );
    let by_square = judge(Some(Loss::Squared), 4.0, &numbers);
    assert_eq!(by_square.reproduces(std::slice::from_ref(&numbers)), Some(1.0));
    // 1 · .25 + 3 · .75 = 2.5, and (2.5 − 3)² / 4.
    let earned = by_square.combined(&numbers, 0, &Label::Real(3.0), &[0, 1], &[0.25, 0.75]);
    assert!((earned - (1.0 - 0.0625)).abs() < 1e-9, "{earned}");

    let scores = record(
        vec![arm("a", 1.0, Some(INT(0)), &[0.9, 0.1]), arm("b", 1.0, Some(INT(1)), &[0.2, 0.8])],
        Some(INT(0)),
        1.0,
    );
    let by_log = judge(Some(Loss::Log), 4.0, &scores);
    assert_eq!(by_log.reproduces(std::slice::from_ref(&scores)), Some(1.0));
    // The mean gives the truth .45, where a vote would be wrong altogether.
    let earned = by_log.told(&scores, &truth(Known::Label(INT(1))));
    assert!((earned - (1.0 + 0.45_f64.ln() / 4.0)).abs() < 1e-6, "{earned}");

    let text = |text: &str| Some(Label::Text(text.into()));
    let texts = record(
        vec![arm("a", 1.0, text("cat"), &[]), arm("b", 1.0, text("dog"), &[])],
        text("cat"),
        1.0,
    );
    let judge = judge(None, 0.0, &texts);
    for (weights, earns) in [([0.6, 0.4], 1.0), ([0.4, 0.6], 0.0)] {
        let earned = judge.combined(&texts, 0, &Label::Text("cat".into()), &[0, 1], &weights);
        assert_eq!(earned, earns);
    }
    assert_eq!(judge.combined(&texts, 0, &Label::Text("cat".into()), &[], &[0.5, 0.5]), 0.0);

    // Drawn, each arm's answer earns its own by its weight among those that answered.
    let drawn = |chosen: &[usize], weights: &[f64]| {
        judge.drawn(&texts, 0, &Label::Text("cat".into()), chosen, weights)
    };
    assert!((drawn(&[0, 1], &[0.3, 0.1]) - 0.75).abs() < 1e-12);
    assert!((drawn(&[1], &[0.3, 0.1])).abs() < 1e-12);
    assert_eq!(drawn(&[], &[0.3, 0.1]), 0.0);
    // Nor does a drawn answer come out again for certain, so it says nothing of the record.
    let mut again = texts.clone();
    again.answer[0].p = 0.6;
    assert_eq!(judge.reproduces(&[again]), None);
}
