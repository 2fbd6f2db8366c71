//! What the rows say, one figure per alternation.

use super::{MODELS, OBJECTIVE, Own, Row, SERVER, TRITON};
use crate::report::{Bar, Limit};

const GRPC: &str = "grpc-v2";
const REST: &str = "rest-v2";

pub(super) fn bars(passes: &[Vec<Row>], own: &[Own]) -> Vec<Bar> {
    let passes: Vec<Vec<Row>> = passes.iter().map(|rows| answers_alone(rows, own)).collect();
    let each = |of: &dyn Fn(&[Row]) -> Option<f64>| {
        passes.iter().filter_map(|rows| of(rows)).collect::<Vec<f64>>()
    };
    let at_least =
        |name: &str, limit, repeats| Bar::new(name, "ratio", Some(Limit::AtLeast(limit)), repeats);
    let at_most =
        |name: &str, limit, repeats| Bar::new(name, "ratio", Some(Limit::AtMost(limit)), repeats);
    let rps: fn(&Row) -> f64 = |row| row.rps;
    vec![
        at_most("cpu_vs_triton_m1", 0.25, each(&|rows| worst(rows, GRPC, |row| row.srv_us))),
        at_least("rps_vs_triton_m1_c16", 2.5, each(&|rows| ratio(rows, GRPC, 16, rps))),
        at_least("rps_vs_triton_m1_c64", 2.5, each(&|rows| ratio(rows, GRPC, 64, rps))),
        at_least("worst_rps_vs_any_rival", 0.67, each(&worst_within_objective)),
        at_most("p99_vs_triton_m1", 1.0, each(&|rows| worst(rows, GRPC, |row| row.p99_ms))),
        at_least(
            "rest_rps_vs_triton_m1",
            1.0,
            each(&|rows| worst(rows, REST, |row| 1.0 / row.rps).map(|inverse| 1.0 / inverse)),
        ),
        at_most("rest_cpu_vs_triton_m1", 1.0, each(&|rows| worst(rows, REST, |row| row.srv_us))),
    ]
}

/// h2load takes a refusal for an answer: of Skysail's replies over gRPC only the share counts that our
/// own driver found to hold one.
fn answers_alone(rows: &[Row], own: &[Own]) -> Vec<Row> {
    let counted = |row: &Row| {
        let mut row = row.clone();
        let known = own.iter().find(|own| own.model == row.model);
        if let (SERVER, GRPC, Some(own)) = (row.peer.as_str(), row.proto.as_str(), known) {
            row.rps *= own.closed_answered;
            row.srv_us /= own.closed_answered;
        }
        row
    };
    rows.iter().map(counted).collect()
}

/// Skysail's figure over Triton's on the first model.
fn ratio(rows: &[Row], proto: &str, conc: usize, of: fn(&Row) -> f64) -> Option<f64> {
    let find = |peer: &str| {
        let is = |row: &&Row| {
            row.peer == peer && row.proto == proto && row.model == MODELS[0] && row.conc == conc
        };
        rows.iter().find(is).map(of)
    };
    Some(find(SERVER)? / find(TRITON)?)
}

/// The highest ratio over all depths that both have.
fn worst(rows: &[Row], proto: &str, of: fn(&Row) -> f64) -> Option<f64> {
    let ratios = rows
        .iter()
        .filter(|row| row.peer == SERVER && row.proto == proto)
        .filter_map(|row| ratio(rows, proto, row.conc, of));
    ratios.reduce(f64::max)
}

