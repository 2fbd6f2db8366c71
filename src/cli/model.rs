//! `skysail model`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::Subcommand;
use skysail_proto::{
    DataType, Signature, Tensor, TensorSpec,
    pb::v1::{self, admin_client::AdminClient, registry_client::RegistryClient},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{ServerAddress, client::refused, container::time, npy::read_npy};
use crate::registrar::{self, Standing};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerAddress,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List models, versions and containers.
    List,
    /// Register a server that speaks the Open Inference Protocol, like Triton or MLServer.
    ///
    /// With --persistent it stays registered, also over a restart of the front end. Without, it is
    /// registered as long as this command runs.
    Register(Box<Register>),
    /// Give a container no more, and remove it when it has finished what it has.
    Deregister {
        /// The container's id, as `model list` shows it.
        container: String,
        /// How long it may finish what it has.
        #[arg(long, value_name = "TIME", default_value = "10s")]
        drain: String,
    },
    /// Make a version what the bare name of its model stands for.
    SetVersion {
        /// The model.
        model: String,
        /// The version.
        version: String,
        /// Forget what the arm learned.
        #[arg(long)]
        reset: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Register {
    /// The model's name.
    #[arg(long)]
    name: String,
    /// Its version.
    #[arg(long = "version")]
    version: String,
    /// Where the server listens: HOST:PORT, or unix:/PATH.
    #[arg(long, value_name = "ADDRESS")]
    address: String,
    /// What the server calls the model [default: the name].
    #[arg(long, value_name = "NAME", default_value = "")]
    remote_model: String,
    /// What the server calls the version [default: the version, or the server's choice].
    #[arg(long, value_name = "VERSION", default_value = "")]
    remote_version: String,
    /// Keep it registered until it is deregistered.
    #[arg(long)]
    persistent: bool,
    /// The most rows of one call; 0: no limit.
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    max_batch_rows: u32,
    /// Where it computes; for those who list it.
    #[arg(long, default_value = "")]
    device: String,
    /// An input, like image:FP32:-1,784; needed only where the server's metadata lacks it. May be
    /// given several times.
    #[arg(long = "input", value_name = "NAME:TYPE:SHAPE")]
    inputs: Vec<String>,
    /// An output, in the same form.
    #[arg(long = "output", value_name = "NAME:TYPE:SHAPE")]
    outputs: Vec<String>,
    /// Input of the test inference [default: zeros]. May be given several times.
    #[arg(long, value_name = "NAME=FILE.npy")]
    probe: Vec<String>,
    /// sha256 of the build, in hexadecimal; answers are kept under it.
    #[arg(long, value_name = "HEX", default_value = "")]
    digest: String,
    /// Equal inputs may give different answers: keep none.
    #[arg(long)]
    not_cacheable: bool,
    /// The latency of a query as long as no application says, like 50ms.
    #[arg(long, value_name = "TIME")]
    objective: Option<String>,
    /// How batches are sized: aimd, quantile, none, or a number of rows [default: aimd].
    #[arg(long, default_value = "")]
    batch: String,
    /// How long it is made to wait for a fuller batch, like 2ms.
    #[arg(long, value_name = "TIME")]
    batch_wait: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let channel = args.server.connect().await?;
    let mut admin = AdminClient::new(channel.clone());
    match args.command {
        Command::List => {
            let response = admin.list_models(v1::ListModelsRequest {}).await.map_err(refused)?;
            let models = response.into_inner().models;
            if models.is_empty() {
                crate::say!("no model is registered");
            }
            for model in models {
                for version in &model.versions {
                    show_version(&model, version);
                }
            }
        }
        Command::Register(register) => {
            let request = register.request()?;
            if request.persistent {
                let response = RegistryClient::new(channel).register(request).await;
                let container = response.map_err(refused)?.into_inner().container_id;
                crate::say!("registered {container}");
            } else {
                stay_registered(args.server.server, request).await?;
            }
        }
        Command::Deregister { container, drain } => {
            let drain = time("--drain", Some(drain))?.and_then(|drain| drain.try_into().ok());
            let request = v1::DeregisterRequest { container_id: container.clone(), drain };
            RegistryClient::new(channel).deregister(request).await.map_err(refused)?;
            crate::say!("deregistered {container}");
        }
        Command::SetVersion { model, version, reset } => {
            let shown = format!("{model} is now {model}:{version}");
            let request = v1::SetVersionRequest { model, version, reset };
            admin.set_version(request).await.map_err(refused)?;
            crate::say!("{shown}");
        }
    }
    Ok(())
}

/// Beats for the container until a signal comes.
async fn stay_registered(front_end: String, request: v1::RegisterRequest) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (stop, stopping) = watch::channel(false);
    let (standing, mut seen) = watch::channel(Standing::Trying);
    let drain = Duration::from_secs(10);
    let registrar = tokio::spawn(registrar::run(front_end, request, drain, standing, stopping));
    let first = seen.wait_for(|standing| !matches!(standing, Standing::Trying));
    let first = tokio::select! {
        first = first => first.map(|first| first.clone()).unwrap_or(Standing::Trying),
        _ = terminate.recv() => Standing::Trying,
        _ = interrupt.recv() => Standing::Trying,
    };
    if let Standing::Registered(container) = &first {
        crate::say!("registered {container} as long as this runs; --persistent keeps it");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    stop.send_replace(true);
    let _ = registrar.await;
    match first {
        Standing::Refused(why) => bail!("{why}"),
        _ => Ok(()),
    }
}

impl Register {
    fn request(self) -> anyhow::Result<v1::RegisterRequest> {
        let specs = |flag: &str, texts: &[String]| -> anyhow::Result<Vec<v1::TensorSpec>> {
            let specs = texts.iter().map(|text| {
                spec(text).with_context(|| {
                    format!("{flag} {text}: expected NAME:TYPE:SHAPE, like image:FP32:-1,784")
                })
            });
            specs.collect()
        };
        let probe = self.probe.iter().map(|text| -> anyhow::Result<v1::Tensor> {
            let (name, file) = text
                .split_once('=')
                .with_context(|| format!("--probe {text}: expected NAME=FILE.npy"))?;
            let tensor: Tensor = read_npy(&PathBuf::from(file), name)?;
            Ok(tensor.into())
        });
        Ok(v1::RegisterRequest {
            model: self.name,
            version: self.version,
            address: self.address,
            remote_model: self.remote_model,
            remote_version: self.remote_version,
            max_batch_rows: self.max_batch_rows,
            device: self.device,
            persistent: self.persistent,
            inputs: specs("--input", &self.inputs)?,
            outputs: specs("--output", &self.outputs)?,
            probe: probe.collect::<anyhow::Result<_>>()?,
            digest: self.digest,
            cacheable: Some(!self.not_cacheable),
            objective: time("--objective", self.objective)?.and_then(|time| time.try_into().ok()),
            batch: self.batch,
            batch_wait: time("--batch-wait", self.batch_wait)?
                .and_then(|time| time.try_into().ok()),
        })
    }
}

fn spec(text: &str) -> anyhow::Result<v1::TensorSpec> {
    // Names may hold colons; types and shapes do not.
    let (rest, shape) = text.rsplit_once(':').context("there is no ':'")?;
    let (name, datatype) = rest.rsplit_once(':').context("there is one ':'")?;
    let shape = shape.split(',').map(|dimension| dimension.trim().parse::<i64>());
    let shape = shape.collect::<Result<Vec<_>, _>>().context("the shape")?;
    DataType::parse(name, datatype)?;
    Ok(v1::TensorSpec { name: name.into(), datatype: datatype.into(), shape })
}

fn show_version(model: &v1::Model, version: &v1::ModelVersion) {
    let current = if model.current == version.version { " (current)" } else { "" };
    let specs = |specs: &[v1::TensorSpec]| {
        specs.iter().filter_map(|spec| TensorSpec::try_from(spec.clone()).ok()).collect()
    };
    let signature = Signature { inputs: specs(&version.inputs), outputs: specs(&version.outputs) };
    crate::say!("{}:{}{current} {signature}", model.name, version.version);
    for container in &version.containers {
        let state = v1::ContainerState::try_from(container.state).unwrap_or_default();
        let feasible = if container.feasible { "" } else { " objective below its floor" };
        crate::say!(
            "  {} {} {} {} batch limit {} queue {} in flight {}{feasible} {}",
            container.container_id,
            container.address,
            container.device,
            state.as_str_name().trim_start_matches("CONTAINER_STATE_"),
            container.batch_limit,
            container.queue_rows,
            container.in_flight,
            container.reason
        );
    }
}
