//! The body of a request: whole, without its coding, and not above the limit.

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{coding::Coding, refusal::Refusal};

/// Reads a body of at most `limit` bytes, with its coding and without.
///
/// # Errors
///
/// It is larger (413), cut off (400), or not compressed as it says.
pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let coding = Coding::of_request(headers)?;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut stream = body.into_data_stream();
    if let Some(length) = length.filter(|length| *length > limit) {
        discard(stream, limit).await;
        return Err(too_large(&length.to_string(), limit));
    }
    let body = whole(&mut stream, length, limit).await?;
    match coding {
        None => Ok(body),
        Some(coding) => super::heavy(body.len(), || coding.decode(&body, limit)),
    }
}

/// One frame is not copied; several are put into one piece, since tensors are slices of it.
async fn whole(
    stream: &mut BodyDataStream,
    length: Option<usize>,
    limit: usize,
) -> Result<Bytes, Refusal> {
    let cut = |error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read to its end: {error}"),
        )
    };
    let Some(first) = stream.next().await.transpose().map_err(cut)? else {
        return Ok(Bytes::new());
    };
    if length == Some(first.len()) {
        return Ok(first);
    }
    let mut body = BytesMut::with_capacity(length.unwrap_or(2 * first.len()));
    body.extend_from_slice(&first);
    while body.len() <= limit {
        match stream.next().await.transpose().map_err(cut)? {
            Some(next) => body.extend_from_slice(&next),
            None => return Ok(body.freeze()),
        }
    }
    Err(too_large(&format!("at least {}", body.len()), limit))
}

/// Reads on for a while: a client that is still sending does not see an answer before it has sent.
async fn discard(mut stream: BodyDataStream, limit: usize) {
    let mut left = limit;
    while let Some(Ok(bytes)) = stream.next().await {
        if bytes.len() > left {
            return;
        }
        left -= bytes.len();
    }
}

fn too_large(size: &str, limit: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body has {size} bytes; expected at most {limit}, which is max_message_bytes"),
    )
}
