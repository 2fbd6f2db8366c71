//! Real files in a directory that goes when the test ends.

use std::{fs, io::Write, path::Path, sync::Arc, sync::atomic::Ordering, time::Duration};

use skysail_selection::{
    ArmRecord, DecisionId, DecisionLog, DecisionRecord, Feedback, Label, Outcome, RowRecord,
    query::FeedbackValue,
};

use super::{
    DecisionLogFile, FeedbackLine, Options, RecordError, Sync,
    buffer::Buffer,
    line::{Line, now_ms},
    segment,
};

mod kill;

/// Long ago, so that no search waits for it.
const LONG_AGO: u64 = 1_700_000_000_000;

pub(super) fn record(time_ms: u64, counter: u32) -> Arc<DecisionRecord> {
    let arm = |name: &str, label| ArmRecord {
        arm: name.into(),
        version: format!("{name}:1").into(),
        q: 0.25,
        weight: 0.5,
        outcome: Outcome::Used,
        labels: vec![Some(Label::Int(label)), None],
        scores: Vec::new(),
    };
    Arc::new(DecisionRecord {
        id: DecisionId::new(time_ms, [1, 2, 3], counter, [9; 16]),
        time_ms,
        application: "fashion".into(),
        context: "user \"1\"\n".into(),
        features: vec![0.5, -1.25],
        features_kept: None,
        policy: "exp3".into(),
        state_version: 7,
        arms: vec![arm("mlp", 3), arm("cnn", 4)],
        shadow: None,
        answer: vec![RowRecord {
            label: Some(Label::Text("3".into())),
            p: 0.75,
            arm: None,
            default: false,
        }],
    })
}

pub(super) fn records(count: u32) -> Vec<Arc<DecisionRecord>> {
    (0..count).map(|counter| record(LONG_AGO + u64::from(counter), counter)).collect()
}

/// About four records.
pub(super) fn small_segments() -> Options {
    Options { segment_bytes: 2000, ..Options::default() }
}

fn open(directory: &Path, options: Options) -> DecisionLogFile {
    DecisionLogFile::open(directory, options).unwrap()
}

/// Group by group, so that small segments are closed in between.
async fn fill(log: &DecisionLogFile, records: &[Arc<DecisionRecord>]) {
    for record in records {
        log.append(Arc::clone(record));
        log.flush().await.unwrap();
    }
}

async fn assert_found(log: &DecisionLogFile, records: &[Arc<DecisionRecord>]) {
    for record in records {
        let found = log.find(record.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(record));
    }
}

fn names(directory: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == extension)).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_record_is_found_before_and_after_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    let all = records(100);
    for record in &all {
        log.append(Arc::clone(record));
    }
    assert_found(&log, &all).await;
    log.flush().await.unwrap();
    assert_found(&log, &all).await;
    let stats = log.stats();
    assert_eq!((stats.records, stats.waiting, stats.lost), (100, 0, 0));
    log.close().await.unwrap();
    log.append(record(LONG_AGO, 100));
    assert_eq!(log.stats().lost, 1);
    assert!(matches!(log.flush().await, Err(RecordError::Closed)));

    let written = fs::read_to_string(segment::path(directory.path(), 1, "jsonl")).unwrap();
    assert_eq!(written.len() as u64, stats.bytes);
    drop(log);
    assert_found(&open(directory.path(), Options::default()), &all).await;
}

