//! A scrape, read by a parser that is not ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::common::Server;

/// A metric as it was shown.
#[derive(Debug, Deserialize)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) help: String,
    /// Name, labels, value.
    pub(crate) samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// All that a server shows at one moment.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) BTreeMap<String, Family>);

impl Scrape {
    /// Prometheus' text format, or OpenMetrics.
    pub(crate) async fn of(server: &Server, open_metrics: bool) -> Self {
        let (accept, format, kind) = if open_metrics {
            let accept = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1";
            (accept, "openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        } else {
            ("text/plain;version=0.0.4", "text", "text/plain; version=0.0.4; charset=utf-8")
        };
        let response = server.get_with("/metrics", &[("Accept", accept)]).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        let families: Vec<Family> = serde_json::from_slice(&parse(format, body)).unwrap();
        let count = families.len();
        let named: BTreeMap<_, _> =
            families.into_iter().map(|family| (family.name.clone(), family)).collect();
        assert_eq!(named.len(), count, "a metric is shown twice");
        Self(named)
    }

    /// The values of a metric by one of its labels, those that are 0 left out.
    pub(crate) fn by(
        &self,
        name: &str,
        label: &str,
        with: &[(&str, &str)],
    ) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        let family = name.trim_end_matches("_sum").trim_end_matches("_count");
        let family = self.0.get(family).unwrap_or_else(|| panic!("no {name}"));
        for (sample, labels, value) in &family.samples {
            let fits =
                with.iter().all(|(name, value)| labels.get(*name).is_some_and(|v| v == value));
            if sample == name && fits && *value != 0.0 {
                *values.entry(labels[label].clone()).or_default() += value;
            }
        }
        values
    }

    /// The sum of a metric's values.
    pub(crate) fn sum(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        let family = name.trim_end_matches("_sum").trim_end_matches("_count");
        let family = self.0.get(family).unwrap_or_else(|| panic!("no {name}"));
        let fits = |labels: &BTreeMap<String, String>| {
            with.iter().all(|(name, value)| labels.get(*name).is_some_and(|v| v == value))
        };
        let samples =
            family.samples.iter().filter(|(sample, labels, _)| sample == name && fits(labels));
        samples.map(|(_, _, value)| value).sum()
    }

    /// The labels of a metric's samples, less that of its buckets.
    pub(crate) fn labels(family: &Family) -> BTreeSet<String> {
        let names = family.samples.iter().flat_map(|(_, labels, _)| labels.keys());
        names.filter(|name| *name != "le").cloned().collect()
    }
}

fn parse(format: &str, text: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut path = vec![root.join("target/setup/python")];
    path.extend(std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths));
    let mut child = Command::new("python3")
        .arg(root.join("tests/python/scrape.py"))
        .arg(format)
        .env("PYTHONPATH", std::env::join_paths(path).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "not parsed; where a package is missing, run `cargo xtask setup`"
    );
    output.stdout
}

/// A line of a table in docs/metrics.md.
#[derive(Debug)]
pub(crate) struct Documented {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) alerts: BTreeSet<String>,
}

/// What docs/metrics.md lists.
pub(crate) fn documented() -> BTreeMap<String, Documented> {
    let text = include_str!("../../docs/metrics.md");
    let words = |cell: &str| {
        cell.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _, _, alerts] = cells.as_slice() else { panic!("{line}") };
        let documented =
            Documented { kind: (*kind).to_owned(), labels: words(labels), alerts: words(alerts) };
        let twice = all.insert(name.trim_matches('`').to_owned(), documented);
        assert!(twice.is_none(), "{name} stands there twice");
    }
    assert!(!all.is_empty());
    all
}
