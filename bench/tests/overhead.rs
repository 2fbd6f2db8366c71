//! The comparison, with a second echo in the part of the real server.

use std::{path::Path, time::Duration};

use skysail_bench::{
    collector::Collector,
    echo,
    overhead::{Settings, Twins, measure},
    process::ServerProcess,
    workload::{Workload, WorkloadConfig},
};

#[test]
fn an_echo_beside_an_echo_has_every_bar_and_answers_all() {
    let program = Path::new(env!("CARGO_BIN_EXE_skysail-bench"));
    let real = ServerProcess::echo(program, &echo::canned()).unwrap();
    let workload = Workload::new(WorkloadConfig { ..Default::default() }).unwrap();
    let settings = Settings {
        server: real.address.clone(),
        server_pid: real.pid(),
        echo_program: program.to_path_buf(),
        repeats: 1,
        block: Duration::from_millis(300),
        warm_up: Duration::from_millis(50),
        depth: 8,
        rate: None,
        threads: 1,
        seed: 1,
        model: Some(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist/logreg.onnx"),
        ),
        twins: Some(Twins {
            told: ServerProcess::echo(program, &echo::canned()).unwrap(),
            quiet: ServerProcess::echo(program, &echo::canned()).unwrap(),
            collector: Collector::start().unwrap(),
        }),
    };
    let overhead = measure(&settings, &workload).unwrap();
    assert_eq!(overhead.series.len(), 10);
    for series in &overhead.series {
        for block in series.closed.iter().chain(&series.open) {
            assert_eq!(block.tally.outcomes["answered"], block.tally.offered);
            assert!(block.tally.offered > 0);
        }
    }
    // The request and the response carry their tensors.
    assert!(overhead.request_bytes > 3_136 && overhead.response_bytes > 48);
    let bars = overhead.bars();
    let fixed =
        ["added_p50_vs_echo", "added_p99_vs_echo", "served_vs_limit", "telemetry_cpu_share"];
    for name in fixed {
        assert!(bars.iter().any(|bar| bar.name == name), "{name} is missing");
    }
    assert!(bars.iter().all(|bar| bar.value.is_some()), "{bars:?}");
}
