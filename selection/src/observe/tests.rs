//! Feedback into state, with a store that fails as a test says.

mod faulty;

use std::{sync::Arc, time::Duration};

use self::faulty::{Fault, FaultyStore};
use super::ObserveError;
use crate::{
    Acknowledgement, DecisionId, DecisionRecord, Feedback, FeedbackValue, InputFeedback, Label,
    SelectionStore, Selector, Status,
    combine::Combiner,
    policy::{LiveArm, Observation, Policy, SelectionPolicy, State},
    service::tests::fixture::{Does, Fixture, Models, query},
    store::{DecisionLog, StateKey},
};

fn label(decision_id: DecisionId, truth: &[i64]) -> Feedback {
    let labels = truth.iter().map(|truth| Label::Int(*truth)).collect();
    Feedback { decision_id, row: None, value: FeedbackValue::Labels(labels) }
}

fn row(decision_id: DecisionId, row: u32, truth: i64) -> Feedback {
    Feedback { row: Some(row), ..label(decision_id, &[truth]) }
}

fn reward(decision_id: DecisionId, reward: f64) -> Feedback {
    Feedback { decision_id, row: None, value: FeedbackValue::Reward(reward) }
}

fn applied(rows: u32, detail: &str) -> Acknowledgement {
    Acknowledgement::Applied { rows, detail: detail.into() }
}

async fn decide(selector: &Selector<Models>, rows: usize, context: &str) -> DecisionId {
    selector.predict(query(rows, context)).await.unwrap().decision_id
}

async fn observations(selector: &Selector<Models>, context: &str) -> u64 {
    selector.selection(context).await.unwrap().arms[0].observations
}

fn key(context: &str) -> StateKey {
    StateKey { application: "app".into(), context: context.into() }
}

fn policy(fixture: &Fixture) -> Policy {
    let arms: Vec<_> = fixture.application.arms.iter().map(|arm| arm.name.clone()).collect();
    Policy::new(&fixture.application.policy_name, &[], &arms, 0).unwrap()
}

async fn stored(fixture: &Fixture, context: &str) -> State {
    let stored = fixture.store.load(key(context)).await.unwrap().unwrap();
    policy(fixture).decode(&stored.state).unwrap().unwrap()
}

/// One after the other, from `state`: the truth is label 0 everywhere.
async fn replay<'a>(
    fixture: &Fixture,
    mut state: State,
    decisions: impl IntoIterator<Item = &'a DecisionId>,
) -> State {
    let (policy, combiner) =
        (policy(fixture), Combiner::new(Arc::new(fixture.application.clone())));
    for id in decisions {
        let record = fixture.log.find(*id).await.unwrap().unwrap();
        let losses = combiner.losses(&record, 0, &Label::Int(0)).by_arm;
        policy.observe(&mut state, &record, 0, Observation::Losses(&losses));
    }
    state
}

#[tokio::test(start_paused = true)]
async fn a_label_moves_the_weights_and_is_seen_at_once() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let before = selector.selection("").await.unwrap();
    assert_eq!((before.state_version, before.arms[0].weight), (0, 0.5));
    let decision = decide(&selector, 2, "").await;
    let acknowledgement = selector.observe(label(decision, &[0, 0])).await.unwrap();
    assert_eq!(acknowledgement, applied(2, "2 of 2 rows"));
    let after = selector.selection("").await.unwrap();
    assert_eq!(after.state_version, 1);
    assert_eq!((after.arms[0].observations, after.arms[1].mean_loss), (2, 1.0));
    assert!(after.arms[0].weight > 0.5);
    assert!((after.arms[0].weight + after.arms[1].weight - 1.0).abs() < 1e-12);
    // The next draw is from it, too.
    let prediction = selector.predict(query(1, "")).await.unwrap();
    assert_eq!(prediction.contributions[0].weight, after.arms[0].weight);
    assert_eq!(fixture.log.records()[1].state_version, 1);
}

