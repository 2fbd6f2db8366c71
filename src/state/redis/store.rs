//! Selection state and the marks of applied feedback, in Redis.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::Cmd;
use skysail_selection::{
    SelectionStore,
    store::{BoxFuture, Commit, CommitOutcome, Mark, StateKey, StoreError, Stored, Version},
};

use super::{keys, link::Link};

const COMMIT: &str = include_str!("commit.lua");
const MARKED: &str = include_str!("marked.lua");
const RESET: &str = include_str!("reset.lua");

/// Marks are kept for so much longer than feedback counts: the clocks of front ends may differ by
/// as much, less the seconds that a commit may take.
const MARGIN: Duration = Duration::from_secs(60);

/// Where what had no feedback gets a default reward after the window, marks are kept so much longer,
/// and default rewards are given for half of it at most. Raising it lets a front end be away for
/// longer without default rewards being left out, and costs marks.
const DEFAULTS_MARGIN: Duration = Duration::from_secs(3600);

/// How long after the window default rewards may still be given.
pub const DEFAULTS: Duration = Duration::from_secs(1800);

/// Redis refuses times to live that it cannot add to its clock.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A [`SelectionStore`] in a Redis that front ends share. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    margin: Duration,
}

/// As Redis answers: number, commit, and of a context the resets that it has seen.
type Head = (Option<u64>, Option<Vec<u8>>, Option<u64>);

impl RedisStore {
    pub(super) fn new(link: Arc<Link>, has_defaults: bool) -> Self {
        Self { link, margin: if has_defaults { DEFAULTS_MARGIN } else { MARGIN } }
    }

    async fn load(&self, key: StateKey) -> Result<Option<Stored>, StoreError> {
        let mut commands = vec![hash(&key, &["v", "c", "e", "d"])];
        if !key.context.is_empty() {
            commands.push(hash(&own(&key.application), &["v", "c", "r", "r"]));
        }
        type Whole = (Option<u64>, Option<Vec<u8>>, Option<u64>, Option<Vec<u8>>);
        let mut answers = self.link.send::<Whole>(commands).await?.into_iter();
        let Some((number, commit, seen, state)) = answers.next() else { return Ok(None) };
        let resets = answers.next().and_then(|(_, _, resets, _)| resets);
        let version = version(&(number, commit, seen), resets.unwrap_or(0))?;
        let stored = state.filter(|_| version != Version::NONE);
        Ok(stored.map(|state| Stored { version, state: state.into() }))
    }

    /// One more than what was asked for: the first is of the application.
    async fn versions(
        &self,
        application: &Arc<str>,
        contexts: &[Arc<str>],
    ) -> Result<Vec<Version>, StoreError> {
        let mut commands = vec![hash(&own(application), &["v", "c", "r"])];
        let place = |context: &Arc<str>| {
            let (application, context) = (Arc::clone(application), Arc::clone(context));
            hash(&StateKey { application, context }, &["v", "c", "e"])
        };
        commands.extend(contexts.iter().map(place));
        let answers = self.link.send::<Head>(commands).await?;
        let Some(((number, commit, resets), heads)) = answers.split_first() else {
            return Ok(Vec::new());
        };
        let of_application = version(&(*number, commit.clone(), None), 0)?;
        let one = |(head, context): (&Head, &Arc<str>)| match &**context {
            "" => Ok(of_application),
            _ => version(head, resets.unwrap_or(0)),
        };
        heads.iter().zip(contexts).map(one).collect()
    }

