//! One HTTP/2 connection to a container.
//!
//! Not tonic's channel: that connects again by itself, so that a lost peer shows only as slow
//! calls, and it ends calls at their deadline with a code of its own. Here the end of the socket
//! is an event, and a call lasts until its reply.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use skysail_proto::pb::inference::{
    ModelMetadataRequest, ModelMetadataResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tonic::{body::Body, client::Grpc};

use super::Address;
use crate::error::ContainerError;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Batches are large and few; the defaults make their sender wait for window updates.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Reads and writes in pieces of this size at the most.
const FRAME: u32 = 1 << 20;

/// An open connection. It closes when it is dropped and its calls have ended.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    origin: http::Uri,
    closed: watch::Receiver<Option<String>>,
    /// Of connecting.
    pub(crate) round_trip: Duration,
}

impl Connection {
    /// Connects, in two seconds at the most.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Lost`] with the system's words.
    pub(crate) async fn open(address: &Address) -> Result<Self, ContainerError> {
        let lost =
            |why: String| ContainerError::Lost(format!("cannot connect to {address}: {why}"));
        let begun = Instant::now();
        let connecting = async {
            match address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    Self::over(stream, address, begun).await
                }
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(|e| e.to_string())?;
                    Self::over(stream, "localhost", begun).await
                }
            }
        };
        let connected = tokio::time::timeout(CONNECT, connecting).await;
        connected.map_err(|_| lost(format!("no answer within {CONNECT:?}")))?.map_err(lost)
    }

    async fn over<S>(stream: S, authority: &str, begun: Instant) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let round_trip = begun.elapsed();
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let (tell, closed) = watch::channel(None);
        tokio::spawn(async move {
            let why = match driver.await {
                Ok(()) => "the connection was closed".into(),
                Err(error) => format!("the connection was lost: {}", causes(&error)),
            };
            tell.send_replace(Some(why));
        });
        let origin = http::Uri::builder()
            .scheme("http")
            .authority(authority)
            .path_and_query("/")
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { sender: Sender(sender), origin, closed, round_trip })
    }

    /// A client for one call or more. `largest`: the most bytes of a message.
    pub(super) fn grpc(&self, largest: usize) -> Grpc<Sender> {
        Grpc::with_origin(self.sender.clone(), self.origin.clone())
            .max_decoding_message_size(largest)
            .max_encoding_message_size(largest)
    }

    /// Waits for the end of the connection; says how it ended.
    pub(crate) async fn closed(&self) -> String {
        let mut closed = self.closed.clone();
        let why = closed.wait_for(Option::is_some).await.map(|why| why.clone());
        why.ok().flatten().unwrap_or_else(|| "the connection was closed".into())
    }

    /// Asks for a model's metadata.
    ///
    /// # Errors
    ///
    /// The server's status, or the connection was lost.
    pub(crate) async fn metadata(
        &self,
        name: &str,
        version: &str,
    ) -> Result<ModelMetadataResponse, tonic::Status> {
        let mut client =
            GrpcInferenceServiceClient::with_origin(self.sender.clone(), self.origin.clone());
        let mut request = tonic::Request::new(ModelMetadataRequest {
            name: name.into(),
            version: version.into(),
        });
        let limit = Duration::from_secs(10);
        request.set_timeout(limit);
        match tokio::time::timeout(limit, client.model_metadata(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(tonic::Status::deadline_exceeded(format!("no answer within {limit:?}"))),
        }
    }
}

/// An error and what lies behind it: hyper alone says no more than that there was one.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// Sends requests over the connection; as tonic wants it.
#[derive(Clone, Debug)]
pub(crate) struct Sender(SendRequest<Body>);

type Reply = Result<http::Response<hyper::body::Incoming>, hyper::Error>;

impl tower::Service<http::Request<Body>> for Sender {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
