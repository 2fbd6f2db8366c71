//! Who went down, or came back, and why; and which version a name stands for.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use skysail_containers::{ContainerInfo, ContainerState, ModelInfo};

/// Events that are kept.
const KEPT: usize = 100;

/// Something changed its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    /// Milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
    /// Which container, by model, version and replica, or which model or store.
    pub(super) what: String,
    /// What it was, where it was known before.
    pub(super) from: Option<String>,
    /// What it is.
    pub(super) to: String,
    /// Why, where that is known.
    pub(super) reason: String,
}

/// What was seen last, and the latest events, the newest first.
#[derive(Debug, Default)]
pub(super) struct Watch {
    containers: Option<HashMap<Arc<str>, Seen>>,
    versions: HashMap<Arc<str>, Arc<str>>,
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
                    from: from.map(|from| state_name(from).to_owned()),
                    to: state_name(state).to_owned(),
                    reason: container.reason.clone(),
                });
            }
            let reason = container.reason.clone();
            seen.insert(Arc::clone(&container.id), Seen { what, state, reason });
        }
        for gone in before.into_values() {
            let from = Some(state_name(gone.state).to_owned());
            let to = "GONE".to_owned();
            self.add(Event { time_ms, what: gone.what, from, to, reason: gone.reason });
        }
        self.containers = Some(seen);
    }

    /// A bare name stands for another version now.
    pub(super) fn versions(&mut self, now: &[ModelInfo], time_ms: u64) {
        for model in now {
            let before = self.versions.insert(Arc::clone(&model.name), Arc::clone(&model.current));
            if let Some(before) = before.filter(|before| *before != model.current) {
                self.add(Event {
                    time_ms,
                    what: model.name.to_string(),
                    from: Some(format!("version {before}")),
                    to: format!("version {}", model.current),
                    reason: String::new(),
                });
            }
        }
        self.versions.retain(|name, _| now.iter().any(|model| model.name == *name));
    }

    /// A store that front ends share can be reached or not.
    pub(super) fn store(&mut self, what: &'static str, reached: bool, time_ms: u64) {
        // It is being connected to when the server starts, so only what is lost later is told.
        let before = self.stores.insert(what, reached);
        if before.is_some_and(|before| before != reached) {
            let name = |reached| if reached { "READY" } else { "BROKEN" }.to_owned();
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use skysail_containers::BatchStrategy;

    use super::*;

    fn container(id: &str, state: ContainerState, reason: &str) -> ContainerInfo {
        ContainerInfo {
            id: id.into(),
            replica: 0,
            model: "m".into(),
            version: "1".into(),
            address: id.into(),
            device: "cpu".into(),
            state,
            reason: reason.into(),
            batch_limit: 1,
            in_flight: 0,
            queue_rows: 0,
            feasible: true,
            since: SystemTime::UNIX_EPOCH,
            batch: BatchStrategy::Fixed(1),
            batch_wait: Duration::ZERO,
            objective: Duration::from_millis(20),
            batch_target: Duration::from_millis(20),
            max_batch_rows: 0,
        }
    }

    fn told(watch: &Watch) -> Vec<String> {
        let events = watch.events().map(|event| {
            let from = event.from.as_deref().unwrap_or("-");
            format!("{} {}: {from} > {}: {}", event.time_ms, event.what, event.to, event.reason)
        });
        events.collect()
    }

    #[test]
    fn what_is_well_at_the_start_is_no_event_and_each_change_is_one() {
        use ContainerState::{Broken, Ready, Starting};
        let mut watch = Watch::default();
        watch.containers(&[container("a", Ready, ""), container("b", Broken, "refused")], 1);
        assert_eq!(told(&watch), ["1 m:1 replica 0 (b): - > BROKEN: refused"]);
        watch.containers(&[container("a", Ready, ""), container("b", Broken, "refused")], 2);
        watch
            .containers(&[container("a", Broken, "connection lost"), container("b", Ready, "")], 3);
        watch.containers(&[container("b", Ready, ""), container("c", Starting, "")], 4);
        assert_eq!(
            told(&watch)[..4],
            [
                "4 m:1 replica 0 (a): BROKEN > GONE: connection lost",
                "4 m:1 replica 0 (c): - > STARTING: ",
                "3 m:1 replica 0 (b): BROKEN > READY: ",
                "3 m:1 replica 0 (a): READY > BROKEN: connection lost",
            ]
        );
    }

    #[test]
    fn a_store_is_told_of_once_it_was_known_and_old_events_make_room() {
        let mut watch = Watch::default();
        watch.store("Redis", false, 1);
        watch.store("Redis", false, 2);
        assert_eq!(told(&watch).len(), 0);
        watch.store("Redis", true, 3);
        assert_eq!(told(&watch), ["3 Redis: BROKEN > READY: "]);
        for time_ms in 4..400 {
            watch.store("Redis", time_ms % 2 == 1, time_ms);
        }
        assert_eq!(told(&watch).len(), KEPT);
        assert!(told(&watch)[0].starts_with("399 Redis: BROKEN > READY"));
    }
}