#[tokio::test]
async fn a_search_waits_for_a_record_on_its_way_but_not_for_an_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let hours = Options { flush_interval: Duration::from_secs(3600), ..Options::default() };
    let log = open(directory.path(), hours);
    assert_eq!(log.find(record(LONG_AGO, 1).id).await.unwrap(), None);
    drop(log);

    let log = open(directory.path(), Options::default());
    let start = std::time::Instant::now();
    assert_eq!(log.find(record(now_ms(), 1).id).await.unwrap(), None);
    assert!(start.elapsed() >= 5 * Options::default().flush_interval);

    let late = record(now_ms(), 2);
    let append = async { log.append(Arc::clone(&late)) };
    let (found, ()) = tokio::join!(log.find(late.id), append);
    assert_eq!(found.unwrap(), Some(Arc::clone(&late)));
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_a_broken_line_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(3);
    let log = open(directory.path(), Options::default());
    fill(&log, &all).await;
    drop(log);

    let path = segment::path(directory.path(), 1, "jsonl");
    let whole = fs::read(&path).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let mut damaged = fs::File::create(&path).unwrap();
    damaged.write_all(lines[0]).unwrap();
    damaged.write_all(b"{\"id\":\"0123\n{\"other\":1}\n\n").unwrap();
    damaged.write_all(lines[1]).unwrap();
    damaged.write_all(&lines[2][..lines[2].len() - 1]).unwrap();

    let log = open(directory.path(), Options::default());
    assert_eq!(log.stats().skipped, 3);
    assert_found(&log, &all[..2]).await;
    assert_eq!(log.find(all[2].id).await.unwrap(), None);
    fill(&log, &all[2..]).await;
    drop(log);
    let log = open(directory.path(), Options::default());
    assert_found(&log, &all).await;
    assert_eq!(fs::read(&path).unwrap().iter().filter(|byte| **byte == b'\n').count(), 6);
}

#[tokio::test]
async fn closed_segments_are_searched_by_their_sidecars() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(40);
    let log = open(directory.path(), small_segments());
    fill(&log, &all).await;
    assert_found(&log, &all).await;
    assert_eq!(log.find(record(LONG_AGO + 5, 1000).id).await.unwrap(), None);
    drop(log);

    let mut sidecars = names(directory.path(), "idx");
    assert_eq!(names(directory.path(), "jsonl").len(), sidecars.len());
    // Of the active one.
    sidecars.pop();
    assert!(sidecars.len() > 5, "{sidecars:?}");
    let before: Vec<_> = sidecars.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_found(&open(directory.path(), small_segments()), &all).await;

    // One is missing, one is half, one is of another segment, one is of another program.
    fs::remove_file(&sidecars[0]).unwrap();
    fs::write(&sidecars[1], &before[1][..before[1].len() / 2]).unwrap();
    fs::write(&sidecars[2], b"").unwrap();
    fs::write(&sidecars[3], b"something else that is longer than the header of a sidecar is")
        .unwrap();
    let log = open(directory.path(), small_segments());
    assert_found(&log, &all).await;
    for (path, before) in sidecars.iter().zip(&before) {
        assert_eq!(&fs::read(path).unwrap(), before);
    }
}

/// More than one run, groups of all sizes, and ids in no order.
#[tokio::test]
async fn an_index_is_searched_while_it_grows_in_runs() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    // As two front ends whose clocks differ: each run overlaps the next.
    let time = |n: u32| LONG_AGO + u64::from(n % 1000);
    let all: Vec<_> = (0..10_000).map(|n| record(time(n), n)).collect();
    let mut rest = &all[..];
    for group in [1, 4000, 95, 1, 5000, 903] {
        let (now, later) = rest.split_at(group);
        for record in now {
            log.append(Arc::clone(record));
        }
        log.flush().await.unwrap();
        assert_found(&log, now).await;
        rest = later;
    }
    assert_found(&log, &all).await;
    assert_eq!(log.find(record(LONG_AGO + 5, 1_000_000).id).await.unwrap(), None);
    let index = segment::path(directory.path(), 1, "idx");
    let indexed = fs::metadata(&index).unwrap().len() / 40;
    assert!((4096..10_000).contains(&indexed), "{indexed}");
    drop(log);
    // All of it is made anew at start, and closed by the next rotation.
    let one = Options { segment_bytes: 1 << 20, ..Options::default() };
    let log = open(directory.path(), one.clone());
    assert_found(&log, &all).await;
    fill(&log, &records(1)).await;
    assert_eq!(log.stats().segments, 2);
    assert_found(&log, &all).await;
    drop(log);
    let closed = fs::read(&index).unwrap();
    assert_eq!(closed.len(), 10_001 * 40 + 3 * 24 + 56);
    assert_found(&open(directory.path(), one), &all).await;
}

#[tokio::test]
async fn a_decision_that_was_written_twice_has_one_entry() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(8);
    let log = open(directory.path(), small_segments());
    log.append(Arc::clone(&all[0]));
    fill(&log, &all[..1]).await;
    assert_found(&log, &all[..1]).await;
    fill(&log, &all[1..]).await;
    assert!(log.stats().segments > 1);
    assert_found(&log, &all).await;
    drop(log);
    let index = segment::path(directory.path(), 1, "idx");
    let before = fs::metadata(&index).unwrap().modified().unwrap();
    assert_found(&open(directory.path(), small_segments()), &all).await;
    let again = fs::metadata(&index).unwrap().modified().unwrap();
    assert_eq!(again, before, "it fits, and is not made again");
}

