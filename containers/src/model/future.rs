//! The answer to one call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use skysail_proto::{PredictError, call::ModelResult, waiters::Waiter};
use tokio::sync::oneshot;

/// The answer to one call.
///
/// # Cancel safety
///
/// Dropping it gives the call up: it leaves the queue, unless it has been dispatched or others
/// wait for it.
#[derive(Debug)]
pub struct ModelFuture(Step);

#[derive(Debug)]
enum Step {
    Ready(Option<PredictError>),
    Waiting {
        answer: oneshot::Receiver<ModelResult>,
        /// Of a call that came without waiters: this future is the one who waits.
        _waiter: Option<Waiter>,
    },
}

impl ModelFuture {
    pub(crate) fn ready(error: PredictError) -> Self {
        Self(Step::Ready(Some(error)))
    }

    pub(crate) fn waiting(answer: oneshot::Receiver<ModelResult>, waiter: Option<Waiter>) -> Self {
        Self(Step::Waiting { answer, _waiter: waiter })
    }
}

impl Future for ModelFuture {
    type Output = ModelResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ModelResult> {
        match &mut self.0 {
            Step::Ready(error) => Poll::Ready(Err(error
                .take()
                .unwrap_or_else(|| PredictError::Internal("polled after completion".into())))),
            Step::Waiting { answer, .. } => {
                let answer = ready!(Pin::new(answer).poll(cx));
                Poll::Ready(answer.unwrap_or_else(|_| {
                    Err(PredictError::Internal("a replica dropped a call without an answer".into()))
                }))
            }
        }
    }
}
