//! Many contexts, few of them in memory.

use std::time::Duration;

use super::fixture::{Fixture, query};
use crate::{Feedback, FeedbackValue, Label, Query};

/// What was learned goes to the store and not to nowhere, and comes back with the next query.
#[tokio::test(start_paused = true)]
async fn a_context_that_is_dropped_from_memory_comes_back_with_what_it_learned() {
    const CONTEXTS: usize = 300;
    const BOUND: usize = 32;
    for policy in ["hedge", "linucb"] {
        let mut fixture = Fixture::new(policy, 2);
        let query = |context: &str| {
            let features = if policy == "linucb" { vec![0.5] } else { Vec::new() };
            Query { context_features: features, ..query(1, context) }
        };
        fixture.application.context_features_dim = query("").context_features.len();
        let selector = fixture.open().await;
        let states = &selector.shared.states;
        states.keep_contexts(BOUND as u64);
        let mut learned = Vec::new();
        for number in 0..CONTEXTS {
            let context = format!("user {number}");
            for _ in 0..1 + number % 3 {
                let decision_id = selector.predict(query(&context)).await.unwrap().decision_id;
                let truth = vec![Label::Int((number % 2) as i64)];
                let feedback =
                    Feedback { decision_id, row: None, value: FeedbackValue::Labels(truth) };
                selector.observe(feedback).await.unwrap();
            }
            learned.push((context.clone(), selector.selection(&context).await.unwrap()));
            assert!(states.contexts().len() <= BOUND, "{} contexts", states.contexts().len());
        }

        let mut dropped = 0;
        for (number, (context, before)) in learned.iter().enumerate() {
            dropped += usize::from(states.known(context).is_none());
            // The first query of one that was dropped starts the load, the next draws from it.
            selector.predict(query(context)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            selector.predict(query(context)).await.unwrap();
            let records = fixture.log.records();
            let drawn = records.last().unwrap();
            assert_eq!(drawn.state_version, before.state_version, "{policy}: {context}");
            assert_eq!(before.state_version, 1 + number as u64 % 3);
            assert_eq!(&selector.selection(context).await.unwrap().arms, &before.arms);
            assert!(states.contexts().len() <= BOUND);
        }
        assert!(dropped >= CONTEXTS - BOUND, "{policy}: only {dropped} were dropped");
    }
}
