//! Context features on their way to the policy, the record, and what is learned from it.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::fixture::{Fixture, Models, query};
use crate::{
    Feedback, FeedbackValue, Label, Prediction, Query, SelectionStore, Selector,
    combine::Combiner,
    policy::{Observation, Policy, SelectionPolicy},
    store::StateKey,
};

async fn ask(selector: &Selector<Models>, context: &str, x: f32) -> Prediction {
    // The second one is the same for every query.
    let query = Query { context_features: vec![x, 7.0], ..query(1, context) };
    selector.predict(query).await.unwrap()
}

/// The probability with which the arm was asked.
fn propensity(prediction: &Prediction, arm: &str) -> f64 {
    let [asked] = &*prediction.contributions else { panic!("one arm is asked") };
    if &*asked.arm == arm { asked.propensity } else { 1.0 - asked.propensity }
}

/// Arm `a` is right where the first feature is below 0, arm `b` above.
#[tokio::test(start_paused = true)]
async fn feedback_moves_the_right_arm_for_the_right_features() {
    for policy in ["linucb", "lin_thompson", "squarecb"] {
        let mut fixture = Fixture::new(policy, 2);
        fixture.application.context_features_dim = 2;
        let selector = fixture.open().await;
        let mut rng = SmallRng::seed_from_u64(8);
        let mut truths = Vec::new();
        for _ in 0..400 {
            let x = 2.0 * rng.random::<f32>() - 1.0;
            let prediction = ask(&selector, "", x).await;
            let record = fixture.log.records().pop().unwrap();
            assert_eq!((record.id, &record.features[..]), (prediction.decision_id, &[x, 7.0][..]));
            let [asked] = &*prediction.contributions else { panic!("one arm is asked") };
            let recorded = record.arms.iter().find(|arm| arm.arm == asked.arm).unwrap();
            assert_eq!(recorded.q, asked.propensity);
            assert!((record.arms.iter().map(|arm| arm.q).sum::<f64>() - 1.0).abs() < 1e-12);

            let truth = Label::Int(i64::from(x > 0.0));
            let value = FeedbackValue::Labels(vec![truth.clone()]);
            let decision_id = prediction.decision_id;
            selector.observe(Feedback { decision_id, row: None, value }).await.unwrap();
            truths.push(truth);
        }
        let view = selector.selection("").await.unwrap();
        assert_eq!(view.arms.iter().map(|arm| arm.observations).sum::<u64>(), 400);
        for (x, arm) in [(-0.8, "a"), (0.8, "b")] {
            let q = propensity(&ask(&selector, "", x).await, arm);
            assert!(q > 0.85, "{policy}: '{arm}' is asked with probability {q} at {x}");
            // A new context begins with what the application has learned.
            let q = propensity(&ask(&selector, "user", x).await, arm);
            assert!(q > 0.85, "{policy}: '{arm}' is asked with probability {q} in a new context");
        }

        // From the log alone, the same state to the bit.
        let arms = fixture.application.arms.iter().map(|arm| arm.name.clone()).collect::<Vec<_>>();
        let policy = Policy::new(policy, &[], &arms, 2).unwrap();
        let combiner = Combiner::new(std::sync::Arc::new(fixture.application.clone()));
        let mut replayed = policy.init();
        for (record, truth) in fixture.log.records().iter().zip(&truths) {
            let losses = combiner.losses(record, 0, truth).by_arm;
            assert!(policy.observe(&mut replayed, record, 0, Observation::Losses(&losses)));
        }
        let key = StateKey { application: "app".into(), context: "".into() };
        let stored = fixture.store.load(key).await.unwrap().unwrap();
        assert_eq!(policy.decode(&stored.state), Ok(Some(replayed)));
    }
}

/// Made ready elsewhere than on the thread that commits, and there before the acknowledgement all
/// the same.
#[tokio::test(start_paused = true)]
async fn what_a_large_state_learned_is_there_with_the_acknowledgement() {
    let mut fixture = Fixture::new("lin_thompson", 4);
    fixture.application.context_features_dim = 96;
    let selector = fixture.open().await;
    for feedbacks in 1..=5 {
        let query = Query { context_features: vec![1.0; 96], ..query(1, "") };
        let decision_id = selector.predict(query).await.unwrap().decision_id;
        let value = FeedbackValue::Labels(vec![Label::Int(0)]);
        selector.observe(Feedback { decision_id, row: None, value }).await.unwrap();
        let view = selector.selection("").await.unwrap();
        assert_eq!(view.arms.iter().map(|arm| arm.observations).sum::<u64>(), feedbacks);
    }
}

/// A burst without feedback does not all go to the arm that looks best.
#[tokio::test(start_paused = true)]
async fn queries_under_way_spread_over_the_arms_with_linucb() {
    let mut fixture = Fixture::new("linucb", 3);
    fixture.application.context_features_dim = 2;
    fixture.application.policy_parameters = vec![("floor".into(), 0.0)];
    let selector = fixture.open().await;
    let mut asked = [0; 3];
    for query in 0..300_u16 {
        let prediction = ask(&selector, "", f32::from(query % 5)).await;
        let arm = ["a", "b", "c"].iter().position(|a| *a == &*prediction.contributions[0].arm);
        asked[arm.unwrap()] += 1;
    }
    assert_eq!(asked, [100; 3]);
}

/// A log in memory keeps what it got, so it is half full after half of what it takes.
#[tokio::test(start_paused = true)]
async fn under_pressure_features_are_thinned_unless_feedback_needs_them() {
    for (policy, shadow, needed) in
        [("exp3", None, false), ("linucb", None, true), ("exp3", Some("lin_thompson"), true)]
    {
        let mut fixture = Fixture::new(policy, 2);
        fixture.application.context_features_dim = 2;
        fixture.application.shadow = shadow.map(|name: &str| (name.into(), Vec::new()));
        fixture.log = std::sync::Arc::new(crate::store::memory::MemoryLog::new(2_000));
        let selector = fixture.open().await;
        for _ in 0..1_800 {
            ask(&selector, "", 1.0).await;
        }
        let records = fixture.log.records();
        let (before, under): (Vec<_>, Vec<_>) =
            records.iter().partition(|record| record.features_kept.is_none());
        assert!(before.iter().all(|record| record.features == [1.0, 7.0]), "{policy}");
        let kept = under.iter().filter(|record| record.features == [1.0, 7.0]).count();
        let dropped = under.iter().filter(|record| record.features.is_empty()).count();
        assert_eq!(kept + dropped, under.len());
        assert!(under.iter().all(|record| record.features_kept == Some(0.1)));
        if needed {
            assert_eq!(under.len(), 0, "{policy}");
        } else {
            assert_eq!(under.len(), 800, "{policy}");
            assert!((50..120).contains(&kept), "{kept}");
        }
    }
}