/// No next segment can be made: the closed index of the active one has to grow again.
#[tokio::test]
async fn an_index_that_was_closed_too_early_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(40);
    let log = open(directory.path(), small_segments());
    let next = segment::path(directory.path(), 2, "jsonl");
    fs::create_dir(&next).unwrap();
    fill(&log, &all[..20]).await;
    assert_eq!(log.stats().segments, 1);
    assert_found(&log, &all[..20]).await;
    fs::remove_dir(&next).unwrap();
    // It is tried again after a while.
    tokio::time::sleep(Duration::from_millis(150)).await;
    fill(&log, &all[20..]).await;
    assert!(log.stats().segments > 2);
    assert_found(&log, &all).await;
    drop(log);
    let first = segment::path(directory.path(), 1, "idx");
    let before = fs::read(&first).unwrap();
    assert_found(&open(directory.path(), small_segments()), &all).await;
    assert_eq!(fs::read(&first).unwrap(), before);
}

#[tokio::test]
async fn a_segment_that_did_not_get_its_sidecar_is_indexed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(3);
    let log = open(directory.path(), Options::default());
    fill(&log, &all).await;
    drop(log);
    // As a kill between the new segment and whatever comes next leaves it.
    fs::write(segment::path(directory.path(), 2, "jsonl"), b"").unwrap();
    let log = open(directory.path(), Options::default());
    assert_found(&log, &all).await;
    assert_eq!(log.stats().segments, 2);
}

#[tokio::test]
async fn old_segments_go_but_not_while_feedback_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let all = records(40);
    let log = open(directory.path(), small_segments());
    fill(&log, &all).await;
    // Nobody said what feedback needs.
    assert!(log.stats().segments > 5);
    assert_found(&log, &all).await;

    log.set_retention(Duration::from_secs(3600));
    // A rotation looks for old ones.
    let new: Vec<_> = (0..8).map(|counter| record(now_ms(), 1000 + counter)).collect();
    fill(&log, &new).await;
    assert_eq!(log.find(all[0].id).await.unwrap(), None);
    assert_found(&log, &new).await;
    let left = log.stats().segments;
    assert!(left <= 3, "{left}");
    assert_eq!(names(directory.path(), "jsonl").len() as u64, left);
}

#[tokio::test]
async fn the_oldest_go_where_all_are_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { max_bytes: 5000, ..small_segments() };
    let now = now_ms();
    let all: Vec<_> = (0..40).map(|counter| record(now - 7_200_000, counter)).collect();
    let log = open(directory.path(), options);
    log.set_retention(Duration::from_secs(3600));
    fill(&log, &all).await;
    assert_eq!(log.find(all[0].id).await.unwrap(), None);
    assert_found(&log, &all[39..]).await;
    let closed: u64 =
        names(directory.path(), "jsonl").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(closed <= 5000 + 2 * 2500, "{closed}");
}

#[tokio::test]
async fn a_second_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), Options::default());
    let refused = DecisionLogFile::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(refused, RecordError::InUse(_)), "{refused}");
    drop(first);
    open(directory.path(), Options::default());
}

#[test]
fn there_is_room_for_so_many_records_and_bytes() {
    let buffer = Buffer::new(3, 1 << 20);
    for record in records(3) {
        assert!(buffer.has_room());
        buffer.push(&Line::Decision(&record));
    }
    assert!(!buffer.has_room());
    // Who was admitted before has a place; feedback has none.
    buffer.push(&Line::Decision(&record(LONG_AGO, 3)));
    let reward = FeedbackValue::Reward(1.0);
    let reward = Feedback { decision_id: record(LONG_AGO, 3).id, row: None, value: reward };
    buffer.push(&Line::Feedback(&FeedbackLine::new(&reward)));
    assert_eq!((buffer.waiting(), buffer.lost(), buffer.refused()), (4, 1, 1));

    let mut encoded = Vec::new();
    Line::Decision(&record(LONG_AGO, 1)).encode(&mut encoded).unwrap();
    let buffer = Buffer::new(1000, encoded.len() + 1);
    buffer.push(&Line::Decision(&record(LONG_AGO, 1)));
    assert!(buffer.has_room());
    buffer.push(&Line::Decision(&record(LONG_AGO, 2)));
    assert!(!buffer.has_room());
}

