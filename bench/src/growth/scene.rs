//! What is served at each size of an axis.

use std::{
    fmt::{self, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use skysail_proto::pb::v1::{RegisterRequest, TensorSpec, registry_client::RegistryClient};
use tempfile::TempDir;

use super::OBJECTIVE;
use crate::{
    process::{Programs, ServerProcess},
    sleeper::{self, Speed},
    target::connect,
    workload::{Spread, Workload, WorkloadConfig},
};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Models that each query asks.
    Models,
    /// Applications, of which each query asks one.
    Applications,
    /// Contexts that have had feedback, of which each query names one.
    Contexts,
    /// Replicas of a model.
    Replicas,
    /// Bytes of an input.
    InputBytes,
    /// Connections, over which queries take turns.
    Connections,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Models,
        Self::Applications,
        Self::Contexts,
        Self::Replicas,
        Self::InputBytes,
        Self::Connections,
    ];

    /// Sizes with `--quick`, and otherwise.
    pub fn sizes(self, quick: bool) -> Vec<u64> {
        let (few, all): (&[u64], &[u64]) = match self {
            Self::Models => (&[1, 8, 64], &[1, 2, 4, 8, 16, 32, 64]),
            Self::Applications => (&[1, 30, 1_000], &[1, 10, 30, 100, 300, 1_000]),
            Self::Contexts => (&[1, 1_000, 100_000], &[1, 100, 1_000, 10_000, 100_000, 1_000_000]),
            Self::Replicas => (&[1, 4, 16], &[1, 2, 4, 8, 16]),
            Self::InputBytes => {
                (&[16, 4 << 10, 4 << 20], &[16, 256, 4 << 10, 64 << 10, 1 << 20, 4 << 20])
            }
            Self::Connections => (&[1, 100, 10_000], &[1, 10, 100, 1_000, 10_000]),
        };
        if quick { few.to_vec() } else { all.to_vec() }
    }

    /// Queries per second of open blocks: what the largest size does with ease.
    pub(super) fn rate(self) -> f64 {
        match self {
            Self::Models | Self::InputBytes => 25.0,
            _ => 200.0,
        }
    }

    /// As in files and bars.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Applications => "applications",
            Self::Contexts => "contexts",
            Self::Replicas => "replicas",
            Self::InputBytes => "input_bytes",
            Self::Connections => "connections",
        }
    }

    /// Below a chart.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Models => "models per application",
            Self::Applications => "applications",
            Self::Contexts => "contexts with feedback",
            Self::Replicas => "replicas of the model",
            Self::InputBytes => "bytes of an input",
            Self::Connections => "client connections",
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', "-"))
    }
}

/// The application's name, or how names begin.
pub(super) const APPLICATION: &str = "growth";
/// Elements of a row of the ONNX model.
const FEATURES: usize = 784;

/// A configuration, and how it is asked.
pub(super) struct Scene {
    config: String,
    /// Inputs of any width, for a container that only answers.
    any_width: bool,
    features: usize,
    pub(super) spread: Spread,
    pub(super) connections: usize,
    /// Queries under way in closed blocks.
    pub(super) depth: usize,
    /// Blocks are so many times as long, where a query takes its time.
    pub(super) longer: u32,
}

/// Queries under way in closed blocks, unless there are more connections.
const DEPTH: usize = 16;
/// Beyond as many the closed block measures a queue.
const DEEPEST: usize = 1_000;
/// Bytes under way in closed blocks: with more, a block would end before its first answers.
const BYTES_UNDER_WAY: usize = 8 << 20;

impl Scene {
    pub(super) fn new(axis: Axis, size: u64, model: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(model)?;
        ensure!(path.is_file(), "there is no {}", path.display());
        let count = usize::try_from(size)?;
        let (mut models, mut applications, mut replicas) = (1, None, 1);
        match axis {
            Axis::Models => models = count,
            // A context's state is worth something only where there is a choice.
            Axis::Contexts => models = 2,
            Axis::Applications => applications = Some(count),
            Axis::Replicas => replicas = count,
            Axis::InputBytes | Axis::Connections => {}
        }
        let any_width = axis == Axis::InputBytes;
        let mut config = String::new();
        for number in (0..models).filter(|_| !any_width) {
            write!(
                config,
                "[[model]]\nname = \"m{number}\"\nversion = \"1\"\npath = {path:?}\n\
                 replicas = {replicas}\n"
            )?;
        }
        match applications {
            None => application(&mut config, APPLICATION, models, any_width)?,
            Some(count) => {
                for number in 0..count {
                    let name = format!("{APPLICATION}-{number}");
                    application(&mut config, &name, models, any_width)?;
                }
            }
        }
        Ok(Self {
            config,
            any_width,
            features: if any_width { count / 4 } else { FEATURES },
            spread: Spread {
                applications: applications.map_or(0, |count| count as u64),
                contexts: if axis == Axis::Contexts { size } else { 0 },
            },
            connections: if axis == Axis::Connections { count } else { 1 },
            depth: match axis {
                Axis::Connections => count.clamp(DEPTH, DEEPEST),
                Axis::InputBytes => (BYTES_UNDER_WAY / count.max(1)).clamp(1, DEPTH),
                _ => DEPTH,
            },
            longer: if any_width && size >= 1 << 20 { 4 } else { 1 },
        })
    }

