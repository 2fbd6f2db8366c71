//! Where state and decision records are kept: in the data directory, and in a Redis that front
//! ends share where one is given.

use std::{sync::Arc, time::Duration};

use skysail_selection::{DecisionLog, SelectionStore};

use crate::{
    config::Config,
    record::{self, DecisionLogFile},
    state::{self, RedisState, StateFile, redis::SharedLog},
};

/// How long a stop waits for records that other front ends may ask for.
const FLUSH: Duration = Duration::from_secs(5);

/// All that survives. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Applications, registrations, versions that were set; and selection state where there is no
    /// Redis for it.
    pub state: StateFile,
    /// Every decision of this front end.
    pub log: Arc<DecisionLogFile>,
    /// Selection state, and decisions of all front ends as long as feedback for them counts.
    pub redis: Option<RedisState>,
}

impl Stores {
    /// Opens what the configuration names. `instance` stands in the ids of this front end's
    /// decisions.
    ///
    /// # Errors
    ///
    /// One of them cannot be used; the message says which, why, and how to mend it.
    pub async fn open(config: &Config, instance: [u8; 3]) -> anyhow::Result<Self> {
        let state = StateFile::open(&config.data_dir)?;
        let options = record::Options { sync: config.sync, ..record::Options::default() };
        let log = Arc::new(DecisionLogFile::open(&config.data_dir.join("decisions"), options)?);
        let redis = match config.redis_state.clone() {
            Some(addresses) => Some(RedisState::open(addresses, Arc::clone(&log), instance).await?),
            None => None,
        };
        Ok(Self { state, log, redis })
    }

    /// The selection state of an application that gives default rewards, or of one that doesn't.
    pub fn selection(&self, has_defaults: bool) -> Arc<dyn SelectionStore> {
        match &self.redis {
            Some(redis) => Arc::new(redis.store(has_defaults)),
            None => self.state.selection_store(),
        }
    }

    /// How long after the window a default reward may still be given; `None`: always, since marks
    /// stay until it was.
    pub fn defaults_until(&self) -> Option<Duration> {
        self.redis.as_ref().map(|_| state::redis::store::DEFAULTS)
    }

    /// The decision log of an application with that feedback window.
    pub fn log_of(&self, window: Duration) -> Arc<dyn DecisionLog> {
        let file = Arc::clone(&self.log);
        match &self.redis {
            Some(redis) => Arc::new(SharedLog { file, records: redis.records().clone(), window }),
            None => file,
        }
    }

    /// Writes what is held. To be called when no query is under way any more.
    ///
    /// # Errors
    ///
    /// A file of the data directory failed.
    pub async fn close(&self) -> anyhow::Result<()> {
        if let Some(redis) = &self.redis {
            let left = redis.records().flush(FLUSH).await;
            if left > 0 {
                tracing::warn!(
                    left,
                    "decisions are not known to other front ends, since Redis did not take them; \
                     feedback for them counts on this one"
                );
            }
        }
        // Records before state: a record without its feedback can still get it.
        self.log.close().await?;
        self.state.close().await?;
        Ok(())
    }
}
