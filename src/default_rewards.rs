//! Gives decisions without feedback their application's default reward when the feedback window
//! closes.
//!
//! Without it only decisions with feedback would count, and an arm whose failures nobody reports
//! would look good. One task reads the decision log behind the window; marks tell which rows had
//! feedback. How far it came is in the state file: a restart goes on from there, and what it does
//! twice the marks make once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesOrdered};
use parking_lot::Mutex;
use serde::Deserialize;
use skysail_selection::{Acknowledgement, DecisionRecord};

use crate::{
    applications::{Applications, Served},
    record::{
        DecisionLogFile, FeedbackLine,
        line::now_ms,
        tail::{Place, Tail},
    },
    state::{StateFile, cursors::Cursor},
};

/// From one look at the log to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Behind the window, so that feedback that came in time has set its marks.
const BEHIND_MS: u64 = 1_000;

/// The log is in the order of the answers, not of the decisions: one that is read later may have
/// been made so much earlier.
const OUT_OF_ORDER_MS: u64 = 60_000;

/// Decisions of one round, and of them at once. A group of feedback holds as many.
const ROUND: usize = 1024;

/// How far the task came, for each application that has a default reward.
#[derive(Debug, Default)]
pub struct Progress(Mutex<HashMap<String, u64>>);

impl Progress {
    /// Marks and records of decisions after this time are still needed; `None`: the application
    /// has no default reward.
    pub fn needed_from_ms(&self, application: &str) -> Option<u64> {
        let until = self.0.lock().get(application).copied()?;
        Some(until.saturating_sub(OUT_OF_ORDER_MS))
    }
}

/// Runs until the server stops. Decisions whose window closed longer ago than `until` are passed
/// over, as their marks may be gone; `None`: none are.
pub async fn run(
    applications: Applications,
    state: StateFile,
    log: Arc<DecisionLogFile>,
    progress: Arc<Progress>,
    until: Option<Duration>,
) {
    let mut readers: HashMap<String, Reader> = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let served = applications.list();
        let with_default: Vec<_> =
            served.iter().filter(|served| served.wire.default_reward.is_some()).collect();
        let gone = readers.extract_if(|name, _| !with_default.iter().any(|s| s.wire.name == *name));
        for (name, _) in gone.collect::<Vec<_>>() {
            progress.0.lock().remove(&name);
            // Else it would go on from here, should the default reward come back.
            if let Err(error) = state.set_cursor(&name, None).await {
                tracing::warn!(application = name, %error, "its place in the log is not forgotten");
            }
        }
        for served in with_default {
            let name = &served.wire.name;
            let round = async {
                if !readers.contains_key(name) {
                    readers.insert(name.clone(), Reader::open(served, &state, &log).await?);
                }
                let Some(reader) = readers.get_mut(name) else { return Ok(()) };
                reader.pass_over(due_ms(served), until);
                progress.0.lock().insert(name.clone(), reader.until_ms);
                while reader.round(served, &applications, &state, &log).await? {
                    progress.0.lock().insert(name.clone(), reader.until_ms);
                }
                progress.0.lock().insert(name.clone(), reader.until_ms);
                anyhow::Ok(())
            };
            if let Err(error) = round.await {
                readers.remove(name);
                tracing::warn!(application = name, %error, "default rewards wait; tried again");
            }
        }
    }
}

/// Decisions made until then have had their time.
fn due_ms(served: &Served) -> u64 {
    let window = u64::try_from(served.feedback_window().as_millis()).unwrap_or(u64::MAX);
    now_ms().saturating_sub(window).saturating_sub(BEHIND_MS)
}

#[derive(Debug)]
struct Reader {
    tail: Tail,
    /// Every decision made until then is seen to.
    until_ms: u64,
    /// Earlier decisions are not its own: there was no default reward when their window closed.
    since_ms: u64,
}

