use proptest::prelude::*;

use super::*;

const OBJECTIVE: Duration = Duration::from_millis(20);

fn window(start: Instant) -> Window {
    Window { from: start + Duration::from_secs(1), until: start + Duration::from_secs(11) }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn at(intended: Instant, latency: Duration) -> Times {
    Times { intended, submitted: intended, sent: intended, done: intended + latency }
}

/// A server that answers one query at a time, each in 1 ms, and stalls once for a second.
#[test]
fn a_stall_is_charged_to_every_query_that_should_have_come_meanwhile() {
    let start = Instant::now();
    let mut recorder = Recorder::new(window(start), ms(20)).unwrap();
    let mut free = start;
    for index in 0..1_100_u64 {
        let intended = start + ms(index * 10);
        // A generator that waits for the answer would send this one only now.
        let sent = free.max(intended);
        let stall = if index == 500 { ms(1_000) } else { Duration::ZERO };
        free = sent + ms(1) + stall;
        recorder.record(Times { intended, submitted: sent, sent, done: free }, Outcome::Answered);
    }
    let tally = recorder.finish(0);
    assert_eq!(tally.offered, 1_000);
    // Behind the stall the server catches up by 9 ms a query: about 111 of 1,000 waited.
    assert_eq!(tally.late, 109);
    let p99 = tally.latency_ms.p99.unwrap();
    assert!((900.0..930.0).contains(&p99), "p99 {p99}");
    assert!(tally.latency_ms.max.unwrap() >= 1_000.0);
    // From the sending, all but one took 1 ms: the figure that hides the stall.
    assert!(tally.answered_from_sent_ms.p99.unwrap() < 1.1);
    // And the generator's lag shows it.
    assert!(tally.sending_lag_ms.p99.unwrap() > 900.0);
}

#[test]
fn the_warm_up_is_cut_by_the_intended_start() {
    let start = Instant::now();
    let mut recorder = Recorder::new(window(start), OBJECTIVE).unwrap();
    recorder.record(at(start + ms(999), ms(50)), Outcome::Answered);
    recorder.record(at(start + ms(1_000), ms(5)), Outcome::Answered);
    recorder.record(at(start + ms(10_999), ms(5_000)), Outcome::Answered);
    recorder.record(at(start + ms(11_000), ms(5)), Outcome::Answered);
    let tally = recorder.finish(0);
    assert_eq!((tally.offered, tally.good, tally.late), (2, 1, 1));
    assert!((tally.offered_per_s - 0.2).abs() < 1e-9);
}

#[test]
fn refusals_defaults_and_late_answers_are_misses() {
    let start = Instant::now();
    let mut recorder = Recorder::new(window(start), OBJECTIVE).unwrap();
    let intended = start + ms(2_000);
    recorder.record(at(intended, ms(5)), Outcome::Answered);
    recorder.record(at(intended, ms(6)), Outcome::Partial);
    recorder.record(at(intended, ms(21)), Outcome::Answered);
    recorder.record(at(intended, ms(1)), Outcome::Default);
    recorder.record(at(intended, ms(1)), Outcome::Refused(Code::ResourceExhausted));
    recorder.record(at(intended, ms(1)), Outcome::Unsent);
    let tally = recorder.finish(4);
    assert_eq!((tally.offered, tally.good, tally.late), (10, 2, 1));
    assert!((tally.goodput_ratio - 0.2).abs() < 1e-9);
    assert_eq!(tally.outcomes.values().sum::<u64>(), tally.offered);
    assert_eq!(tally.outcomes["refused_RESOURCE_EXHAUSTED"], 1);
    assert_eq!(tally.outcomes["unanswered"], 4);
    // Three of ten have an answer: the median of all offered is none.
    assert_eq!(tally.latency_ms.p50, None);
    assert!(tally.answered_ms.p50.is_some());
}

#[test]
fn an_empty_window_is_refused() {
    let now = Instant::now();
    assert!(Recorder::new(Window { from: now, until: now }, OBJECTIVE).is_err());
}

proptest! {
    #[test]
    fn percentiles_are_those_of_the_sorted_latencies(
        mut latencies in prop::collection::vec(1_u64..1_000_000, 1..400),
        unanswered in 0_u64..50,
    ) {
        let start = Instant::now();
        let mut recorder = Recorder::new(window(start), OBJECTIVE).unwrap();
        for latency in &latencies {
            let times = at(start + ms(1_000), Duration::from_micros(*latency));
            recorder.record(times, Outcome::Answered);
        }
        latencies.sort_unstable();
        let tally = recorder.finish(unanswered);
        let total = latencies.len() as u64 + unanswered;
        for (quantile, got) in [(0.5, tally.latency_ms.p50), (0.99, tally.latency_ms.p99)] {
            let rank = (quantile * total as f64).ceil() as usize;
            match latencies.get(rank - 1) {
                Some(micros) => {
                    let expected = *micros as f64 / 1e3;
                    prop_assert!((got.unwrap() / expected - 1.0).abs() < 2e-3);
                }
                None => prop_assert_eq!(got, None),
            }
        }
    }
}