    /// Starts the server, and the container where there is one.
    pub(super) fn start(
        &self,
        programs: &Programs,
    ) -> anyhow::Result<(ServerProcess, Option<ServerProcess>)> {
        ensure!(programs.skysail.is_file(), "there is no {}", programs.skysail.display());
        let folder = TempDir::new()?;
        let path = folder.path().join("skysail.toml");
        std::fs::write(&path, &self.config)?;
        let server = ServerProcess::skysail(&programs.skysail, &path, None)?;
        if !self.any_width {
            return Ok((server, None));
        }
        let speed = Speed { row: Duration::ZERO, batch: Duration::ZERO };
        let container = ServerProcess::sleeper(&programs.bench, speed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let spec = |name: &str, datatype: &str, shape| TensorSpec {
                name: name.into(),
                datatype: datatype.into(),
                shape,
            };
            let request = RegisterRequest {
                model: "m0".into(),
                version: "1".into(),
                address: container.address.clone(),
                persistent: true,
                inputs: vec![spec(sleeper::INPUT, "FP32", vec![-1, -1])],
                outputs: vec![spec(sleeper::OUTPUT, "INT64", vec![-1])],
                ..Default::default()
            };
            let mut client = RegistryClient::new(connect(&server.address).await?);
            client.register(request).await.context("registering the container")
        })?;
        Ok((server, Some(container)))
    }

    pub(super) fn workload(&self, seed: u64) -> anyhow::Result<Workload> {
        Workload::new(WorkloadConfig {
            application: APPLICATION.into(),
            input_name: sleeper::INPUT.into(),
            features: self.features,
            seed,
            ..Default::default()
        })
    }
}

fn application(
    config: &mut String,
    name: &str,
    models: usize,
    any_width: bool,
) -> anyhow::Result<()> {
    let links: Vec<_> = (0..models).map(|number| format!("{{ model = \"m{number}\" }}")).collect();
    let (task, policy) = if models > 1 {
        ("classification\"\nlabel_output = \"label", "hedge")
    } else {
        ("opaque", "static")
    };
    let width = if any_width { -1 } else { FEATURES as i64 };
    writeln!(
        config,
        r#"[[application]]
name = "{name}"
objective = "{}s"
task = "{task}"
inputs = [{{ name = "input", datatype = "FP32", shape = [-1, {width}] }}]
outputs = [{{ name = "label", datatype = "INT64", shape = [-1] }}]
policy = {{ name = "{policy}" }}
links = [{}]"#,
        OBJECTIVE.as_secs(),
        links.join(", ")
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_axis_begins_small_and_ends_where_it_is_promised() {
        for axis in Axis::ALL {
            let (quick, full) = (axis.sizes(true), axis.sizes(false));
            assert_eq!(quick.first(), full.first(), "{axis}");
            assert!(quick.is_sorted() && full.is_sorted() && quick.len() < full.len(), "{axis}");
        }
        assert_eq!(Axis::Contexts.sizes(false).last(), Some(&1_000_000));
        assert_eq!(Axis::Connections.sizes(true).last(), Some(&10_000));
    }

    #[test]
    fn a_scene_has_what_its_size_says() {
        let model =
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/fashion-mnist/logreg.onnx"));
        let count = |axis, size, what: &str| {
            Scene::new(axis, size, model).unwrap().config.matches(what).count()
        };
        assert_eq!(count(Axis::Models, 8, "[[model]]"), 8);
        assert_eq!(count(Axis::Models, 8, "{ model ="), 8);
        assert_eq!(count(Axis::Applications, 30, "[[application]]"), 30);
        assert_eq!(count(Axis::Replicas, 4, "replicas = 4"), 1);
        assert_eq!(count(Axis::InputBytes, 16, "[[model]]"), 0);
        let depth = |axis, size| Scene::new(axis, size, model).unwrap().depth;
        assert_eq!(depth(Axis::InputBytes, 4 << 20), 2);
        assert_eq!(depth(Axis::InputBytes, 16), depth(Axis::Models, 1));
        assert_eq!(depth(Axis::Connections, 10_000), DEEPEST);
        assert!(Scene::new(Axis::Models, 1, Path::new("nowhere.onnx")).is_err());
    }
}
