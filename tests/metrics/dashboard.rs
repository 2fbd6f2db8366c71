//! The dashboard and the alerts ask for nothing that there is not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::scrape::{Family, Scrape, documented};

/// Checks both files against what a server shows.
pub(crate) fn check(scrape: &Scrape) {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../deploy/grafana/skysail.json")).unwrap();
    let mut asked = BTreeSet::new();
    for query in queries(&dashboard) {
        let metrics = metrics(&query, &scrape.0);
        assert!(!metrics.is_empty(), "a query without a metric: {query}");
        asked.extend(metrics);
    }
    // What the issue of the dashboard lists.
    for name in [
        "skysail_requests_total",
        "skysail_refusals_total",
        "skysail_request_latency_seconds",
        "skysail_objective_seconds",
        "skysail_goodput_total",
        "skysail_batch_limit_rows",
        "skysail_batch_rows",
        "skysail_queue_rows",
        "skysail_batch_releases_total",
        "skysail_cache_hits_total",
        "skysail_selection_weight",
        "skysail_arm_mean_loss",
        "skysail_live_replicas",
        "skysail_cache_circuit_state",
        "skysail_feedback_total",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ] {
        assert!(asked.contains(name), "no panel shows {name}");
    }
    panels_are_whole(&dashboard);
    alerts(scrape);
}

/// Every `expr` of a panel, and every `query` of a variable.
fn queries(dashboard: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables = variables.filter(|variable| variable["type"] == "query");
    targets
        .map(|target| text(&target["expr"]))
        .chain(variables.map(|variable| text(&variable["query"]["query"])))
        .collect()
}

/// The metrics that a query names; each is shown, with each label that is filtered or summed by.
fn metrics(query: &str, shown: &BTreeMap<String, Family>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for part in query.split(|c| !word(c)) {
        if !part.starts_with("skysail_") && !part.starts_with("process_") {
            continue;
        }
        let families = ["", "_bucket", "_sum", "_count"];
        let family = families.iter().find_map(|suffix| {
            let name = part.strip_suffix(suffix)?;
            let family = shown.get(name)?;
            (suffix.is_empty() || family.kind == "histogram").then_some(name)
        });
        let family = family.unwrap_or_else(|| panic!("{part} is not shown: {query}"));
        found.insert(family.to_owned());
    }
    // Labels: before `=` or `=~` in braces, and in `by (…)`. `instance` is put on by Prometheus.
    let mut labels: BTreeSet<&str> = BTreeSet::new();
    for (at, _) in query.match_indices('{') {
        let inner = &query[at + 1..at + query[at..].find('}').unwrap()];
        let matchers = inner.split("\",").filter_map(|matcher| matcher.split(['=', '!']).next());
        labels.extend(matchers.map(str::trim));
    }
    for (at, _) in query.match_indices("by (") {
        let inner = &query[at + 4..at + query[at..].find(')').unwrap()];
        labels.extend(inner.split(',').map(str::trim));
    }
    let known: BTreeSet<_> = found.iter().flat_map(|name| Scrape::labels(&shown[name])).collect();
    for label in labels {
        let general = ["instance", "le", "job"].contains(&label);
        assert!(general || known.contains(label), "{label} is no label of {found:?}: {query}");
    }
    found
}

fn panels_are_whole(dashboard: &Value) {
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    assert_eq!(dashboard["uid"], "skysail");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(place("w") > 0 && place("h") > 0 && place("x") + place("w") <= 24, "{title}");
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${source}", "{title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
        }
    }
    let place = |panel: &Value| {
        let side = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        (side("x"), side("y"), side("w"), side("h"))
    };
    for (number, one) in panels.iter().enumerate() {
        for other in &panels[number + 1..] {
            let ((x, y, w, h), (x2, y2, w2, h2)) = (place(one), place(other));
            let apart = x + w <= x2 || x2 + w2 <= x || y + h <= y2 || y2 + h2 <= y;
            assert!(apart, "{} lies over {}", one["title"], other["title"]);
        }
    }
}

/// Each alert asks for metrics that there are, and is the one that docs/metrics.md names there.
fn alerts(scrape: &Scrape) {
    let text = include_str!("../../deploy/prometheus/alerts.yml");
    let mut alerts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in text.split("- alert: ").skip(1) {
        let (name, rest) = rule.split_once('\n').unwrap();
        let query = rest.split_once("expr:").unwrap().1.split_once("for:").unwrap().0;
        alerts.insert(name.trim().to_owned(), metrics(query, &scrape.0));
    }
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (metric, documented) in documented() {
        for alert in documented.alerts {
            named.entry(alert).or_default().insert(metric.clone());
        }
    }
    assert_eq!(alerts.keys().collect::<Vec<_>>(), named.keys().collect::<Vec<_>>());
    for (alert, metrics) in named {
        assert!(metrics.is_subset(&alerts[&alert]), "{alert} does not ask for {metrics:?}");
    }
}
