//! One connection for all, made again by whoever needs it first after it was lost.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, FromRedisValue, RedisError, from_redis_value};
use skysail_cache::{RedisAddresses, RedisConnection, RedisTarget};
use skysail_selection::store::StoreError;
use tokio::time::timeout;

use super::{Counters, RedisStateError};

/// After an attempt that failed, others fail at once for so long.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Link {
    target: RedisTarget,
    /// How a person knows it.
    shown: Arc<str>,
    patience: Duration,
    /// With a number that tells it from those before it.
    current: RwLock<Option<(u64, RedisConnection)>>,
    /// Held by who connects.
    connecting: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, StoreError)>>,
    counters: Counters,
}

impl Link {
    pub(super) fn new(
        addresses: &RedisAddresses,
        patience: Duration,
    ) -> Result<Self, RedisStateError> {
        let shown: Arc<str> = addresses.to_string().into();
        let target = addresses.target(patience).map_err(|error| RedisStateError::Unreachable {
            redis: Arc::clone(&shown),
            why: error.why.into(),
        })?;
        Ok(Self {
            target,
            shown,
            patience,
            current: RwLock::new(None),
            connecting: tokio::sync::Mutex::new(()),
            failed: Mutex::new(None),
            counters: Counters::default(),
        })
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn is_connected(&self) -> bool {
        self.current.read().is_some()
    }

    /// The first connection.
    pub(super) async fn open(&self, patience: Duration) -> Result<(), RedisStateError> {
        let end = Instant::now() + patience;
        loop {
            match self.connect(true).await {
                Err(RedisStateError::Unreachable { .. }) if Instant::now() < end => {
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result.map(drop),
            }
        }
    }

    /// Sends commands together, and waits until all are answered.
    ///
    /// # Errors
    ///
    /// One failed, or was not answered in time: it may have been done or not.
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        commands: Vec<Cmd>,
    ) -> Result<Vec<T>, StoreError> {
        let (id, mut connection) = self.connection().await?;
        // The connection has a deadline of its own for each answer; this is for what it retries.
        let sent = timeout(2 * self.patience, connection.send::<T>(commands)).await;
        let sent = sent.map(|sent| sent.and_then(|answers| answers.into_iter().collect()));
        match sent {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => Err(self.failed(id, &connection, &error)),
            Err(_) => {
                self.lost(id, "it does not answer");
                Err(self.error("it does not answer"))
            }
        }
    }

    /// As [`send`](Self::send), of a single one.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        let mut answers = self.send(vec![command]).await?;
        answers.pop().ok_or_else(|| self.error("it gave no answer"))
    }

    async fn connection(&self) -> Result<(u64, RedisConnection), StoreError> {
        if let Some(current) = &*self.current.read() {
            return Ok(current.clone());
        }
        let _alone = self.connecting.lock().await;
        if let Some(current) = &*self.current.read() {
            return Ok(current.clone());
        }
        if let Some((at, error)) = &*self.failed.lock()
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        self.connect(false).await.map_err(|error| {
            let error = self.error(&error.to_string());
            *self.failed.lock() = Some((Instant::now(), error.clone()));
            error
        })
    }

    async fn connect(&self, first: bool) -> Result<(u64, RedisConnection), RedisStateError> {
        let unreachable = |why: &dyn fmt::Display| RedisStateError::Unreachable {
            redis: Arc::clone(&self.shown),
            why: why.to_string().into(),
        };
        let connected = timeout(2 * self.patience, async {
            let mut connection = self.target.connect().await?;
            let told = connection.all_masters(info("memory")).await;
            redis::RedisResult::Ok((connection, told))
        });
        let connected = connected.await.map_err(|_| unreachable(&"it does not answer"))?;
        let (mut connection, told) = connected.map_err(|error| unreachable(&error))?;
        let told = match told {
            // A master that is lost must not keep the others from being used again.
            Err(_) if connection.is_cluster() && !first => Vec::new(),
            told => told.map_err(|error| unreachable(&error))?,
        };
        for (node, text) in told {
            let text: String = from_redis_value(text).map_err(|error| unreachable(&error))?;
            self.refuse_eviction(&node, &text)?;
        }
        if first {
            self.warn_of_no_persistence(&mut connection).await;
        }
        let id = self.counters.connects.fetch_add(1, Ordering::Relaxed) + 1;
        *self.current.write() = Some((id, connection.clone()));
        tracing::info!(redis = &*self.shown, "connected to the Redis of selection state");
        Ok((id, connection))
    }

    fn refuse_eviction(&self, node: &str, memory: &str) -> Result<(), RedisStateError> {
        let maxmemory = field(memory, "maxmemory").and_then(|text| text.parse().ok()).unwrap_or(0);
        let policy = field(memory, "maxmemory_policy").unwrap_or("noeviction");
        // Marks and records have a time to live, so `volatile-…` would take them, too.
        if maxmemory == 0 || policy == "noeviction" {
            return Ok(());
        }
        Err(RedisStateError::Evicts {
            redis: Arc::clone(&self.shown),
            node: if node.is_empty() { "it".into() } else { node.into() },
            policy: policy.into(),
            maxmemory,
        })
    }

    async fn warn_of_no_persistence(&self, connection: &mut RedisConnection) {
        let Ok(told) = connection.all_masters(info("persistence")).await else { return };
        for (_, text) in told {
            let text: String = from_redis_value(text).unwrap_or_default();
            if field(&text, "aof_enabled") == Some("0") {
                tracing::warn!(
                    redis = &*self.shown,
                    "appendonly is off: what is acknowledged may be lost when Redis stops; set \
                     appendonly yes, and appendfsync always where nothing may be lost"
                );
                return;
            }
        }
    }

    fn failed(&self, id: u64, connection: &RedisConnection, error: &RedisError) -> StoreError {
        let gone = error.is_unrecoverable_error() || error.is_connection_dropped();
        // A connection on which nothing comes may be a dead one; and who was a master may be a
        // replica now, and another the master under its name.
        let stale = error.is_timeout() || error.code() == Some("READONLY");
        // A cluster's connection mends itself.
        if (gone || stale) && !connection.is_cluster() {
            self.lost(id, &error.to_string());
        }
        self.error(&error.to_string())
    }

    fn lost(&self, id: u64, why: &str) {
        let mut current = self.current.write();
        if current.as_ref().is_some_and(|(current, _)| *current == id) {
            *current = None;
            tracing::warn!(
                redis = &*self.shown,
                why,
                "lost the Redis of selection state: feedback is refused until it is back; \
                 predictions go on from what is in memory"
            );
        }
    }

    fn error(&self, why: &str) -> StoreError {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        StoreError(format!("Redis at {}: {why}", self.shown).into())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("redis", &self.shown)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

fn info(section: &str) -> Cmd {
    let mut command = redis::cmd("INFO");
    command.arg(section);
    command
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
