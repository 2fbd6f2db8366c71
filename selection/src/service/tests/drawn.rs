//! A policy that draws the answer.

use super::fixture::{Does, Fixture, query, read};
use crate::{Feedback, FeedbackValue, Label, Outcome};

#[tokio::test(start_paused = true)]
async fn the_answer_is_drawn_and_recorded_and_a_reward_finds_who_said_it() {
    let fixture = Fixture::new("exp4", 3);
    fixture.models.set("a", Does::Says(1)).set("b", Does::Says(2)).set("c", Does::Says(1));
    let selector = fixture.open().await;
    let mut ones = 0;
    for _ in 0..300 {
        let prediction = selector.predict(query(1, "")).await.unwrap();
        let record = fixture.log.records().pop().unwrap();
        let label = read(&prediction.outputs[0])[0];
        assert_eq!(record.answer[0].label, Some(Label::Int(label)));
        let want = if label == 1 { 2.0 / 3.0 } else { 1.0 / 3.0 };
        assert!((record.answer[0].p - want).abs() < 1e-9, "{:?}", record.answer[0]);
        assert!(record.arms.iter().all(|arm| arm.q == 1.0 && arm.outcome == Outcome::Used));
        ones += u32::from(label == 1);
    }
    // Four standard deviations.
    assert!((168..=232).contains(&ones), "{ones} of 300, expected 200");

    let prediction = selector.predict(query(1, "")).await.unwrap();
    let label = read(&prediction.outputs[0])[0];
    let value = FeedbackValue::Reward(0.0);
    let decision_id = prediction.decision_id;
    selector.observe(Feedback { decision_id, row: None, value }).await.unwrap();
    let view = selector.selection("").await.unwrap();
    let moved: Vec<_> = view.arms.iter().map(|arm| arm.observations).collect();
    assert_eq!(moved, if label == 1 { [1, 0, 1] } else { [0, 1, 0] });
}