    async fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> Result<Vec<Option<u128>>, StoreError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(MARKED).arg(1).arg(keys::marks(&key.place())).arg(packed(&marks));
        let commits: Vec<Vec<u8>> = self.link.ask(eval).await?;
        commits
            .into_iter()
            .map(|id| if id.is_empty() { Ok(None) } else { commit_id(&id).map(Some) })
            .collect()
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        // Read for each commit: a reset that was finished before this feedback came is seen, and
        // one that comes in between is a reset after it.
        let resets = if commit.key.context.is_empty() {
            String::new()
        } else {
            let mut resets = redis::cmd("HGET");
            resets.arg(keys::state(&own(&commit.key.application).place())).arg("r");
            self.link.ask::<Option<u64>>(resets).await?.unwrap_or(0).to_string()
        };
        let place = commit.key.place();
        let kept = millis(commit.window.saturating_add(self.margin).min(LONGEST));
        // Feedback by input marks times that are to come.
        let newest = commit.marks.iter().map(|mark| mark.decision.time_ms()).max().unwrap_or(0);
        let live = kept.saturating_add(newest.saturating_sub(commit.time_ms));
        let live = live.min(millis(LONGEST));
        let oldest = keys::marks_from(commit.time_ms.saturating_sub(kept));
        let mut eval = redis::cmd("EVAL");
        eval.arg(COMMIT).arg(2).arg(keys::state(&place)).arg(keys::marks(&place));
        eval.arg(commit.expected.number).arg(&commit.expected.commit_id.to_be_bytes()[..]);
        eval.arg(resets).arg(&commit.commit_id.to_be_bytes()[..]).arg(&commit.state[..]);
        eval.arg(&oldest[..]).arg(live).arg(keys::CHANNEL).arg(keys::message(&commit.key));
        eval.arg(packed(&commit.marks));
        let number = self.link.ask::<u64>(eval).await?;
        let counters = self.link.counters();
        let (counter, outcome) = match number {
            0 => (&counters.conflicts, CommitOutcome::Conflict),
            number => (&counters.commits, CommitOutcome::Committed(number)),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    async fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> Result<(), StoreError> {
        let all = u8::from(context.is_none());
        let key = StateKey { application, context: context.unwrap_or_default() };
        let mut eval = redis::cmd("EVAL");
        eval.arg(RESET).arg(1).arg(keys::state(&key.place()));
        eval.arg(all).arg(keys::CHANNEL).arg(keys::message(&key));
        self.link.ask::<u64>(eval).await.map(drop)
    }
}

impl SelectionStore for RedisStore {
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>> {
        let this = self.clone();
        Box::pin(async move { this.load(key).await })
    }

    fn versions(
        &self,
        application: Arc<str>,
        contexts: Vec<Arc<str>>,
    ) -> BoxFuture<Result<Vec<Version>, StoreError>> {
        let this = self.clone();
        Box::pin(async move { this.versions(&application, &contexts).await })
    }

    fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> BoxFuture<Result<Vec<Option<u128>>, StoreError>> {
        let this = self.clone();
        Box::pin(async move { this.marked(key, marks).await })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<Result<CommitOutcome, StoreError>> {
        let this = self.clone();
        Box::pin(async move { this.commit(commit).await })
    }

    fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let this = self.clone();
        Box::pin(async move { this.reset(application, context).await })
    }
}

/// The key of an application's own state.
fn own(application: &Arc<str>) -> StateKey {
    StateKey { application: Arc::clone(application), context: Arc::default() }
}

fn hash(key: &StateKey, fields: &[&str]) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(keys::state(&key.place())).arg(fields);
    command
}

/// What a hash says, where the application was reset so often with all its contexts.
fn version((number, commit, seen): &Head, resets: u64) -> Result<Version, StoreError> {
    match (number, commit) {
        (Some(number), Some(commit)) if seen.unwrap_or(0) >= resets => {
            Ok(Version { number: *number, commit_id: commit_id(commit)? })
        }
        _ => Ok(Version::NONE),
    }
}

fn commit_id(bytes: &[u8]) -> Result<u128, StoreError> {
    let wrong = || StoreError("Redis holds a commit id that has not 16 bytes".into());
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| wrong())
}

fn packed(marks: &[Mark]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(keys::MARK * marks.len());
    for mark in marks {
        bytes.extend_from_slice(&keys::mark(mark));
    }
    bytes
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