#[tokio::test(start_paused = true)]
async fn each_row_counts_once_and_the_first_one_wins() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 3, "").await;
    assert_eq!(selector.observe(row(decision, 1, 0)).await.unwrap(), applied(1, "1 of 1 row"));
    assert_eq!(selector.observe(row(decision, 1, 1)).await.unwrap(), Acknowledgement::Duplicate);
    assert_eq!(
        selector.observe(label(decision, &[0, 0, 0])).await.unwrap(),
        applied(2, "2 of 3 rows; 1 had feedback before")
    );
    assert_eq!(
        selector.observe(label(decision, &[0, 0, 0])).await.unwrap(),
        Acknowledgement::Duplicate
    );
    assert_eq!(observations(&selector, "").await, 3);
}

#[tokio::test(start_paused = true)]
async fn answers_are_scored_by_the_feedback_that_was_applied() {
    let fixture = Fixture::new("exp3", 2);
    let selector = fixture.open().await;
    let scored = || (selector.scored().rows, selector.scored().loss);
    let decision = decide(&selector, 3, "").await;
    let given: Vec<i64> = fixture.log.records()[0]
        .answer
        .iter()
        .map(|row| match row.label {
            Some(Label::Int(label)) => label,
            _ => panic!("no answer"),
        })
        .collect();
    selector.observe(row(decision, 1, given[1])).await.unwrap();
    assert_eq!(scored(), (1, 0.0));
    // A second word about a row counts no more than it teaches.
    let truth: Vec<_> = given.iter().map(|label| label + 1).collect();
    selector.observe(label(decision, &truth)).await.unwrap();
    assert_eq!(scored(), (3, 2.0));
    selector.observe(label(decision, &truth)).await.unwrap();
    assert_eq!(scored(), (3, 2.0));
    let decision = decide(&selector, 1, "").await;
    selector.observe(reward(decision, 0.25)).await.unwrap();
    assert_eq!(scored(), (4, 2.75));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_what_the_store_has() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 2, "").await;
    selector.observe(label(decision, &[0, 0])).await.unwrap();
    let stored = selector.selection("").await.unwrap();
    assert_eq!(stored.state_version, 1);
    assert_eq!(selector.selection_in_memory(), stored);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_told_in_order() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 2, "").await;
    let unknown = DecisionId::new(1, [0; 3], 0, [0; 16]);
    let refused = |feedback| {
        let selector = selector.clone();
        async move { selector.observe(feedback).await.unwrap_err() }
    };
    // The value before the decision, the decision before the policy.
    let error = refused(reward(unknown, f64::NAN)).await;
    assert_eq!(
        error,
        ObserveError::InvalidArgument("reward: expected a number in [0, 1], got NaN".into())
    );
    let outcome = selector.observe(reward(unknown, 1.0)).await.unwrap();
    assert_eq!(outcome, Acknowledgement::Unknown);
    let error = refused(reward(decision, 1.0)).await;
    let ObserveError::FailedPrecondition(text) = error else { panic!("{error}") };
    let can = Policy::that_take_rewards().join(", ");
    assert!(text.contains("'hedge'") && text.ends_with(&can) && !can.contains("hedge"), "{text}");
    let error = refused(label(decision, &[1, 2, 3])).await.to_string();
    assert_eq!(error, "label: expected 2, one for each row of the query, got 3");
    let error = refused(row(decision, 2, 0)).await.to_string();
    assert_eq!(error, "row: expected one below 2, the rows of the query, got 2");
    assert_eq!(fixture.store.marks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_decision_of_another_application_is_unknown() {
    let mut fixture = Fixture::new("hedge", 2);
    let decision = decide(&fixture.open().await, 1, "").await;
    fixture.application.name = "other".into();
    let outcome = fixture.open().await.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, Acknowledgement::Unknown);
}

