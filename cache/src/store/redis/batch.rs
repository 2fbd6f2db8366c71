//! Look-ups and writes on their way: what queues while a pipeline is out is the next pipeline.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use redis::{Cmd, RedisError, RedisResult, aio::ConnectionLike};
use skysail_proto::Tensor;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    link::{PATIENCE, RedisConnection},
    shared::Shared,
    value,
};

/// Look-ups in a pipeline at most: the first waits for the answers to all.
const MOST_GETS: usize = 256;

/// Writes in a pipeline at most.
const MOST_WRITES: usize = 128;

/// Why there is no answer; both are counted where somebody waited for it.
#[derive(Debug)]
pub(super) enum Failed {
    TimedOut,
    Refused,
}

pub(super) type Fetched = Result<Option<Bytes>, Failed>;

/// A look-up.
pub(super) struct Get {
    pub(super) name: Vec<u8>,
    pub(super) answer: oneshot::Sender<Fetched>,
}

/// What is to be changed in Redis.
pub(super) enum Write {
    Keep {
        name: Vec<u8>,
        outputs: Arc<[Tensor]>,
        computed_ms: u64,
        bytes: usize,
    },
    /// The value there is damaged.
    Delete {
        name: Vec<u8>,
    },
}

/// Looks up what is asked for, until nobody can ask any more.
pub(super) async fn read(shared: Arc<Shared>, mut queue: mpsc::Receiver<Get>) {
    let mut batch = Vec::with_capacity(MOST_GETS);
    while queue.recv_many(&mut batch, MOST_GETS).await > 0 {
        // Whoever has waited long enough has gone.
        batch.retain(|get: &Get| !get.answer.is_closed());
        let batch = batch.drain(..);
        if batch.len() == 0 {
            continue;
        }
        let commands = batch.as_slice().iter().map(|get| get_command(&get.name)).collect();
        match fetch(&shared, commands).await {
            Ok(values) => {
                for (get, value) in batch.zip(values) {
                    let _ = get.answer.send(value.map_err(|_| Failed::Refused));
                }
            }
            Err(Failed::TimedOut) => {
                batch.for_each(|get| drop(get.answer.send(Err(Failed::TimedOut))));
            }
            Err(Failed::Refused) => {
                batch.for_each(|get| drop(get.answer.send(Err(Failed::Refused))));
            }
        }
    }
}

pub(super) fn get_command(name: &[u8]) -> Cmd {
    let mut command = redis::cmd("GET");
    command.arg(name);
    command
}

/// Looks up within the budget, and tells the circuit how it went.
pub(super) async fn fetch(
    shared: &Shared,
    commands: Vec<Cmd>,
) -> Result<Vec<RedisResult<Option<Bytes>>>, Failed> {
    let mut link = shared.link().ok_or(Failed::Refused)?;
    let values = send(&mut link.reads, commands, shared.budget).await;
    match values {
        Some(Ok(values)) => {
            match values.iter().find_map(|value| value.as_ref().err()) {
                // In a cluster, one lost master does not condemn the others.
                Some(error) if values.iter().all(Result::is_err) => shared.refused(link.id, error),
                _ => shared.circuit.success(),
            }
            Ok(values)
        }
        Some(Err(error)) => {
            shared.refused(link.id, &error);
            Err(Failed::Refused)
        }
        None => {
            shared.late();
            Err(Failed::TimedOut)
        }
    }
}

/// `None`: no answer in time.
pub(super) async fn send<T: redis::FromRedisValue>(
    connection: &mut RedisConnection,
    commands: Vec<Cmd>,
    patience: Duration,
) -> Option<RedisResult<Vec<RedisResult<T>>>> {
    timeout(patience, connection.send(commands)).await.ok()
}

/// Writes what is to be kept, until nobody can ask any more.
pub(super) async fn write(shared: Arc<Shared>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(MOST_WRITES);
    while queue.recv_many(&mut batch, MOST_WRITES).await > 0 {
        let writes = batch.len() as u64;
        let queued: usize = batch
            .iter()
            .map(|write| match write {
                Write::Keep { bytes, .. } => *bytes,
                Write::Delete { .. } => 0,
            })
            .sum();
        match shared.link().filter(|_| shared.circuit.is_closed()) {
            Some(mut link) => {
                let commands = batch.drain(..).map(|write| command(&shared, write)).collect();
                let sent = send::<()>(&mut link.writes, commands, PATIENCE).await;
                count(&shared, link.id, writes, sent);
            }
            None => {
                batch.clear();
                shared.counters.writes_dropped.add(writes);
            }
        }
        shared.queued_bytes.fetch_sub(queued, Ordering::Relaxed);
    }
}

fn command(shared: &Shared, write: Write) -> Cmd {
    match write {
        Write::Keep { name, outputs, computed_ms, .. } => {
            let value = value::encode(&name, &outputs, computed_ms);
            let mut set = redis::cmd("SET");
            set.arg(name).arg(value).arg("PX").arg(shared.ttl_ms);
            set
        }
        Write::Delete { name } => {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(name);
            unlink
        }
    }
}

/// A write that fails does not open the circuit: a full Redis can still be read. The keeper and
/// the look-ups notice one that is slow or lost.
fn count(
    shared: &Shared,
    link: u64,
    writes: u64,
    sent: Option<Result<Vec<RedisResult<()>>, RedisError>>,
) {
    let failed = match sent {
        Some(Ok(results)) => results.iter().filter(|result| result.is_err()).count() as u64,
        Some(Err(error)) => {
            shared.lost_if_broken(link, &error);
            writes
        }
        None => writes,
    };
    shared.counters.write_errors.add(failed);
    shared.counters.writes.add(writes.saturating_sub(failed));
}

/// Whether a look-up is answered within its budget.
pub(super) async fn is_fast(connection: &mut impl ConnectionLike, budget: Duration) -> bool {
    let probe = get_command(b"skc1:probe");
    matches!(timeout(budget, probe.query_async::<Option<Bytes>>(connection)).await, Ok(Ok(_)))
}
