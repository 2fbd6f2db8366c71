//! An application in the words of the Open Inference Protocol and of Triton's model configuration.

use skysail_proto::{
    DataType, TensorSpec, open_inference,
    pb::inference::{
        self as pb, ModelConfig, ModelInput, ModelMetadataResponse, ModelOutput, ModelParameter,
        ModelResponseCache, ModelTransactionPolicy, ModelVersionPolicy,
        model_config::SchedulingChoice, model_version_policy::PolicyChoice,
    },
};
use skysail_selection::Application;

use super::VERSION;

const PLATFORM: &str = "skysail";

/// The property and parameter that says how many context features a request must bring.
const FEATURES_DIM: &str = "context_features_dim";

pub(super) fn metadata(application: &Application) -> ModelMetadataResponse {
    let dimension = features(application).map(|dim| (FEATURES_DIM.to_owned(), dim));
    ModelMetadataResponse {
        name: application.name.as_ref().to_owned(),
        versions: vec![VERSION.into()],
        platform: PLATFORM.into(),
        inputs: application.inputs.iter().map(open_inference::metadata).collect(),
        outputs: application.outputs.iter().map(open_inference::metadata).collect(),
        properties: dimension.into_iter().collect(),
    }
}

/// `limit` is the most rows that each of its models takes in one call; `None`: there is no limit.
pub(super) fn config(application: &Application, limit: Option<usize>) -> ModelConfig {
    let specs = || application.inputs.iter().chain(&application.outputs);
    let free_rows = specs().all(|spec| spec.shape.first() == Some(&-1));
    // With a batch size, dimensions leave the rows out and clients put them in front.
    let (max_batch_size, leave_out) = if free_rows {
        (limit.map_or(i32::MAX, |limit| i32::try_from(limit).unwrap_or(i32::MAX)), 1)
    } else {
        (0, 0)
    };
    let dims = |spec: &TensorSpec| spec.shape.iter().skip(leave_out).copied().collect();
    let dimension = features(application).map(|dim| {
        let parameter = ModelParameter { string_value: dim };
        (FEATURES_DIM.to_owned(), parameter)
    });
    ModelConfig {
        name: application.name.as_ref().to_owned(),
        platform: PLATFORM.into(),
        backend: PLATFORM.into(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Specific(pb::model_version_policy::Specific {
                versions: vec![1],
            })),
        }),
        max_batch_size,
        input: application
            .inputs
            .iter()
            .map(|spec| ModelInput {
                name: spec.name.clone(),
                data_type: data_type(spec.datatype).into(),
                dims: dims(spec),
            })
            .collect(),
        output: application
            .outputs
            .iter()
            .map(|spec| ModelOutput {
                name: spec.name.clone(),
                data_type: data_type(spec.datatype).into(),
                dims: dims(spec),
            })
            .collect(),
        parameters: dimension.into_iter().collect(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        response_cache: Some(ModelResponseCache { enable: application.max_age.is_some() }),
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(pb::ModelDynamicBatching {})),
    }
}

fn features(application: &Application) -> Option<String> {
    let dimension = application.context_features_dim;
    (dimension > 0).then(|| dimension.to_string())
}

/// A datatype as model configurations name it.
pub(crate) fn data_type(datatype: DataType) -> pb::DataType {
    match datatype {
        DataType::Bool => pb::DataType::TypeBool,
        DataType::Uint8 => pb::DataType::TypeUint8,
        DataType::Uint16 => pb::DataType::TypeUint16,
        DataType::Uint32 => pb::DataType::TypeUint32,
        DataType::Uint64 => pb::DataType::TypeUint64,
        DataType::Int8 => pb::DataType::TypeInt8,
        DataType::Int16 => pb::DataType::TypeInt16,
        DataType::Int32 => pb::DataType::TypeInt32,
        DataType::Int64 => pb::DataType::TypeInt64,
        DataType::Fp16 => pb::DataType::TypeFp16,
        DataType::Bf16 => pb::DataType::TypeBf16,
        DataType::Fp32 => pb::DataType::TypeFp32,
        DataType::Fp64 => pb::DataType::TypeFp64,
        DataType::Bytes => pb::DataType::TypeString,
    }
}
