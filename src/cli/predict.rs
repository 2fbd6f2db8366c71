//! `skysail predict`.

use std::path::PathBuf;

use anyhow::bail;
use skysail_proto::{
    DataType, Tensor,
    pb::v1::{self, admin_client::AdminClient, prediction_client::PredictionClient},
};

use super::{ServerAddress, client::refused, npy::read_npy};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The application.
    application: String,
    /// The input: an array of rows, as numpy saves it.
    #[arg(long, value_name = "FILE.npy")]
    input: PathBuf,
    /// Name of the input [default: the application's only one].
    #[arg(long, value_name = "NAME")]
    input_name: Option<String>,
    /// Whose selection state to use.
    #[arg(long, value_name = "ID", default_value = "")]
    context: String,
    #[command(flatten)]
    server: ServerAddress,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let channel = args.server.connect().await?;
    let name = match args.input_name {
        Some(name) => name,
        None => only_input(AdminClient::new(channel.clone()), &args.application).await?,
    };
    let input = read_npy(&args.input, &name)?;
    let request = v1::PredictRequest {
        application: args.application,
        inputs: vec![input.into()],
        context_id: args.context,
        ..Default::default()
    };
    let response = PredictionClient::new(channel).predict(request).await.map_err(refused)?;
    show(&response.into_inner())
}

/// The input's name, where there is only one to choose from.
async fn only_input(
    mut admin: AdminClient<tonic::transport::Channel>,
    application: &str,
) -> anyhow::Result<String> {
    let request = v1::GetApplicationRequest { name: application.to_owned() };
    let found = admin.get_application(request).await.map_err(refused)?.into_inner().application;
    let found = found.unwrap_or_default();
    let mut names: Vec<_> = found.inputs.into_iter().map(|spec| spec.name).collect();
    if names.is_empty() {
        // The application takes its inputs from the first linked model that is known.
        let models = admin.list_models(v1::ListModelsRequest {}).await.map_err(refused)?;
        let models = models.into_inner().models;
        let first = found.links.iter().find_map(|link| {
            let name = link.model.split(':').next().unwrap_or_default();
            models.iter().find(|model| model.name == name)
        });
        let version = first.and_then(|model| model.versions.first());
        names =
            version.map(|v| v.inputs.iter().map(|i| i.name.clone()).collect()).unwrap_or_default();
    }
    match names.as_slice() {
        [only] => Ok(only.clone()),
        names => {
            bail!("name the input with --input-name; the application takes: {}", names.join(", "))
        }
    }
}

fn show(response: &v1::PredictResponse) -> anyhow::Result<()> {
    let status = v1::Status::try_from(response.status).unwrap_or_default();
    crate::say!("decision {}", response.decision_id);
    let status = status.as_str_name().trim_start_matches("STATUS_");
    match response.reason.as_str() {
        "" => crate::say!("status {status}"),
        reason => crate::say!("status {status} ({reason})"),
    }
    for output in &response.outputs {
        let tensor = Tensor::try_from(output.clone())?;
        crate::say!(
            "{} {} {:?}: {}",
            tensor.name(),
            tensor.datatype(),
            tensor.shape(),
            elements(&tensor)
        );
    }
    let confidence: Vec<_> = response.confidence.iter().map(|c| format!("{c:.3}")).collect();
    crate::say!("confidence {}", confidence.join(" "));
    for arm in &response.contributions {
        let outcome = v1::Outcome::try_from(arm.outcome).unwrap_or_default();
        let cached = if arm.cached { " cached" } else { "" };
        crate::say!(
            "  {:<12} {:<7} weight {:.3} propensity {:.3} queue {} µs compute {} µs batch {}{cached} {}",
            format!("{}:{}", arm.model, arm.version),
            outcome.as_str_name().trim_start_matches("OUTCOME_"),
            arm.weight,
            arm.propensity,
            arm.queue_us,
            arm.compute_us,
            arm.batch_rows,
            arm.reason,
        );
    }
    Ok(())
}

/// The first elements, as text.
fn elements(tensor: &Tensor) -> String {
    const SHOWN: usize = 32;
    fn numbers<const N: usize>(data: &[u8], show: impl Fn([u8; N]) -> String) -> Vec<String> {
        let arrays = data.chunks_exact(N).filter_map(|chunk| chunk.try_into().ok());
        arrays.take(SHOWN + 1).map(show).collect()
    }
    let data = tensor.data();
    let mut shown = match tensor.datatype() {
        DataType::Int64 => numbers(data, |b| i64::from_le_bytes(b).to_string()),
        DataType::Int32 => numbers(data, |b| i32::from_le_bytes(b).to_string()),
        DataType::Fp32 => numbers(data, |b| format!("{:.4}", f32::from_le_bytes(b))),
        DataType::Fp64 => numbers(data, |b| format!("{:.4}", f64::from_le_bytes(b))),
        DataType::Uint8 | DataType::Bool => numbers(data, |b: [u8; 1]| b[0].to_string()),
        DataType::Bytes => tensor
            .bytes_elements()
            .take(SHOWN + 1)
            .map(|element| String::from_utf8_lossy(&element).into_owned())
            .collect(),
        other => return format!("{} bytes of {other}", data.len()),
    };
    if shown.len() > SHOWN {
        shown.truncate(SHOWN);
        shown.push("…".into());
    }
    shown.join(" ")
}