#[tokio::test(start_paused = true)]
async fn after_the_window_feedback_is_expired() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 1, "").await;
    let mut record = DecisionRecord::clone(&fixture.log.records()[0]);
    record.time_ms -= 3_600_001;
    fixture.log.append(Arc::new(record));
    let outcome = selector.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, Acknowledgement::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_reward_on_a_default_is_marked_and_moves_no_arm() {
    let fixture = Fixture::new("exp3", 2).with_default(9);
    let late = || Does::SaysAfter(0, Duration::from_secs(10));
    fixture.models.set("a", late()).set("b", late());
    let selector = fixture.open().await;
    let prediction = selector.predict(query(1, "")).await.unwrap();
    assert_eq!(prediction.status, Status::Default);
    let feedback = reward(prediction.decision_id, 1.0);
    let outcome = selector.observe(feedback.clone()).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 1 row; 1 moved no arm"));
    assert_eq!(selector.observe(feedback).await.unwrap(), Acknowledgement::Duplicate);
    let view = selector.selection("").await.unwrap();
    assert!(view.arms.iter().all(|arm| arm.observations == 0 && arm.weight == 0.5));
}

#[tokio::test(start_paused = true)]
async fn a_reward_moves_the_arm_that_was_drawn() {
    let fixture = Fixture::new("exp3", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 1, "").await;
    let outcome = selector.observe(reward(decision, 0.0)).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 1 row"));
    let view = selector.selection("").await.unwrap();
    assert_eq!(view.arms.iter().map(|arm| arm.observations).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn feedback_for_a_decision_of_an_older_policy_moves_nothing() {
    let mut fixture = Fixture::new("exp3", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 1, "").await;
    let again = decide(&selector, 1, "").await;
    selector.observe(label(decision, &[0])).await.unwrap();
    fixture.application.policy_name = "hedge".into();
    let selector = fixture.open().await;
    assert_eq!(observations(&selector, "").await, 0);
    let outcome = selector.observe(label(again, &[0])).await.unwrap();
    let detail = "1 of 1 row; not applied: the decision is of policy 'exp3', and the application \
                  has 'hedge' now";
    assert_eq!(outcome, applied(1, detail));
    let view = selector.selection("").await.unwrap();
    assert!(view.arms.iter().all(|arm| arm.observations == 0 && arm.weight == 0.5));
    assert_eq!(&*view.policy, "hedge");
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_is_unlinked_since_moves_nothing() {
    let mut fixture = Fixture::new("hedge", 3);
    let decision = decide(&fixture.open().await, 1, "").await;
    fixture.application.arms.pop();
    let selector = fixture.open().await;
    assert_eq!(selector.observe(label(decision, &[0])).await.unwrap(), applied(1, "1 of 1 row"));
    assert_eq!(stored(&fixture, "").await.arm("c").observations, 0);
    assert_eq!(observations(&selector, "").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_context_begins_from_its_application_and_moves_both() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    for _ in 0..3 {
        let decision = decide(&selector, 1, "").await;
        selector.observe(label(decision, &[0])).await.unwrap();
    }
    let own = stored(&fixture, "").await;
    let decision = decide(&selector, 1, "user").await;
    // Drawn from the application's state, since the context has none.
    assert_eq!(fixture.log.records()[3].state_version, 3);
    let outcome = selector.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 1 row"));
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (1, 4));
    let prior = policy(&fixture).prior(&own);
    assert_eq!(stored(&fixture, "user").await, replay(&fixture, prior, [&decision]).await);
    decide(&selector, 1, "user").await;
    assert_eq!(fixture.log.records()[4].state_version, 1);
}

#[tokio::test(start_paused = true)]
async fn a_context_that_is_not_in_memory_is_loaded_behind_its_first_query() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 1, "user").await;
    selector.observe(label(decision, &[1])).await.unwrap();
    let selector = fixture.open().await;
    let own = selector.selection("").await.unwrap().arms[0].weight;
    decide(&selector, 1, "user").await;
    tokio::task::yield_now().await;
    let prediction = selector.predict(query(1, "user")).await.unwrap();
    let context = selector.selection("user").await.unwrap();
    assert_eq!(context.state_version, 1);
    assert_eq!(prediction.contributions[0].weight, context.arms[0].weight);
    assert!(own < 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_retry_completes_the_state_that_is_missing() {
    let fixture = Fixture::new("hedge", 2);
    let store = FaultyStore::over(&fixture.store);
    let selector = fixture.open_over(store.clone()).await;
    let decision = decide(&selector, 1, "user").await;
    store.fail("", &[Fault::Refuse; 3]);
    let error = selector.observe(label(decision, &[0])).await.unwrap_err();
    assert!(matches!(error, ObserveError::Store(_)), "{error}");
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (1, 0));
    let outcome = selector.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 1 row"));
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (1, 1));
    let outcome = selector.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, Acknowledgement::Duplicate);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_is_not_acknowledged() {
    let fixture = Fixture::new("hedge", 2);
    let store = FaultyStore::over(&fixture.store);
    let selector = fixture.open_over(store.clone()).await;
    let decision = decide(&selector, 1, "").await;
    store.fail("", &[Fault::Refuse; 3]);
    let error = selector.observe(label(decision, &[0])).await.unwrap_err();
    assert_eq!(error, ObserveError::Store("selection state: refused".into()));
    assert_eq!((observations(&selector, "").await, fixture.store.marks()), (0, 0));
    let outcome = selector.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 1 row"));
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_reply_was_lost_is_recognised() {
    let fixture = Fixture::new("hedge", 2);
    let store = FaultyStore::over(&fixture.store);
    let selector = fixture.open_over(store.clone()).await;
    let decision = decide(&selector, 2, "").await;
    store.fail("", &[Fault::LoseReply]);
    let outcome = selector.observe(label(decision, &[0, 0])).await.unwrap();
    assert_eq!(outcome, applied(2, "2 of 2 rows"));
    assert_eq!(observations(&selector, "").await, 2);
    // Also where another feedback joins the group meanwhile.
    let next = decide(&selector, 1, "").await;
    assert_eq!(fixture.log.records()[1].state_version, 1);
    store.fail("", &[Fault::LoseReply, Fault::Conflict]);
    let (first, second) =
        tokio::join!(selector.observe(label(next, &[0])), selector.observe(label(next, &[0])));
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (applied(1, "1 of 1 row"), Acknowledgement::Duplicate)
    );
    assert_eq!(observations(&selector, "").await, 3);
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_in_a_rush_each_is_applied_once_as_in_a_replay() {
    let fixture = Fixture::new("hedge", 3);
    let store = FaultyStore::over(&fixture.store);
    // Two front ends, which do not know of each other, and commits that fail now and then.
    let front_ends =
        [fixture.open_over(store.clone()).await, fixture.open_over(store.clone()).await];
    store.fail("", &[Fault::Refuse]);
    store.fail("", &[Fault::Conflict, Fault::LoseReply].repeat(10));
    let mut tasks = tokio::task::JoinSet::new();
    for (number, front_end) in front_ends.iter().cycle().enumerate().take(1000) {
        let decision = decide(front_end, 1, "").await;
        // Each is sent twice, to whichever front end.
        for times in 0..2 {
            let front_end = front_ends[(number + times) % 2].clone();
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis((number / 10 + times) as u64)).await;
                front_end.observe(label(decision, &[0])).await.unwrap()
            });
        }
    }
    let outcomes = tasks.join_all().await;
    let applied =
        |outcome: &&Acknowledgement| matches!(outcome, Acknowledgement::Applied { rows: 1, .. });
    assert_eq!(outcomes.iter().filter(applied).count(), 1000);
    let duplicate = |outcome: &&Acknowledgement| **outcome == Acknowledgement::Duplicate;
    assert_eq!(outcomes.iter().filter(duplicate).count(), 1000);
    assert_eq!(observations(&front_ends[0], "").await, 1000);

    let order: Vec<_> = store.committed("").into_iter().map(|mark| mark.decision).collect();
    assert_eq!(order.len(), 1000);
    let replayed = replay(&fixture, policy(&fixture).init(), &order).await;
    assert_eq!(stored(&fixture, "").await, replayed);
    // Grouped: far fewer commits than rows.
    let version = fixture.store.load(key("")).await.unwrap().unwrap().version;
    assert!((10..250).contains(&version.number), "{version:?} commits");
}