/// Over the models: Skysail's highest rate within the objective over the best rival's. None of an
/// alternation that does not have all models: it would flatter the worst.
fn worst_within_objective(rows: &[Row]) -> Option<f64> {
    if MODELS.iter().any(|model| rows.iter().all(|row| row.model != *model)) {
        return None;
    }
    let limit = OBJECTIVE.as_secs_f64() * 1e3;
    let best = |model: &str, of: &dyn Fn(&str) -> bool| {
        let rows = rows.iter().filter(|row| row.model == model && of(&row.peer));
        rows.filter(|row| row.p99_ms <= limit).map(|row| row.rps).reduce(f64::max)
    };
    let ratios = MODELS.iter().filter_map(|model| {
        // Without a rival within the objective there is nothing to be behind of.
        let rival = best(model, &|peer| peer != SERVER)?;
        Some(best(model, &|peer| peer == SERVER).unwrap_or_default() / rival)
    });
    ratios.reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: &str, proto: &str, model: &str, conc: usize, rps: f64, p99_ms: f64) -> Row {
        Row {
            peer: peer.into(),
            proto: proto.into(),
            model: model.into(),
            conc,
            rps,
            p50_ms: 1.0,
            p99_ms,
            err: 0,
            srv_us: 1e6 / rps,
            cli_us: 10.0,
            foreign: 0.0,
            start_s: 1.0,
        }
    }

    fn value(bars: &[Bar], name: &str) -> Option<f64> {
        bars.iter().find(|bar| bar.name == name).and_then(|bar| bar.value)
    }

    #[test]
    fn a_rival_too_slow_for_the_objective_does_not_count() {
        let rows = vec![
            row(SERVER, GRPC, "m1", 16, 12_000.0, 4.0),
            row(SERVER, GRPC, "m1", 64, 10_000.0, 8.0),
            row(TRITON, GRPC, "m1", 16, 4_000.0, 8.0),
            row(TRITON, GRPC, "m1", 64, 5_000.0, 30.0),
            row(SERVER, REST, "m1", 16, 9_000.0, 4.0),
            row(TRITON, REST, "m1", 16, 4_500.0, 4.0),
            row(SERVER, GRPC, "m2", 16, 5_000.0, 9.0),
            row(SERVER, GRPC, "m3", 16, 5_000.0, 9.0),
            row("mosec", "rest", "m3", 16, 4_000.0, 15.0),
            row("mosec", "rest", "m3", 64, 9_000.0, 40.0),
        ];
        // The second alternation has the first model alone.
        let second =
            vec![row(SERVER, GRPC, "m1", 1, 9.0, 1.0), row(TRITON, GRPC, "m1", 1, 9.0, 1.0)];
        let bars = bars(&[rows.clone(), rows, second], &[]);
        assert_eq!(value(&bars, "rps_vs_triton_m1_c16"), Some(3.0));
        assert_eq!(value(&bars, "rps_vs_triton_m1_c64"), Some(2.0));
        assert_eq!(value(&bars, "cpu_vs_triton_m1"), Some(0.5));
        assert_eq!(value(&bars, "p99_vs_triton_m1"), Some(0.5));
        assert_eq!(value(&bars, "rest_rps_vs_triton_m1"), Some(2.0));
        // m1: 12,000 over 4,500; m3: 5,000 over 4,000.
        assert_eq!(value(&bars, "worst_rps_vs_any_rival"), Some(1.25));
    }

    #[test]
    fn refusals_that_h2load_takes_for_answers_do_not_count() {
        let rows = vec![
            row(SERVER, GRPC, "m1", 16, 8_000.0, 4.0),
            row(SERVER, REST, "m1", 16, 8_000.0, 4.0),
            row(TRITON, GRPC, "m1", 16, 4_000.0, 4.0),
            row(TRITON, REST, "m1", 16, 4_000.0, 4.0),
        ];
        let own = Own {
            model: "m1".into(),
            closed_per_s: 0.0,
            closed_answered: 0.5,
            rate: 0.0,
            p50_ms: None,
            p99_ms: None,
            goodput_ratio: 0.0,
        };
        let bars = bars(&[rows], &[own]);
        assert_eq!(value(&bars, "rps_vs_triton_m1_c16"), Some(1.0));
        assert_eq!(value(&bars, "cpu_vs_triton_m1"), Some(1.0));
        assert_eq!(value(&bars, "rest_rps_vs_triton_m1"), Some(2.0));
    }

    #[test]
    fn a_server_out_of_the_objective_is_far_behind() {
        let rows = vec![
            row(SERVER, GRPC, "m1", 64, 9_000.0, 5.0),
            row(SERVER, GRPC, "m2", 64, 9_000.0, 25.0),
            row(SERVER, GRPC, "m3", 64, 9_000.0, 5.0),
            row("mlserver", GRPC, "m2", 64, 500.0, 19.0),
        ];
        let bars = bars(&[rows], &[]);
        assert_eq!(value(&bars, "worst_rps_vs_any_rival"), Some(0.0));
        assert_eq!(value(&bars, "cpu_vs_triton_m1"), None);
    }

    #[test]
    fn a_line_of_the_driver_is_read() {
        let line = r#"{"peer": "triton", "proto": "grpc-v2", "model": "m1", "conc": 16,
            "tool": "h2load", "rps": 5521.3, "p50_ms": 2.6, "p99_ms": 4.2, "lo": 5000.0,
            "hi": 5600.0, "err": 0, "srv_us": 254.0, "cli_us": 40.1, "foreign": 0.02,
            "steal": 0.0, "start_s": 4.1, "nice": 0, "dur": 5, "tag": "", "t": "12:00:00"}"#;
        let row: Row = serde_json::from_str(line).unwrap();
        assert_eq!((row.conc, row.srv_us), (16, 254.0));
    }
}
