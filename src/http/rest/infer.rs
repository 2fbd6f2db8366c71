//! Inference: from the body of the request to the body of the answer.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use skysail_proto::pb::inference::ModelInferRequest;
use tonic::{Code, Status};

use super::{
    Invalid, Rest, body,
    coding::Coding,
    heavy,
    refusal::Refusal,
    request::{self, Form},
    response,
    target::Target,
};
use crate::{metrics::Protocol, predict::Arrival, telemetry::RefusalLog};

/// Where the JSON ends and binary data begins, in bytes without a content coding.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers one query.
pub(super) async fn infer(
    State(rest): State<Arc<Rest>>,
    target: Target,
    request: Request,
) -> Result<Response, Refusal> {
    let mut arrival = Arrival::by(Protocol::OpenInferenceRest);
    let (parts, body) = request.into_parts();
    arrival.parent = rest.face.0.tracer.parent(&parts.headers);
    let (request, form) = match read(&rest, &target, &parts.headers, body).await {
        Ok(read) => read,
        Err(refusal) => return Err(count(&rest, &target.model, refusal, arrival.at)),
    };
    let answer = rest.face.infer(request, arrival).await?;
    let size = answer.raw_output_contents.iter().map(bytes::Bytes::len).sum();
    let coding = Coding::asked(&parts.headers);
    heavy(size, || {
        let answer = response::write(answer, &form)?;
        worded(answer, coding).map_err(|error| Status::internal(error.to_string()).into())
    })
}

async fn read(
    rest: &Rest,
    target: &Target,
    headers: &HeaderMap,
    body: Body,
) -> Result<(ModelInferRequest, Form), Refusal> {
    let json = header_length(headers)?;
    let body = body::read(headers, body, rest.max_message_bytes).await?;
    let (mut request, form) = match json {
        Some(0) => {
            let metadata = rest.face.metadata(&target.model, &target.version)?;
            (request::raw(&metadata, body)?, Form::default())
        }
        json => heavy(body.len(), || request::read(&body, json))?,
    };
    request.model_name.clone_from(&target.model);
    request.model_version.clone_from(&target.version);
    Ok((request, form))
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Invalid> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Invalid(format!(
            "Inference-Header-Content-Length is {value:?}; expected the JSON's number of bytes"
        ))
    })
}

/// Counts a reply that no query came of. That there is no such application is said first.
fn count(rest: &Rest, application: &str, refusal: Refusal, arrived: Instant) -> Refusal {
    let shared = &rest.face.0;
    let protocol = Protocol::OpenInferenceRest;
    match shared.applications.get(application) {
        Ok(served) => {
            let reason = match refusal.code() {
                Code::OutOfRange => "too_large",
                Code::FailedPrecondition => "failed_precondition",
                Code::NotFound => "not_found",
                _ => "invalid_argument",
            };
            served.metrics.refused(refusal.code(), reason, protocol);
            say(&served.refusals, reason, refusal.code(), refusal.message());
            served.statistics.failed(arrived.elapsed());
            refusal
        }
        Err(error) => {
            let (refused, reason) = (crate::status::of_predict(&error), "unknown_application");
            shared.metrics.unknown().refused(refused.code(), reason, protocol);
            say(&shared.unknown, reason, refused.code(), refused.message());
            refused.into()
        }
    }
}

fn say(log: &RefusalLog, reason: &'static str, code: Code, message: &str) {
    let code = crate::status::code_name(code);
    // What could not be read has no id, and nothing was traced.
    log.say(&crate::telemetry::refusals::Refusal {
        reason,
        code,
        message,
        request_id: "",
        trace_id: "",
    });
}

/// Only answers are compressed: clients of the protocol do not look whether a refusal is.
fn worded(answer: response::Answer, coding: Option<Coding>) -> std::io::Result<Response> {
    let content_type = match answer.json {
        Some(_) => "application/octet-stream",
        None => "application/json",
    };
    let body = match coding {
        Some(coding) => coding.encode(&answer.body)?,
        None => answer.body,
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(length) = answer.json {
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    Ok(response)
}