#[tokio::test(start_paused = true)]
async fn a_reset_forgets_the_state_and_keeps_the_marks() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 2, "user").await;
    selector.observe(row(decision, 0, 0)).await.unwrap();
    selector.reset(Some("user")).await.unwrap();
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (0, 1));
    selector.reset(None).await.unwrap();
    let view = selector.selection("").await.unwrap();
    assert_eq!((view.arms[0].weight, view.arms[0].observations), (0.5, 0));
    let prediction = selector.predict(query(1, "")).await.unwrap();
    assert_eq!(prediction.contributions[0].weight, 0.5);
    let outcome = selector.observe(label(decision, &[0, 0])).await.unwrap();
    assert_eq!(outcome, applied(1, "1 of 2 rows; 1 had feedback before"));
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (1, 1));
}

/// Two front ends over one store.
#[tokio::test(start_paused = true)]
async fn what_another_front_end_changed_is_drawn_from_after_a_refresh() {
    let fixture = Fixture::new("hedge", 2);
    let (one, other) = (fixture.open().await, fixture.open().await);
    let all: [Arc<str>; 2] = ["".into(), "user".into()];
    // In use, and loaded: what was never asked for is not looked at.
    assert_eq!(other.in_use(), [Arc::from("")]);
    decide(&other, 1, "user").await;
    assert_eq!(other.in_use(), all);
    assert_eq!(other.in_use(), [Arc::from("")]);
    assert_eq!(other.refresh(&all).await.unwrap(), 0);
    let drawn_from = async || {
        let prediction = other.predict(query(1, "user")).await.unwrap();
        (prediction.contributions[0].weight, other.weights()[0])
    };
    assert_eq!(drawn_from().await, (0.5, 0.5));

    let decision = decide(&one, 1, "user").await;
    one.observe(label(decision, &[0])).await.unwrap();
    assert_eq!(drawn_from().await, (0.5, 0.5));
    assert_eq!(other.refresh(&all).await.unwrap(), 2);
    let (context, own) = drawn_from().await;
    assert!(context > 0.5 && own == one.weights()[0] && own > 0.5);
    // Nobody's, and nothing new.
    assert_eq!(other.refresh(&["stranger".into(), "user".into()]).await.unwrap(), 0);

    one.reset(None).await.unwrap();
    assert_eq!(other.refresh(&all).await.unwrap(), 2);
    assert_eq!(drawn_from().await, (0.5, 0.5));
}

