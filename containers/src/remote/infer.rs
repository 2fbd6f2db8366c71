//! One batch over the wire: raw contents, copied once from the queries' bytes into the message.

use std::{error::Error as _, future::Future, sync::Arc, time::Instant};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use skysail_proto::{
    Inputs, Signature, Tensor, open_inference,
    pb::inference::{
        InferParameter, ModelInferRequest, ModelInferResponse,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    trace::{SpanRef, TRACEPARENT},
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::{Address, Connection, connection::causes};
use crate::{container::check_answers, error::ContainerError};

const PATH: http::uri::PathAndQuery =
    http::uri::PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");

/// Which model of which server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// What the server calls it.
    pub(crate) model: String,
    /// May be empty: the server's choice.
    pub(crate) version: String,
    pub(crate) signature: Signature,
    /// A known input, and so a proof of life.
    pub(crate) probe: Arc<Inputs>,
    /// The most bytes of a message.
    pub(crate) largest: usize,
}

/// What a server is to compute.
#[derive(Debug)]
pub(crate) struct Errand {
    /// The queries' inputs.
    pub(crate) batch: Vec<Arc<Inputs>>,
    /// The outputs asked for.
    pub(crate) outputs: Arc<[Arc<str>]>,
    /// Until when anybody waits.
    pub(crate) deadline: Instant,
    /// The batch's span, where it is sampled.
    pub(crate) trace: Option<SpanRef>,
}

impl Target {
    /// Has a batch computed: for each query, in order, the outputs asked for, in order.
    /// Its deadline travels to the server; nothing here ends the call at it.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Lost`] where the connection is, [`ContainerError::Late`] where the server
    /// says so, else the server's own words or what is wrong with its answer.
    pub(crate) fn infer(
        &self,
        connection: &Connection,
        errand: Errand,
    ) -> impl Future<Output = Result<Vec<Vec<Tensor>>, ContainerError>> + Send + use<> {
        let Errand { batch, outputs, deadline, trace } = errand;
        let message = self.message(&batch, &outputs, deadline);
        let mut client = connection.grpc(self.largest);
        let mut request = tonic::Request::new(message);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        if let Some(parent) = trace.and_then(|span| span.traceparent().parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, parent);
        }
        async move {
            client.ready().await.map_err(|error| ContainerError::Lost(error.to_string()))?;
            let response = client.unary(request, PATH, InferCodec).await.map_err(|s| failed(&s))?;
            let answers = split(response.into_inner(), &batch, &outputs)?;
            check_answers(&answers, &batch, &outputs)?;
            Ok(answers)
        }
    }

    /// Has the known input computed, and its answer checked against the signature.
    ///
    /// # Errors
    ///
    /// As for [`Target::infer`].
    pub(crate) fn probe(
        &self,
        connection: &Connection,
        probe: Arc<Inputs>,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ContainerError>> + Send + use<> {
        let specs = self.signature.outputs.clone();
        let outputs: Arc<[Arc<str>]> = specs.iter().map(|s| s.name.as_str().into()).collect();
        let errand = Errand { batch: vec![probe], outputs, deadline, trace: None };
        let answer = self.infer(connection, errand);
        async move {
            let answers = answer.await?;
            for (spec, tensor) in specs.iter().zip(answers.iter().flatten()) {
                spec.check(tensor).map_err(|error| ContainerError::Output {
                    output: spec.name.clone(),
                    expected: spec.to_string(),
                    got: error.to_string(),
                })?;
            }
            Ok(())
        }
    }

    fn message(
        &self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
        deadline: Instant,
    ) -> InferBatch {
        let rows: usize = batch.iter().map(|inputs| inputs.rows()).sum();
        let mut inputs = Vec::with_capacity(self.signature.inputs.len());
        let mut raw = Vec::with_capacity(self.signature.inputs.len());
        for spec in &self.signature.inputs {
            let parts = batch.iter().filter_map(|query| query.get(&spec.name));
            let Some(first) = parts.clone().next() else { continue };
            let mut shape = first.shape().to_vec();
            if let Some(first) = shape.first_mut() {
                *first = i64::try_from(rows).unwrap_or(i64::MAX);
            }
            inputs.push(InferInputTensor {
                name: spec.name.clone(),
                datatype: spec.datatype.name().into(),
                shape,
                ..Default::default()
            });
            raw.push(parts.map(|tensor| tensor.data().clone()).collect());
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_micros();
        let left = ParameterChoice::Int64Param(i64::try_from(left).unwrap_or(i64::MAX));
        let timeout = InferParameter { parameter_choice: Some(left) };
        let outputs = outputs.iter().map(|name| InferRequestedOutputTensor {
            name: name.as_ref().into(),
            ..Default::default()
        });
        let head = ModelInferRequest {
            model_name: self.model.clone(),
            model_version: self.version.clone(),
            parameters: [("timeout".to_owned(), timeout)].into(),
            inputs,
            outputs: outputs.collect(),
            ..Default::default()
        };
        InferBatch { head, raw }
    }
}

fn failed(status: &Status) -> ContainerError {
    // What a server sends has no source; what the connection ran into has.
    if let Some(source) = status.source() {
        return ContainerError::Lost(format!("the connection was lost: {}", causes(source)));
    }
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => ContainerError::Late,
        code => ContainerError::Failed(format!("{code:?}: {}", status.message())),
    }
}

/// Cuts the outputs into the queries' answers: slices of the message.
fn split(
    response: ModelInferResponse,
    batch: &[Arc<Inputs>],
    outputs: &[Arc<str>],
) -> Result<Vec<Vec<Tensor>>, ContainerError> {
    let tensors = open_inference::outputs(response)?;
    let rows: usize = batch.iter().map(|inputs| inputs.rows()).sum();
    let mut answers: Vec<Vec<Tensor>> =
        batch.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for name in outputs {
        let tensor = tensors.iter().find(|tensor| tensor.name() == &**name);
        let tensor = tensor.ok_or_else(|| ContainerError::Output {
            output: name.as_ref().into(),
            expected: "it among the answer's outputs".into(),
            got: tensors.iter().map(Tensor::name).collect::<Vec<_>>().join(", "),
        })?;
        if tensor.rows()? != rows {
            return Err(ContainerError::Output {
                output: name.as_ref().into(),
                expected: format!("{rows} rows"),
                got: format!("shape {:?}", tensor.shape()),
            });
        }
        let mut from = 0;
        for (inputs, answer) in batch.iter().zip(&mut answers) {
            answer.push(tensor.slice_rows(from, inputs.rows())?);
            from += inputs.rows();
        }
    }
    Ok(answers)
}

/// A request whose raw contents are still in the queries' own pieces: for each input, each query's.
struct InferBatch {
    head: ModelInferRequest,
    raw: Vec<Vec<Bytes>>,
}

/// Field `raw_input_contents` of `ModelInferRequest`.
const RAW: u32 = 7;

impl InferBatch {
    fn write(&self, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let length = |pieces: &[Bytes]| pieces.iter().map(Bytes::len).sum::<usize>();
        let raw = self.raw.iter().map(|pieces| length(pieces));
        let raw = raw.map(|n| key_len(RAW) + encoded_len_varint(n as u64) + n).sum::<usize>();
        into.reserve(self.head.encoded_len() + raw);
        self.head.encode(into).map_err(|error| Status::internal(error.to_string()))?;
        for pieces in &self.raw {
            encode_key(RAW, WireType::LengthDelimited, into);
            encode_varint(length(pieces) as u64, into);
            for piece in pieces {
                into.put_slice(piece);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct InferCodec;

impl Codec for InferCodec {
    type Encode = InferBatch;
    type Decode = ModelInferResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for InferCodec {
    type Item = InferBatch;
    type Error = Status;

    fn encode(&mut self, batch: InferBatch, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        batch.write(into)
    }
}

impl Decoder for InferCodec {
    type Item = ModelInferResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<ModelInferResponse>, Status> {
        // One buffer, so that tensors are slices of it.
        let message = from.copy_to_bytes(from.remaining());
        let decoded = ModelInferResponse::decode(message);
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
