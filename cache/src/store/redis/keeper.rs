//! Keeps the link: connects, hears of drops, and says when the circuit may close.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{RedisResult, from_redis_value};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    batch::{is_fast, send},
    drops::{self, Tag},
    link::{Link, PATIENCE},
    shared::Shared,
};

/// Between two rounds. With [`ROUND`], a drop made elsewhere holds here within a second: either a
/// round has heard of it, or one has failed and the circuit is open.
const PERIOD: Duration = Duration::from_millis(250);

/// How long a round may take: all that a second leaves for it, since a busy machine is no reason to
/// do without Redis.
const ROUND: Duration = Duration::from_millis(700);

/// Between two questions for memory and evictions.
const INFO_PERIOD: Duration = Duration::from_secs(2);

/// Tries to be answered in time before a circuit stays open for another round: the first over a
/// new connection is slow.
const TRIES: usize = 3;

/// Epochs outlast what they end: at least so long.
const LEAST_DROPS_TTL_MS: u64 = 86_400_000;

/// Keys that a step of a sweep looks at.
const SCAN_KEYS: usize = 1_000;

/// Ends when it is aborted.
pub(super) async fn keep(shared: Arc<Shared>, sweeps: mpsc::Sender<Sweep>) {
    let mut links = 0;
    loop {
        let link = match shared.link() {
            Some(link) => Ok(link),
            None => {
                links += 1;
                connect(&shared, links).await
            }
        };
        match link {
            Ok(link) => {
                let id = link.id;
                match timeout(ROUND, hear(&shared, link.clone(), &sweeps)).await {
                    Ok(Ok(())) => judge(&shared, link).await,
                    Ok(Err(error)) => shared.lost(id, &error.to_string()),
                    Err(_) => shared.lost(id, "it does not answer"),
                }
            }
            Err(why) => shared.open(&why),
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shared.wake.notified() => {}
        }
    }
}

async fn connect(shared: &Shared, id: u64) -> Result<Link, String> {
    match timeout(PATIENCE, Link::open(&shared.target, id)).await {
        Ok(Ok(link)) => {
            shared.set_link(link.clone());
            Ok(link)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".into()),
    }
}

/// Exchanges what is known of drops.
async fn hear(shared: &Shared, mut link: Link, sweeps: &mpsc::Sender<Sweep>) -> RedisResult<()> {
    let ttl_ms = shared.ttl_ms.max(LEAST_DROPS_TTL_MS);
    // A sweep that finds no place is left to the TTL.
    let swept = |tag| {
        let _ = sweeps.try_send(Sweep { tag, asked: Instant::now() });
    };
    shared.drops.tell(&mut link.writes, ttl_ms, swept, &shared.on_drop).await?;
    shared.drops.hear(&mut link.writes, ttl_ms, &shared.on_drop).await
}

/// Closes the circuit if look-ups would be answered in time now.
async fn judge(shared: &Shared, mut link: Link) {
    if shared.circuit.is_closed() {
        return;
    }
    for _ in 0..TRIES {
        if is_fast(&mut link.reads, shared.budget).await {
            // The look-ups may have given the link up by now; then another round is to come.
            let holds = shared.link().is_some_and(|current| current.id == link.id);
            if holds && shared.circuit.close() {
                tracing::info!(redis = shared.shown, "the shared cache is used");
            }
            return;
        }
    }
    shared.open("it does not answer within its time budget");
}

/// Keeps what Redis says of itself for the counters. Beside the rounds, which it must not delay.
pub(super) async fn inform(shared: Arc<Shared>) {
    loop {
        if let Some(link) = shared.link() {
            // What is not told now is told next time.
            let _ = timeout(PATIENCE, ask_for_info(&shared, link)).await;
        }
        tokio::time::sleep(INFO_PERIOD).await;
    }
}

/// Memory and evictions, of all masters together.
async fn ask_for_info(shared: &Shared, mut link: Link) -> RedisResult<()> {
    let (mut bytes, mut evictions) = (0, 0);
    for (_, text) in link.writes.all_masters(redis::cmd("INFO")).await? {
        let text: String = from_redis_value(text)?;
        let lines: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let number = |name| lines.get(name).and_then(|number| number.parse().ok()).unwrap_or(0);
        bytes += number("used_memory");
        evictions += number("evicted_keys");
    }
    shared.counters.bytes.store(bytes, Ordering::Relaxed);
    shared.counters.evictions.store(evictions, Ordering::Relaxed);
    Ok(())
}

/// A model whose dropped answers are to go.
pub(super) struct Sweep {
    tag: Tag,
    asked: Instant,
}

/// Gives the memory of dropped answers back, in the background and in small steps. What it does
/// not get to goes by its TTL.
pub(super) async fn sweep(shared: Arc<Shared>, mut queue: mpsc::Receiver<Sweep>) {
    while let Some(Sweep { tag, asked }) = queue.recv().await {
        // Until all have heard, some may write what would have to be swept once more.
        tokio::time::sleep_until(asked + PERIOD + ROUND).await;
        let Some(link) = shared.link() else { continue };
        if let Err(error) = sweep_model(&shared, link, &tag).await {
            tracing::debug!(%error, "dropped answers are left to their TTL");
        }
    }
}

async fn sweep_model(shared: &Shared, mut link: Link, tag: &Tag) -> RedisResult<()> {
    let holds = shared.drops.epoch_of(tag);
    for node in link.writes.masters().await? {
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(drops::pattern(tag)).arg("COUNT").arg(SCAN_KEYS);
            let found = link.writes.ask(&node, scan).await?;
            let (next, names): (u64, Vec<Vec<u8>>) = from_redis_value(found)?;
            let dead = names.into_iter().filter(|name| drops::epoch_in(name) < Some(holds));
            let unlink = dead.map(|name| {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(name);
                unlink
            });
            let unlink: Vec<_> = unlink.collect();
            if !unlink.is_empty()
                && let Some(sent) = send::<()>(&mut link.writes, unlink, PATIENCE).await
            {
                sent?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}
