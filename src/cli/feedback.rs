//! `skysail feedback`.

use anyhow::{Context, bail};
use skysail_proto::{
    Tensor,
    pb::v1::{self, feedback_client::FeedbackClient, observe_request},
};

use super::{ServerAddress, client::refused};

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false, id = "value", args = ["label", "reward"])]
pub(super) struct Args {
    /// The application.
    application: String,
    /// The decision that a prediction came with.
    #[arg(long, value_name = "ID")]
    decision: String,
    /// The truth: one value per row, separated by commas.
    #[arg(long, value_name = "L[,L…]")]
    label: Option<String>,
    /// How good the answer was, in [0, 1].
    #[arg(long, value_name = "R")]
    reward: Option<f64>,
    #[command(flatten)]
    server: ServerAddress,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let value = match (&args.label, args.reward) {
        (Some(label), _) => observe_request::Value::Label(label_tensor(label)?.into()),
        (None, Some(reward)) => observe_request::Value::Reward(reward),
        (None, None) => bail!("give --label or --reward"),
    };
    let request = v1::ObserveRequest {
        application: args.application,
        target: Some(observe_request::Target::DecisionId(args.decision)),
        value: Some(value),
        ..Default::default()
    };
    let mut client = FeedbackClient::new(args.server.connect().await?);
    let response = client.observe(request).await.map_err(refused)?.into_inner();
    let outcome = v1::FeedbackOutcome::try_from(response.outcome).unwrap_or_default();
    let outcome = outcome.as_str_name().trim_start_matches("FEEDBACK_OUTCOME_");
    crate::say!("{outcome} {}", response.detail);
    Ok(())
}

/// Integers, else numbers, else texts: the server casts them to the label's datatype.
fn label_tensor(text: &str) -> anyhow::Result<Tensor> {
    let values: Vec<_> = text.split(',').map(str::trim).collect();
    let rows = i64::try_from(values.len()).context("too many labels")?;
    let integers: Result<Vec<i64>, _> = values.iter().map(|value| value.parse()).collect();
    if let Ok(integers) = integers {
        let data: Vec<u8> = integers.into_iter().flat_map(i64::to_le_bytes).collect();
        return Ok(Tensor::new("label", skysail_proto::DataType::Int64, [rows], data)?);
    }
    let numbers: Result<Vec<f64>, _> = values.iter().map(|value| value.parse()).collect();
    if let Ok(numbers) = numbers {
        let data: Vec<u8> = numbers.into_iter().flat_map(f64::to_le_bytes).collect();
        return Ok(Tensor::new("label", skysail_proto::DataType::Fp64, [rows], data)?);
    }
    Ok(Tensor::from_strings("label", &values))
}
