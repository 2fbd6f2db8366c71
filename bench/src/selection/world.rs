//! A real server over containers that replay a recording.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, ensure};
use skysail_proto::pb::v1::{
    self, RegisterRequest,
    admin_client::AdminClient,
    feedback_client::FeedbackClient,
    observe_request::{Target, Value},
    prediction_client::PredictionClient,
    registry_client::RegistryClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{
    process::{Programs, ReplayOptions, ServerProcess},
    recorded::Recorded,
    replay,
    target::connect,
};

/// An application over a recording.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    /// Its policy, as TOML: `{ name = "hedge" }`.
    pub policy: &'a str,
    /// Its objective.
    pub objective: Duration,
    /// Only so many models are linked, the first ones; `None`: all.
    pub(crate) models: Option<usize>,
    /// The models in a process of their own each; all others share one.
    pub apart: &'a [usize],
    /// How long containers take.
    pub delay: Option<replay::Delay>,
    /// Answers are kept, and given again to the same query.
    pub cache: bool,
    /// More of the application, as TOML lines.
    pub more: &'a str,
}

/// A server, its containers, and clients.
pub(crate) struct World {
    programs: Programs,
    _folder: TempDir,
    server: ServerProcess,
    /// By model apart; `None` while it is killed.
    apart: Vec<(usize, Option<ServerProcess>, ReplayOptions)>,
    _together: ServerProcess,
    channel: Channel,
}

/// The application's name.
pub(crate) const APPLICATION: &str = "recorded";

impl World {
    /// Starts all of it; every container is registered and ready afterwards.
    pub(crate) async fn start(
        programs: &Programs,
        recorded: &Recorded,
        setup: &Setup<'_>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        ensure!(programs.skysail.is_file(), "there is no {}", programs.skysail.display());
        let folder = TempDir::new()?;
        let recording = folder.path().join("recording.bin");
        replay::write(&recording, recorded)?;
        let config = folder.path().join("skysail.toml");
        std::fs::write(&config, configuration(recorded, setup)?)?;
        let server = ServerProcess::skysail(&programs.skysail, &config, None)?;
        let options = |seed| ReplayOptions {
            recording: recording.clone(),
            delay: setup.delay,
            seed,
            listen: "127.0.0.1:0".into(),
        };
        let together = ServerProcess::replay(&programs.bench, &options(seed))?;
        let mut apart = Vec::new();
        for (place, model) in setup.apart.iter().enumerate() {
            let mut options = options(seed.wrapping_add(place as u64 + 1));
            let process = ServerProcess::replay(&programs.bench, &options)?;
            // Where it comes back to.
            options.listen.clone_from(&process.address);
            apart.push((*model, Some(process), options));
        }
        let channel = connect(&server.address).await?;
        let mut registry = RegistryClient::new(channel.clone());
        for (model, name) in recorded.models.iter().enumerate() {
            let own = apart.iter().find(|(apart, ..)| *apart == model);
            let address = own.map_or(&together.address, |(_, _, options)| &options.listen);
            let request = RegisterRequest {
                model: name.clone(),
                version: "1".into(),
                address: address.clone(),
                persistent: true,
                ..Default::default()
            };
            registry.register(request).await.with_context(|| format!("registering {name}"))?;
        }
        let programs = programs.clone();
        Ok(Self { programs, _folder: folder, server, apart, _together: together, channel })
    }

    /// The server's process.
    pub(crate) fn server_pid(&self) -> u32 {
        self.server.pid()
    }

    /// Kills a model that is apart, as `kill -9` does.
    pub(crate) fn kill(&mut self, model: usize) {
        for (apart, process, _) in &mut self.apart {
            if *apart == model {
                process.take();
            }
        }
    }

    /// Starts it again where it was.
    pub(crate) fn bring_back(&mut self, model: usize) -> anyhow::Result<()> {
        for (apart, process, options) in &mut self.apart {
            if *apart == model {
                *process = Some(ServerProcess::replay(&self.programs.bench, options)?);
            }
        }
        Ok(())
    }

    pub(crate) fn prediction(&self) -> PredictionClient<Channel> {
        PredictionClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn feedback(&self) -> FeedbackClient<Channel> {
        FeedbackClient::new(self.channel.clone())
    }

    /// Connections beside the first.
    pub(crate) async fn another_channel(&self) -> anyhow::Result<Channel> {
        connect(&self.server.address).await
    }

    /// Forgets all that the application has learned.
    pub(crate) async fn reset(&self) -> anyhow::Result<()> {
        let application = APPLICATION.into();
        let request = v1::ResetSelectionRequest { application, context_id: String::new() };
        AdminClient::new(self.channel.clone()).reset_selection(request).await?;
        Ok(())
    }

    /// What the application has learned, for a context or for all.
    pub(crate) async fn selection(
        &self,
        context: &str,
    ) -> anyhow::Result<v1::GetSelectionResponse> {
        let request =
            v1::GetSelectionRequest { application: APPLICATION.into(), context_id: context.into() };
        Ok(AdminClient::new(self.channel.clone()).get_selection(request).await?.into_inner())
    }
}

/// A query for a row of the recording.
pub(crate) fn query(row: usize, context: &str) -> v1::PredictRequest {
    v1::PredictRequest {
        application: APPLICATION.into(),
        context_id: context.into(),
        inputs: vec![v1::Tensor {
            name: replay::INPUT.into(),
            datatype: "INT64".into(),
            shape: vec![1, 1],
            data: (row as i64).to_le_bytes().to_vec().into(),
        }],
        ..Default::default()
    }
}

/// The truth of a decision's row.
pub(crate) fn label(decision_id: String, truth: usize) -> v1::ObserveRequest {
    v1::ObserveRequest {
        application: APPLICATION.into(),
        request_id: decision_id.clone(),
        target: Some(Target::DecisionId(decision_id)),
        value: Some(Value::Label(v1::Tensor {
            name: "label".into(),
            datatype: "INT64".into(),
            shape: vec![1],
            data: (truth as i64).to_le_bytes().to_vec().into(),
        })),
        ..Default::default()
    }
}

/// The class that an answer gives.
pub(crate) fn answered(response: &v1::PredictResponse) -> Option<usize> {
    let output = response.outputs.iter().find(|output| output.name == replay::OUTPUT)?;
    let (scores, _) = output.data.as_chunks();
    let scores: Vec<f32> = scores.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (!scores.is_empty()).then(|| crate::recorded::top(&scores))
}

fn configuration(recorded: &Recorded, setup: &Setup<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    let linked = recorded.models.iter().take(setup.models.unwrap_or(usize::MAX));
    let links: Vec<_> = linked.map(|model| format!("{{ model = \"{model}\" }}")).collect();
    write!(
        text,
        r#"[[application]]
name = "{APPLICATION}"
objective = "{}ms"
task = "classification"
scores_output = "{}"
inputs = [{{ name = "{}", datatype = "INT64", shape = [-1, 1] }}]
outputs = [{{ name = "{}", datatype = "FP32", shape = [-1, {}] }}]
policy = {}
links = [{}]
cache = {{ enabled = {} }}
{}
"#,
        setup.objective.as_millis(),
        replay::OUTPUT,
        replay::INPUT,
        replay::OUTPUT,
        recorded.classes,
        setup.policy,
        links.join(", "),
        setup.cache,
        setup.more,
    )?;
    Ok(text)
}
