use super::*;
use crate::state::StateFile;
use skysail_selection::store::*;
use std::time::Instant;

fn seven(counter: u32) -> Arc<DecisionRecord> {
    let names = ["tree", "logreg", "lsvm", "rbf", "forest", "mlp", "cnn"];
    Arc::new(DecisionRecord {
        id: DecisionId::new(now_ms(), [1, 2, 3], counter, [9; 16]),
        time_ms: now_ms(),
        application: "fashion".into(),
        context: "".into(),
        features: vec![],
        policy: "exp3".into(),
        state_version: 123456,
        arms: names
            .iter()
            .enumerate()
            .map(|(i, n)| ArmRecord {
                arm: (*n).into(),
                version: format!("{n}:1").into(),
                q: 1.0 / (i as f64 + 3.7),
                weight: 1.0 / (i as f64 + 6.3),
                outcome: if i < 3 { Outcome::Used } else { Outcome::NotAsked },
                labels: if i < 3 { vec![Some(Label::Int(i as i64))] } else { vec![] },
                scores: vec![],
            })
            .collect(),
        answer: vec![RowRecord { label: Some(Label::Int(3)), p: 0.123456789012, default: false }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let base = std::env::var("MEASURE_DIR").unwrap_or("/tmp".into());
    let directory = tempfile::tempdir_in(&base).unwrap();
    let f = fs::File::create(directory.path().join("x")).unwrap();
    let mut t = vec![];
    for i in 0..50 {
        use std::os::unix::fs::FileExt;
        f.write_all_at(&[1; 4096], i * 4096).unwrap();
        let s = Instant::now();
        f.sync_data().unwrap();
        t.push(s.elapsed());
    }
    t.sort();
    println!("fdatasync 4 KiB median {:?} p90 {:?}", t[25], t[45]);
    for sync in [Sync::Group, Sync::Interval(Duration::from_secs(1))] {
        let dir = directory.path().join(format!("{sync:?}"));
        let log = Arc::new(open(&dir, Options { sync, ..Options::default() }));
        const N: u32 = 400_000;
        // hot: appended in bursts with room
        let all: Vec<_> = (0..N).map(seven).collect();
        let start = Instant::now();
        let mut hot = Duration::ZERO;
        let mut full = 0;
        let mut worst = Duration::ZERO;
        for chunk in all.chunks(64) {
            while !log.has_room() {
                full += 1;
                std::thread::yield_now();
            }
            let s = Instant::now();
            for r in chunk {
                log.append(Arc::clone(r));
            }
            let e = s.elapsed();
            hot += e;
            worst = worst.max(e);
        }
        log.flush().await.unwrap();
        let took = start.elapsed();
        let st = log.stats();
        println!(
            "{sync:?}: hot {:.0} ns/append (worst 64: {worst:?}), {:.0} records/s, {} B/record, groups {} write {:?} full-spins {full} segs {}",
            hot.as_nanos() as f64 / N as f64,
            N as f64 / took.as_secs_f64(),
            st.bytes / st.records,
            st.groups,
            st.write,
            st.segments
        );
        // paced at 20k/s: idle-wake cost included
        let mut lat = Vec::with_capacity(20000);
        let begin = Instant::now();
        for (i, r) in all.iter().take(20_000).enumerate() {
            let at = Duration::from_micros(50 * i as u64);
            while begin.elapsed() < at {
                std::hint::spin_loop();
            }
            let s = Instant::now();
            log.append(Arc::clone(r));
            lat.push(s.elapsed().as_nanos());
        }
        lat.sort();
        println!("  paced 20k/s: p50 {} p99 {} p999 {} ns", lat[10000], lat[19800], lat[19980]);
        log.flush().await.unwrap();
        let find = |name: &str, ids: Vec<DecisionId>| {
            let log = Arc::clone(&log);
            let name = name.to_owned();
            async move {
                let s = Instant::now();
                for id in &ids {
                    assert!(log.find(*id).await.unwrap().is_some());
                }
                println!("  find {name}: {:?}", s.elapsed() / ids.len() as u32);
            }
        };
        find("closed", all.iter().step_by(400).take(500).map(|r| r.id).collect()).await;
        find("active", all.iter().rev().take(100).map(|r| r.id).collect()).await;
        log.close().await.unwrap();
        drop(log);
        let s = Instant::now();
        let log = open(&dir, Options::default());
        println!("  reopen {:?}", s.elapsed());
        drop(log);
    }
    let file = StateFile::open(&directory.path().join("state")).unwrap();
    let store = file.selection_store();
    let state = bytes::Bytes::from(vec![7; 600]);
    for callers in [1, 2, 8, 32, 128] {
        let before = file.stats();
        let start = Instant::now();
        let mut tasks = vec![];
        for c in 0..callers {
            let store = Arc::clone(&store);
            let state = state.clone();
            tasks.push(tokio::spawn(async move {
                let key = StateKey {
                    application: format!("a{callers}").into(),
                    context: format!("{c}").into(),
                };
                let mut v = 0;
                let mut lat = vec![];
                while start.elapsed() < Duration::from_secs(2) {
                    let s = Instant::now();
                    let m = Mark {
                        decision: DecisionId::new(now_ms(), [c as u8, 0, 0], v as u32, [1; 16]),
                        row: 0,
                    };
                    match store
                        .commit(Commit {
                            key: key.clone(),
                            expected: v,
                            state: state.clone(),
                            marks: vec![m],
                            commit_id: 5,
                            time_ms: 0,
                        })
                        .await
                        .unwrap()
                    {
                        CommitOutcome::Committed(n) => v = n,
                        o => panic!("{o:?}"),
                    }
                    lat.push(s.elapsed());
                }
                lat
            }));
        }
        let mut lat = vec![];
        for t in tasks {
            lat.extend(t.await.unwrap());
        }
        lat.sort();
        let a = file.stats();
        println!(
            "commits, {callers} callers: {:.0}/s, {:.1} per group, p50 {:?} p99 {:?}",
            lat.len() as f64 / start.elapsed().as_secs_f64(),
            (a.changes - before.changes) as f64 / (a.groups - before.groups) as f64,
            lat[lat.len() / 2],
            lat[lat.len() * 99 / 100]
        );
    }
    let key = StateKey { application: "a8".into(), context: "3".into() };
    let s = Instant::now();
    for _ in 0..10000 {
        store.load(key.clone()).await.unwrap().unwrap();
    }
    println!("load {:?}", s.elapsed() / 10000);
}
