//! Every driver against an echo over the network: what the generator counts is what was sent.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::{net::SocketAddr, time::Duration};

use skysail_bench::{
    arrivals::{Arrivals, Shape},
    echo,
    load::{Block, Pace, Plan, run},
    target::{Api, TargetConfig},
    workload::{Workload, WorkloadConfig},
};
use skysail_proto::pb::v1::{self, PredictResponse};
use tokio::{net::TcpListener, runtime::Runtime};

const RATE: f64 = 400.0;
const SECONDS: f64 = 1.0;
const SEED: u64 = 20_261_125;

/// Ends with the runtime that it is given.
fn serve(runtime: &Runtime, canned: PredictResponse) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(echo::serve(listener, canned));
    address
}

fn workload(repeat: usize) -> Workload {
    Workload::new(WorkloadConfig { repeat, seed: SEED, ..Default::default() }).unwrap()
}

fn plan(address: SocketAddr, api: Api, pace: Pace) -> Plan {
    Plan {
        target: TargetConfig { server: address.to_string(), api, connections: 2, streams: 3 },
        workload: workload(0),
        pace,
        warm_up: Duration::from_millis(250),
        duration: Duration::from_secs_f64(SECONDS),
        drain: Duration::from_secs(20),
        objective: Duration::from_secs(20),
        max_in_flight: 10_000,
        server_pid: Some(std::process::id()),
        threads: 1,
    }
}

fn poisson() -> Arrivals {
    Arrivals::new(Shape::Poisson, RATE, 1.0, SEED).unwrap()
}

/// Arrivals that fall into the window, by the generator's own draw.
fn expected() -> u64 {
    let (from, until) = (0.25, 0.25 + SECONDS);
    poisson()
        .map(|at| at.as_secs_f64())
        .take_while(|at| *at < until)
        .filter(|at| *at >= from)
        .count() as u64
}

fn open(api: Api, canned: PredictResponse) -> Block {
    let runtime = Runtime::new().unwrap();
    let address = serve(&runtime, canned);
    run(plan(address, api, Pace::Open(Box::new(poisson())))).unwrap()
}

fn assert_all_answered(block: &Block) {
    assert_eq!(block.tally.offered, expected());
    assert_eq!(block.tally.outcomes["answered"], block.tally.offered, "{block:?}");
    assert_eq!(block.tally.outcomes.len(), 1, "{block:?}");
    assert_eq!((block.tally.good, block.tally.late), (block.tally.offered, 0));
    assert_eq!(block.unmatched_responses, 0);
    assert!(block.tally.latency_ms.p99 >= block.tally.latency_ms.p50);
}

#[test]
fn unary_calls_are_counted_exactly() {
    assert_all_answered(&open(Api::Predict, echo::canned()));
}

#[test]
fn stream_messages_are_counted_exactly() {
    assert_all_answered(&open(Api::PredictStream, echo::canned()));
}

#[test]
fn open_inference_calls_are_counted_exactly() {
    assert_all_answered(&open(Api::ModelInfer, echo::canned()));
}

#[test]
fn defaults_and_partial_answers_are_told_apart() {
    let with = |status: v1::Status| PredictResponse { status: status.into(), ..echo::canned() };
    for api in [Api::Predict, Api::PredictStream] {
        let block = open(api, with(v1::Status::Default));
        assert_eq!(block.tally.outcomes["default"], expected());
        assert_eq!((block.tally.good, block.tally.latency_ms.p50), (0, None));
        let block = open(api, with(v1::Status::Partial));
        assert_eq!(block.tally.outcomes["partial"], expected());
        assert_eq!(block.tally.good, expected());
    }
}

#[test]
fn a_refused_message_is_counted_by_its_code_and_the_stream_goes_on() {
    let error = skysail_proto::pb::google::rpc::Status {
        code: tonic::Code::ResourceExhausted.into(),
        message: "the queue is full".into(),
        ..Default::default()
    };
    let canned = PredictResponse { error: Some(error), ..Default::default() };
    let block = open(Api::PredictStream, canned);
    assert_eq!(block.tally.outcomes["refused_RESOURCE_EXHAUSTED"], expected());
    assert_eq!(block.tally.refusals["RESOURCE_EXHAUSTED"], "the queue is full");
}

#[test]
fn a_closed_loop_keeps_its_depth_and_loses_nothing() {
    for api in [Api::Predict, Api::PredictStream, Api::ModelInfer] {
        let runtime = Runtime::new().unwrap();
        let address = serve(&runtime, echo::canned());
        let block = run(plan(address, api, Pace::Closed(12))).unwrap();
        assert_eq!(block.in_flight_peak, 12);
        assert!(block.tally.offered > 100, "{api:?}: {block:?}");
        assert_eq!(block.tally.outcomes["answered"], block.tally.offered, "{api:?}");
        assert_eq!(block.tally.outcomes.len(), 1);
        assert!(block.cpu.server_us_per_reply.unwrap() > 0.0);
    }
}

/// A server that takes connections and streams, and never answers.
#[test]
fn what_gets_no_answer_is_counted_as_unanswered_or_unsent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for api in [Api::Predict, Api::PredictStream] {
        let mut plan = plan(address, api, Pace::Open(Box::new(poisson())));
        plan.drain = Duration::from_millis(50);
        plan.max_in_flight = 150;
        let block = run(plan).unwrap();
        let outcomes = &block.tally.outcomes;
        assert_eq!(block.tally.offered, expected());
        assert_eq!(outcomes.values().sum::<u64>(), expected());
        assert!(outcomes["unanswered"] > 0 && outcomes["unsent"] > 0, "{outcomes:?}");
        assert_eq!(block.in_flight_peak, 150);
        assert_eq!(block.tally.good, 0);
    }
}

/// A server that ends while queries are under way.
#[test]
fn a_lost_server_is_told_and_every_query_accounted_for() {
    for api in [Api::Predict, Api::PredictStream] {
        let runtime = Runtime::new().unwrap();
        let address = serve(&runtime, echo::canned());
        let plan = plan(address, api, Pace::Open(Box::new(poisson())));
        let loading = std::thread::spawn(move || run(plan).unwrap());
        std::thread::sleep(Duration::from_millis(900));
        runtime.shutdown_background();
        let block = loading.join().unwrap();
        let outcomes = &block.tally.outcomes;
        assert_eq!(outcomes.values().sum::<u64>(), expected(), "{outcomes:?}");
        assert!(outcomes["answered"] > 0, "{outcomes:?}");
        assert!(outcomes.keys().any(|name| name.starts_with("refused_")), "{outcomes:?}");
    }
}
