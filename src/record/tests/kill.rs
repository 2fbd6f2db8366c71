//! kill -9 at any moment: what was flushed is there, once.

use std::{collections::HashMap, path::Path};

use super::*;
use crate::state::child;

const GROUP: u32 = 5;

fn group(round: u64, number: u32) -> impl Iterator<Item = Arc<DecisionRecord>> {
    let time_ms = LONG_AGO + round * 1_000_000 + u64::from(number);
    (0..GROUP).map(move |one| record(time_ms, number * GROUP + one))
}

/// Not a test of its own: what `kill_nine_takes_nothing` runs and kills.
#[tokio::test]
async fn appends_until_it_is_killed() {
    let Some((directory, round)) = child::task() else { return };
    let log = open(&directory, small_segments());
    for number in 0.. {
        for record in group(round, number) {
            log.append(record);
        }
        log.flush().await.unwrap();
        child::acknowledge(&number.to_string());
    }
}

/// How often each id is there, in all whole lines.
fn count(directory: &Path) -> HashMap<DecisionId, u32> {
    let mut ids = HashMap::new();
    for path in names(directory, "jsonl") {
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let record: DecisionRecord = serde_json::from_str(line).unwrap();
            *ids.entry(record.id).or_insert(0) += 1;
        }
    }
    ids
}

#[tokio::test]
async fn kill_nine_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let after = rand::random_range(1..60);
        println!("round {round}: killed after {after} acknowledged groups");
        let test = "record::tests::kill::appends_until_it_is_killed";
        for line in child::killed(test, directory.path(), round, after) {
            acknowledged.extend(group(round, line.parse().unwrap()));
        }
        let log = open(directory.path(), small_segments());
        assert_eq!(log.stats().skipped, 0);
        assert_found(&log, &acknowledged).await;
        drop(log);
        let ids = count(directory.path());
        assert!(acknowledged.iter().all(|record| ids[&record.id] == 1), "something is doubled");
        assert!(ids.values().all(|count| *count == 1), "something is doubled");
    }
}
