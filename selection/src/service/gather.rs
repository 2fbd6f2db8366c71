//! Waits for the arms until all are in, or the deadline.

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use skysail_proto::call::ModelResult;

/// The runtime's timer counts milliseconds and rounds up; so much sooner it is set, or the answer
/// would leave after the deadline.
const TICK: Duration = Duration::from_millis(1);

/// One reply per call, in the order of the calls; `None`: it was late.
///
/// Every call is polled once before a timer is made, so that kept answers cost none. A call that
/// is ready at the deadline counts.
pub(super) async fn gather<F>(
    calls: impl Iterator<Item = F>,
    deadline: Instant,
) -> Vec<Option<ModelResult>>
where
    F: Future<Output = ModelResult>,
{
    let mut calls: Vec<_> = calls.map(|call| Some(Box::pin(call))).collect();
    let mut replies: Vec<Option<ModelResult>> = Vec::with_capacity(calls.len());
    poll_fn(|context| {
        for call in &mut calls {
            let Some(polled) = call.as_mut().map(|call| call.as_mut().poll(context)) else {
                continue;
            };
            match polled {
                Poll::Ready(reply) => {
                    replies.push(Some(reply));
                    *call = None;
                }
                Poll::Pending => replies.push(None),
            }
        }
        Poll::Ready(())
    })
    .await;
    if calls.iter().all(Option::is_none) {
        // Kept answers: what follows would be made for nothing.
        return replies;
    }
    let number = |(place, call): (usize, Option<_>)| {
        let call = call?;
        Some(async move { (place, call.await) })
    };
    let mut late: FuturesUnordered<_> = calls.into_iter().enumerate().filter_map(number).collect();
    let all = async {
        while let Some((place, reply)) = late.next().await {
            replies[place] = Some(reply);
        }
    };
    // Who is not in by then stays `None`, and the call is dropped with `late`.
    let wake = deadline.checked_sub(TICK).unwrap_or(deadline);
    let _ = tokio::time::timeout_at(wake.into(), all).await;
    replies
}