/// What is in memory of a history that the store has lost must not outlive it.
#[tokio::test(start_paused = true)]
async fn a_store_that_lost_commits_is_believed() {
    let fixture = Fixture::new("hedge", 2);
    let (one, other) = (fixture.open().await, fixture.open().await);
    for _ in 0..3 {
        let decision = decide(&one, 1, "").await;
        one.observe(label(decision, &[0])).await.unwrap();
    }
    fixture.store.lose_everything();
    let decision = decide(&other, 1, "").await;
    other.observe(label(decision, &[1])).await.unwrap();
    assert!(one.weights()[0] > 0.5);
    let decision = decide(&one, 1, "").await;
    one.observe(label(decision, &[1])).await.unwrap();
    let view = one.selection("").await.unwrap();
    assert_eq!((view.state_version, view.arms[0].observations), (2, 2));
    assert!(one.weights()[0] < 0.5);
    // As many commits as were lost: the number alone does not tell.
    for _ in 0..3 {
        let decision = decide(&other, 1, "").await;
        other.observe(label(decision, &[0])).await.unwrap();
    }
    fixture.store.lose_everything();
    for _ in 0..2 {
        let decision = decide(&other, 1, "").await;
        other.observe(label(decision, &[1])).await.unwrap();
    }
    let decision = decide(&one, 1, "").await;
    one.observe(label(decision, &[1])).await.unwrap();
    assert_eq!(one.selection("").await.unwrap().arms[0].observations, 3);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_arm_begins_anew_and_the_others_stay() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let decision = decide(&selector, 1, "user").await;
    selector.observe(label(decision, &[0])).await.unwrap();
    selector.forget_arm("b").await.unwrap();
    for context in ["", "user"] {
        let view = selector.selection(context).await.unwrap();
        assert_eq!((view.arms[0].observations, view.arms[1].observations), (1, 0));
        assert_eq!(view.state_version, 2);
    }
}

