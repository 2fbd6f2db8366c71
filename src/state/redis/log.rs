//! One decision log over the file of this front end and the records of all.

use std::{sync::Arc, time::Duration};

use skysail_selection::{
    DecisionId, DecisionLog, DecisionRecord,
    store::{BoxFuture, StoreError},
};
use tokio::time::{Instant, sleep};

use super::{
    records::{BEAT, FLUSH, Records},
    store::millis,
};
use crate::record::{DecisionLogFile, LOOK_AGAIN, now_ms};

/// How long feedback waits to hear whether its record is still to come, before it is refused. Of a
/// front end that keeps up, two beats say so.
const BEHIND: Duration = Duration::from_millis(1500);

/// A [`DecisionLog`] for one application: its records are in the file, and in Redis for as long as
/// feedback counts.
#[derive(Clone, Debug)]
pub struct SharedLog {
    /// Where all of this front end's records are.
    pub file: Arc<DecisionLogFile>,
    /// Where other front ends look for them.
    pub records: Records,
    /// The application's feedback window.
    pub window: Duration,
}

impl DecisionLog for SharedLog {
    fn has_room(&self) -> bool {
        self.file.has_room() && self.records.has_room()
    }

    fn fullness(&self) -> f64 {
        self.file.fullness()
    }

    fn append(&self, record: Arc<DecisionRecord>) {
        self.file.append(Arc::clone(&record));
        self.records.append(record, self.window);
    }

    fn find(&self, id: DecisionId) -> BoxFuture<Result<Option<Arc<DecisionRecord>>, StoreError>> {
        if id.instance() == self.records.instance() {
            return self.file.find(id);
        }
        let this = self.clone();
        Box::pin(async move { this.find_of_others(id).await })
    }
}

impl SharedLog {
    async fn find_of_others(
        &self,
        id: DecisionId,
    ) -> Result<Option<Arc<DecisionRecord>>, StoreError> {
        for _ in 0..LOOK_AGAIN {
            if let Some(record) = self.look(id).await? {
                return Ok(Some(record));
            }
            // It is not kept so long, or will not be made for as long.
            if now_ms().abs_diff(id.time_ms()) > millis(self.window) {
                return Ok(None);
            }
            sleep(FLUSH).await;
        }
        let beats = async || self.records.beats(id.instance()).await;
        let Some(first) = beats().await? else { return self.look(id).await };
        let end = Instant::now() + BEHIND;
        while Instant::now() < end {
            sleep(BEAT / 4).await;
            // Asked before the last look, so that what was written before it is seen.
            let is_complete = beats().await?.is_none_or(|now| now >= first + 2);
            let found = self.look(id).await?;
            if found.is_some() || is_complete {
                return Ok(found);
            }
        }
        Err(StoreError(
            "the record of this decision is not written yet by the front end that made it; send \
             the feedback again"
                .into(),
        ))
    }

    /// The file first: this front end may have made it before it was started again.
    async fn look(&self, id: DecisionId) -> Result<Option<Arc<DecisionRecord>>, StoreError> {
        match self.file.look(id).await? {
            Some(record) => Ok(Some(record)),
            None => self.records.find(id).await,
        }
    }
}