#[tokio::test]
async fn what_json_has_no_number_for_does_not_lose_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    let mut strange = DecisionRecord::clone(&record(LONG_AGO, 1));
    strange.features = vec![f32::NAN, 1.0];
    strange.arms[0].scores = vec![vec![f32::INFINITY, 0.5], vec![]];
    log.append(Arc::new(strange.clone()));
    log.flush().await.unwrap();
    drop(log);
    let log = open(directory.path(), Options::default());
    let found = log.find(strange.id).await.unwrap().unwrap();
    assert!(found.features[0].is_nan());
    assert!(found.arms[0].scores[0][0].is_nan());
    assert_eq!(found.arms[0].scores[0][1], 0.5);
    assert_eq!(found.answer, strange.answer);
}

#[tokio::test]
async fn a_full_disk_refuses_and_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    let all = records(3);
    fill(&log, &all[..1]).await;
    log.shared().segments.full.store(true, Ordering::Relaxed);
    log.append(Arc::clone(&all[1]));
    while log.has_room() {
        tokio::task::yield_now().await;
    }
    // Who was admitted before is kept and found.
    log.append(Arc::clone(&all[2]));
    assert_found(&log, &all).await;
    log.shared().segments.full.store(false, Ordering::Relaxed);
    log.flush().await.unwrap();
    while !log.has_room() {
        tokio::task::yield_now().await;
    }
    log.close().await.unwrap();
    assert_eq!(log.stats().lost, 0);
    drop(log);
    let text = fs::read_to_string(segment::path(directory.path(), 1, "jsonl")).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert_found(&open(directory.path(), Options::default()), &all).await;
}

#[tokio::test]
async fn a_disk_that_fails_to_the_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    log.shared().segments.full.store(true, Ordering::Relaxed);
    log.append(record(LONG_AGO, 1));
    let error = log.close().await.unwrap_err();
    assert!(matches!(error, RecordError::Lost { records: 1, .. }), "{error}");
}

#[tokio::test]
async fn an_interval_needs_no_group_to_be_forced() {
    let directory = tempfile::tempdir().unwrap();
    let sync = Sync::Interval(Duration::from_millis(1));
    let log = open(directory.path(), Options { sync, ..Options::default() });
    let all = records(20);
    for record in &all {
        log.append(Arc::clone(record));
        tokio::task::yield_now().await;
    }
    log.close().await.unwrap();
    drop(log);
    assert_found(&open(directory.path(), Options::default()), &all).await;
}

#[tokio::test]
async fn feedback_lies_beside_its_decision() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Options::default());
    let decision = record(LONG_AGO, 1);
    log.append(Arc::clone(&decision));
    let label = Feedback {
        decision_id: decision.id,
        row: Some(1),
        value: FeedbackValue::Labels(vec![Label::Int(3)]),
    };
    let reward =
        Feedback { row: None, value: FeedbackValue::Reward(0.5), decision_id: decision.id };
    let lines = [FeedbackLine::new(&label), FeedbackLine::new(&reward)];
    for line in &lines {
        log.append_feedback(line.clone());
    }
    log.close().await.unwrap();
    let stats = log.stats();
    assert_eq!((stats.records, stats.feedback), (1, 2));
    drop(log);

    let text = fs::read_to_string(segment::path(directory.path(), 1, "jsonl")).unwrap();
    let written: Vec<_> = text.lines().collect();
    let at = lines[0].time_ms;
    let expected = format!(
        r#"{{"feedback":"{}","row":1,"labels":[3],"outcome":"applied","time_ms":{at}}}"#,
        decision.id
    );
    assert_eq!(written[1], expected);
    let read: FeedbackLine = serde_json::from_str(written[2]).unwrap();
    assert_eq!(read, lines[1]);
    // They are no broken lines.
    let log = open(directory.path(), Options::default());
    assert_eq!(log.stats().skipped, 0);
    assert_found(&log, &[decision]).await;
}
