//! Servers, models and their figures in JSON. Names are those of the messages; numbers are numbers.

use serde_json::{Value, json};
use skysail_proto::pb::inference::{
    DataType, InferStatistics, ModelConfig, ModelMetadataResponse, ModelStatisticsResponse,
    RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
    model_config::SchedulingChoice, model_metadata_response::TensorMetadata,
    model_version_policy::PolicyChoice,
};

pub(super) fn server(metadata: &ServerMetadataResponse) -> Value {
    json!({
        "name": metadata.name,
        "version": metadata.version,
        "extensions": metadata.extensions,
    })
}

pub(super) fn model(metadata: &ModelMetadataResponse) -> Value {
    let tensor = |tensor: &TensorMetadata| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape });
    json!({
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": metadata.inputs.iter().map(tensor).collect::<Value>(),
        "outputs": metadata.outputs.iter().map(tensor).collect::<Value>(),
        "properties": metadata.properties,
    })
}

pub(super) fn config(config: &ModelConfig) -> Value {
    let tensor = |name: &str, data_type: DataType, dims: &[i64]| json!({ "name": name, "data_type": data_type.as_str_name(), "dims": dims });
    let inputs =
        config.input.iter().map(|input| tensor(&input.name, input.data_type(), &input.dims));
    let outputs =
        config.output.iter().map(|output| tensor(&output.name, output.data_type(), &output.dims));
    let parameters = config.parameters.iter();
    let parameters: serde_json::Map<_, _> = parameters
        .map(|(name, value)| (name.clone(), json!({ "string_value": value.string_value })))
        .collect();
    let mut described = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "input": inputs.collect::<Value>(),
        "output": outputs.collect::<Value>(),
        "parameters": parameters,
    });
    // What is not set is left out, as clients ask whether it is there.
    if let Some(PolicyChoice::Specific(specific)) =
        config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref())
    {
        described["version_policy"] = json!({ "specific": { "versions": specific.versions } });
    }
    if let Some(SchedulingChoice::DynamicBatching(_)) = &config.scheduling_choice {
        described["dynamic_batching"] = json!({});
    }
    if let Some(policy) = &config.model_transaction_policy {
        described["model_transaction_policy"] = json!({ "decoupled": policy.decoupled });
    }
    if let Some(cache) = &config.response_cache {
        described["response_cache"] = json!({ "enable": cache.enable });
    }
    described
}

pub(super) fn statistics(statistics: &ModelStatisticsResponse) -> Value {
    let models = statistics.model_stats.iter().map(|model| {
        json!({
            "name": model.name,
            "version": model.version,
            "last_inference": model.last_inference,
            "inference_count": model.inference_count,
            "execution_count": model.execution_count,
            "inference_stats": inference_stats(&model.inference_stats.unwrap_or_default()),
            "batch_stats": [],
        })
    });
    json!({ "model_stats": models.collect::<Value>() })
}

fn inference_stats(stats: &InferStatistics) -> Value {
    let duration = |duration: &Option<StatisticDuration>| {
        let duration = duration.as_ref();
        json!({
            "count": duration.map_or(0, |duration| duration.count),
            "ns": duration.map_or(0, |duration| duration.ns),
        })
    };
    json!({
        "success": duration(&stats.success),
        "fail": duration(&stats.fail),
        "queue": duration(&stats.queue),
        "compute_input": duration(&stats.compute_input),
        "compute_infer": duration(&stats.compute_infer),
        "compute_output": duration(&stats.compute_output),
        "cache_hit": duration(&stats.cache_hit),
        "cache_miss": duration(&stats.cache_miss),
    })
}

pub(super) fn index(index: &RepositoryIndexResponse) -> Value {
    let models = index.models.iter().map(|model| {
        json!({
            "name": model.name,
            "version": model.version,
            "state": model.state,
            "reason": model.reason,
        })
    });
    models.collect()
}
