//! What other front ends say that they have committed.

use std::time::Duration;

use futures::StreamExt;
use redis::{Client, RedisResult, aio::PubSub};
use skysail_cache::RedisAddresses;
use skysail_selection::store::StateKey;
use tokio::time::{sleep, timeout};

use super::keys;

/// Between two attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// Commits of all front ends, this one among them. Connects again by itself; what is told in
/// between is missed, so whoever needs all of it must look, too.
#[derive(Debug)]
pub struct Changes {
    addresses: RedisAddresses,
    patience: Duration,
    next_node: usize,
    listening: Option<Listening>,
}

struct Listening(PubSub);

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listening")
    }
}

impl Changes {
    pub(super) fn new(addresses: RedisAddresses, patience: Duration) -> Self {
        Self { addresses, patience, next_node: 0, listening: None }
    }

    /// The next state of which it is told that it was committed or reset.
    ///
    /// # Cancel safety
    ///
    /// Nothing is missed by it but, while it connects, what was told meanwhile.
    pub async fn next(&mut self) -> StateKey {
        loop {
            if let Some(Listening(pubsub)) = &mut self.listening {
                let told = pubsub.on_message().next().await;
                match told {
                    Some(told) => {
                        if let Some(key) = keys::read_message(told.get_payload_bytes()) {
                            return key;
                        }
                    }
                    None => self.listening = None,
                }
                continue;
            }
            match timeout(self.patience, self.listen()).await {
                Ok(Ok(pubsub)) => self.listening = Some(Listening(pubsub)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot listen to commits of other front ends");
                    sleep(RETRY).await;
                }
                Err(_) => {}
            }
        }
    }

    /// In a cluster every node tells of what was published to any.
    async fn listen(&mut self) -> RedisResult<PubSub> {
        let nodes = self.addresses.nodes();
        let node = nodes[self.next_node % nodes.len()].clone();
        self.next_node += 1;
        let mut pubsub = Client::open(node)?.get_async_pubsub().await?;
        pubsub.subscribe(keys::CHANNEL).await?;
        Ok(pubsub)
    }
}