/// As much of a line as is needed to pass it over.
#[derive(Deserialize)]
struct Head<'a> {
    id: Option<&'a str>,
    #[serde(default)]
    application: std::borrow::Cow<'a, str>,
    time_ms: u64,
}

impl Reader {
    /// Goes on where it was. An application that has its default reward since now begins with the
    /// decisions whose window is still open.
    async fn open(
        served: &Served,
        state: &StateFile,
        log: &DecisionLogFile,
    ) -> anyhow::Result<Self> {
        let name = &served.wire.name;
        let cursor = match state.cursor(name)? {
            Some(cursor) => cursor,
            None => {
                let closed = due_ms(served);
                let cursor = Cursor { until_ms: closed, since_ms: closed, ..Cursor::default() };
                state.set_cursor(name, Some(cursor)).await?;
                cursor
            }
        };
        let place = Place { segment: cursor.segment, offset: cursor.offset };
        Ok(Self {
            tail: Tail::new(log.directory().to_owned(), place),
            until_ms: cursor.until_ms,
            since_ms: cursor.since_ms,
        })
    }

    fn pass_over(&mut self, due_ms: u64, until: Option<Duration>) {
        let Some(until) = until else { return };
        let since_ms = due_ms.saturating_sub(until.as_millis() as u64);
        if since_ms > self.until_ms.max(self.since_ms) {
            tracing::warn!(
                "this front end or Redis was away for too long to know which decisions had \
                 feedback: their default rewards are left out"
            );
        }
        self.since_ms = self.since_ms.max(since_ms);
    }

    /// Sees to the next decisions. False: none is due now.
    async fn round(
        &mut self,
        served: &Arc<Served>,
        applications: &Applications,
        state: &StateFile,
        log: &DecisionLogFile,
    ) -> anyhow::Result<bool> {
        let Some(reward) = served.wire.default_reward else { return Ok(false) };
        let due_ms = due_ms(served);
        let (due, more) = self.due(&served.wire.name, due_ms)?;
        if due.is_empty() && !more {
            self.until_ms = self.until_ms.max(due_ms);
            return Ok(false);
        }
        let selector = applications.selector(served).await?;
        // Together, so that the state commits them in groups.
        let mut given = FuturesOrdered::new();
        for record in &due {
            let (selector, record) = (Arc::clone(&selector), Arc::clone(record));
            given
                .push_back(async move { (record.id, selector.give_default(record, reward).await) });
        }
        while let Some((decision, given)) = given.next().await {
            if matches!(given?, Acknowledgement::Applied { .. }) {
                log.append_feedback(FeedbackLine::default_reward(decision, reward));
                served.metrics.feedback("DEFAULT");
            }
        }
        if let Some(last) = due.last() {
            self.until_ms = self.until_ms.max(last.time_ms);
        }
        let Place { segment, offset } = self.tail.place();
        let cursor = Cursor { segment, offset, until_ms: self.until_ms, since_ms: self.since_ms };
        state.set_cursor(&served.wire.name, Some(cursor)).await?;
        Ok(more)
    }

    /// The next decisions of the application whose window closed, and whether there may be more.
    fn due(&mut self, name: &str, due_ms: u64) -> anyhow::Result<(Vec<Arc<DecisionRecord>>, bool)> {
        let mut due = Vec::new();
        // Lines of others are passed over, but not all of them without a pause.
        for _ in 0..64 * ROUND {
            let Some(line) = self.tail.line()? else { return Ok((due, false)) };
            // A broken line is skipped here as it is at the start.
            if let Ok(head) = serde_json::from_slice::<Head<'_>>(line)
                && head.id.is_some()
                && head.application == name
            {
                if head.time_ms > due_ms {
                    return Ok((due, false));
                }
                if head.time_ms >= self.since_ms {
                    due.extend(serde_json::from_slice(line).ok().map(Arc::new));
                }
            }
            self.tail.take();
            if due.len() == ROUND {
                break;
            }
        }
        Ok((due, true))
    }
}
