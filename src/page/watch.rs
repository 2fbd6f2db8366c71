//! Who went down, or came back, and why.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use skysail_containers::{ContainerInfo, ContainerState};

/// Events that are kept.
const KEPT: usize = 100;

/// Something changed its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    /// Milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
    /// Which container, by model, version and replica, or which store.
    pub(super) what: String,
    /// What it was, where it was known before.
    pub(super) from: Option<&'static str>,
    /// What it is.
    pub(super) to: &'static str,
    /// Why, where that is known.
    pub(super) reason: String,
}

/// What was seen last, and the latest events, the newest first.
#[derive(Debug, Default)]
pub(super) struct Watch {
    containers: Option<HashMap<Arc<str>, Seen>>,
    stores: HashMap<&'static str, bool>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Seen {
    what: String,
    state: ContainerState,
    reason: String,
}

/// A container's state, as interface.md names it.
pub(super) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Starting => "STARTING",
        ContainerState::Ready => "READY",
        ContainerState::Stalled => "STALLED",
        ContainerState::Broken => "BROKEN",
        ContainerState::Draining => "DRAINING",
        _ => "UNKNOWN",
    }
}

impl Watch {
    /// The latest events, the newest first.
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// What was there at the first look is no event.
    pub(super) fn containers(&mut self, now: &[ContainerInfo], time_ms: u64) {
        let first = self.containers.is_none();
        let mut before = self.containers.take().unwrap_or_default();
        let mut seen = HashMap::with_capacity(now.len());
        for container in now {
            let earlier = before.remove(&container.id);
            let state = container.state;
            let what = earlier.as_ref().map_or_else(|| what(container), |seen| seen.what.clone());
            let from = earlier.as_ref().map(|seen| seen.state);
            if from != Some(state) && !(first && state == ContainerState::Ready) {
                self.add(Event {
                    time_ms,
                    what: what.clone(),
                    from: from.map(state_name),
                    to: state_name(state),
                    reason: container.reason.clone(),
                });
            }
            let reason = container.reason.clone();
            seen.insert(Arc::clone(&container.id), Seen { what, state, reason });
        }
        for gone in before.into_values() {
            let from = Some(state_name(gone.state));
            self.add(Event { time_ms, what: gone.what, from, to: "GONE", reason: gone.reason });
        }
        self.containers = Some(seen);
    }

    /// A store that front ends share can be reached or not.
    pub(super) fn store(&mut self, what: &'static str, reached: bool, time_ms: u64) {
        // It is being connected to when the server starts, so only what is lost later is told.
        let before = self.stores.insert(what, reached);
        if before.is_some_and(|before| before != reached) {
            let name = |reached| if reached { "READY" } else { "BROKEN" };
            let reason = if reached { "" } else { "slow or lost; tried again and again" };
            self.add(Event {
                time_ms,
                what: what.to_owned(),
                from: before.map(name),
                to: name(reached),
                reason: reason.to_owned(),
            });
        }
    }

    fn add(&mut self, event: Event) {
        self.events.truncate(KEPT - 1);
        self.events.push_front(event);
    }
}

/// A container, by what people know it by.
pub(super) fn what(container: &ContainerInfo) -> String {
    let ContainerInfo { model, version, replica, address, .. } = container;
    format!("{model}:{version} replica {replica} ({address})")
}
