//! Answers the messages of a stream in completion order.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use tonic::{Status, Streaming};

/// Answers each message of `inbound` by `answer`, at most `limit` at once; beyond it nothing is
/// read. It ends when the client has ended its side, or the server is stopping, and what was read
/// is answered. A message that cannot be read (one above the size limit) ends it with its status.
///
/// There is no task and no channel per message: one whose answer is ready at once, as that of a
/// cache hit is, is answered where it was read.
pub(super) fn answer_each<Q, R, F, A>(
    inbound: Streaming<Q>,
    limit: usize,
    stopping: watch::Receiver<bool>,
    answer: F,
) -> Answers<Q, F, A>
where
    Q: Send + 'static,
    F: Fn(Q) -> A + Send + Unpin + 'static,
    A: Future<Output = R> + Send + 'static,
{
    let stopped = async move {
        let mut stopping = stopping;
        // An error means that the server is gone, which is a stop, too.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let inbound: Inbound<Q> = Box::pin(inbound.take_until(Box::pin(stopped)));
    Answers {
        inbound: Some(inbound),
        limit,
        answer,
        under_way: FuturesUnordered::new(),
        failed: None,
    }
}

type Inbound<Q> = Pin<Box<dyn Stream<Item = Result<Q, Status>> + Send>>;

/// See [`answer_each`].
pub(super) struct Answers<Q, F, A> {
    /// `None` once it has ended.
    inbound: Option<Inbound<Q>>,
    limit: usize,
    answer: F,
    under_way: FuturesUnordered<Pin<Box<A>>>,
    failed: Option<Status>,
}

impl<Q, R, F, A> Stream for Answers<Q, F, A>
where
    F: Fn(Q) -> A + Unpin,
    A: Future<Output = R>,
{
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // What is done leaves first: it frees a place and somebody waits for it.
        if !this.under_way.is_empty()
            && let Poll::Ready(Some(answer)) = this.under_way.poll_next_unpin(cx)
        {
            return Poll::Ready(Some(Ok(answer)));
        }
        while this.under_way.len() < this.limit
            && let Some(inbound) = &mut this.inbound
        {
            match inbound.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => this.inbound = None,
                Poll::Ready(Some(Err(status))) => {
                    this.inbound = None;
                    this.failed = Some(status);
                }
                Poll::Ready(Some(Ok(message))) => {
                    let mut answer = Box::pin((this.answer)(message));
                    match answer.as_mut().poll(cx) {
                        Poll::Ready(answer) => return Poll::Ready(Some(Ok(answer))),
                        Poll::Pending => this.under_way.push(answer),
                    }
                }
            }
        }
        // What was pushed above has to be polled by the set once, so that the set wakes us.
        match this.under_way.poll_next_unpin(cx) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(answer))),
            Poll::Ready(None) if this.inbound.is_none() => Poll::Ready(this.failed.take().map(Err)),
            _ => Poll::Pending,
        }
    }
}