fn of_input(truth: &[i64], context: &str, feedback_id: &str) -> InputFeedback {
    let labels = truth.iter().map(|truth| Label::Int(*truth)).collect();
    let query = query(truth.len(), context);
    InputFeedback { query, row: None, labels, feedback_id: feedback_id.into() }
}

#[tokio::test(start_paused = true)]
async fn feedback_by_input_asks_every_arm_and_scores_all_of_them() {
    // Only one arm would be asked for a query.
    let fixture = Fixture::new("exp3", 3);
    let selector = fixture.open().await;
    let (acknowledgement, asked) = selector.observe_input(of_input(&[1, 1], "", "")).await.unwrap();
    assert_eq!(acknowledgement, applied(2, "2 of 2 rows"));
    assert!(asked.arms.iter().all(|arm| arm.q == 1.0 && arm.labels.len() == 2));
    let view = selector.selection("").await.unwrap();
    let counted: Vec<_> = view.arms.iter().map(|arm| (arm.observations, arm.mean_loss)).collect();
    assert_eq!(counted, [(2, 1.0), (2, 0.0), (2, 1.0)]);
    assert!(view.arms[1].weight > view.arms[0].weight);
    // It is no decision: nothing was answered.
    assert!(fixture.log.records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn feedback_by_input_counts_once_by_its_id() {
    let fixture = Fixture::new("hedge", 2);
    let selector = fixture.open().await;
    let send = |context, id| {
        let selector = selector.clone();
        async move { selector.observe_input(of_input(&[0], context, id)).await.unwrap().0 }
    };
    assert_eq!(send("", "one").await, applied(1, "1 of 1 row"));
    assert_eq!(send("", "one").await, Acknowledgement::Duplicate);
    assert_eq!(send("", "two").await, applied(1, "1 of 1 row"));
    // Without an id each counts; a context's goes to both.
    assert_eq!(send("", "").await, applied(1, "1 of 1 row"));
    assert_eq!(send("user", "").await, applied(1, "1 of 1 row"));
    assert_eq!((observations(&selector, "user").await, observations(&selector, "").await), (1, 4));
    let (one, two) = tokio::join!(send("", "three"), send("", "three"));
    assert!([&one, &two].contains(&&Acknowledgement::Duplicate), "{one:?} {two:?}");
    assert_eq!(observations(&selector, "").await, 5);
}

#[tokio::test(start_paused = true)]
async fn feedback_by_input_says_why_it_cannot_be_taken() {
    let mut fixture = Fixture::new("hedge", 2);
    fixture.models.set("a", Does::SaysAfter(0, Duration::from_secs(1)));
    fixture.models.set("b", Does::SaysAfter(1, Duration::from_secs(1)));
    let selector = fixture.open().await;
    let error = selector.observe_input(of_input(&[0], "", "x")).await.unwrap_err();
    assert!(matches!(error, ObserveError::Predict(_)), "{error}");
    // With a default the query is answered, and still nobody is scored.
    let fixture_with_default = fixture.with_default(9);
    let selector = fixture_with_default.open().await;
    let error = selector.observe_input(of_input(&[0], "", "x")).await.unwrap_err().to_string();
    assert!(
        error.contains("no arm of application 'app' answered") && error.contains("Late"),
        "{error}"
    );
    fixture = fixture_with_default;
    fixture.models.set("a", Does::Says(0));
    assert_eq!(
        selector.observe_input(of_input(&[0], "", "x")).await.unwrap().0,
        applied(1, "1 of 1 row")
    );
    let error =
        selector.observe_input(InputFeedback { row: Some(1), ..of_input(&[0], "", "") }).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "row: expected one below 1, the rows of the query, got 1"
    );
    fixture.application.context_features_dim = 2;
    let selector = fixture.open().await;
    let error = selector.observe_input(of_input(&[0], "", "")).await.unwrap_err();
    assert!(matches!(error, ObserveError::FailedPrecondition(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_shadow_learns_what_the_policy_learns_and_decides_nothing() {
    let mut fixture = Fixture::new("static", 2);
    let seen = |fixture: &Fixture| {
        let records = fixture.log.records();
        records.iter().map(|record| record.arms[0].q).collect::<Vec<_>>()
    };
    let baseline = {
        let selector = fixture.open().await;
        for _ in 0..50 {
            decide(&selector, 1, "").await;
        }
        seen(&fixture)
    };
    fixture.log = Arc::new(crate::store::memory::MemoryLog::new(10_000));
    fixture.application.shadow = Some(("exp3".into(), vec![("eta".into(), 0.5)]));
    let selector = fixture.open().await;
    for _ in 0..50 {
        let decision = decide(&selector, 1, "user").await;
        selector.observe(label(decision, &[0])).await.unwrap();
    }
    assert_eq!(seen(&fixture), baseline);
    for context in ["", "user"] {
        let view = selector.selection(context).await.unwrap();
        assert_eq!(view.arms[0].weight, 0.5);
        let shadow = view.shadow.unwrap();
        assert_eq!(&*shadow.policy, "exp3");
        assert!(shadow.arms[0].weight > 0.99, "{context}: {shadow:?}");
        assert_eq!(shadow.arms.iter().map(|arm| arm.observations).sum::<u64>(), 50);
    }
    // The record says what it would have drawn from, and the state is that of a replay.
    let records = fixture.log.records();
    let shadow = records[49].shadow.as_ref().unwrap();
    assert!(shadow.q[0] > 0.98 && (shadow.q.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let arms: Vec<_> = fixture.application.arms.iter().map(|arm| arm.name.clone()).collect();
    let exp3 = Policy::new("exp3", &[("eta".into(), 0.5)], &arms, 0).unwrap();
    let combiner = Combiner::new(Arc::new(fixture.application.clone()));
    let mut state = exp3.init();
    for record in &records {
        let losses = combiner.losses(record, 0, &Label::Int(0)).by_arm;
        exp3.observe(&mut state, record, 0, Observation::Losses(&losses));
    }
    let with_shadow = fixture.application.clone();

    // Put in charge, it goes on from there.
    fixture.application.policy_name = "exp3".into();
    fixture.application.policy_parameters = vec![("eta".into(), 0.5)];
    fixture.application.shadow = None;
    let promoted = fixture.open().await.selection("").await.unwrap();
    let weights = exp3.weights(
        &state,
        &arms
            .iter()
            .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
            .collect::<Vec<_>>(),
    );
    assert!((promoted.arms[0].weight - weights[0]).abs() < 1e-12);
    // And back: what the former policy counted is still there with the shadow's.
    fixture.application = with_shadow;
    let view = fixture.open().await.selection("").await.unwrap();
    assert_eq!(view.arms.iter().map(|arm| arm.observations).sum::<u64>(), 50);
}
