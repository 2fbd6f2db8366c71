//! How things are named in Redis.
//!
//! All of one application or context has one hash tag, a digest of both, so that a script finds
//! it on one node of a cluster, and no user's string can break the tag.

use std::fmt::Write;

use skysail_selection::{
    DecisionId,
    store::{Mark, StateKey},
};

/// Where commits are told of.
pub(super) const CHANNEL: &str = "sk:changes";

/// A hash. `v`: number of the latest commit; `c`: its id; `d`: the state. After a reset `c` and `d`
/// are not there. Of an application `r`: how often it was reset with all its contexts; of a
/// context `e`: that number when it was committed.
pub(super) fn state(place: &[u8; 16]) -> String {
    name(place, "s")
}

/// A sorted set of [`mark`]s with the id of the commit that set each, all of one score: the order
/// is that of the bytes, and so of the decisions' time.
pub(super) fn marks(place: &[u8; 16]) -> String {
    name(place, "m")
}

/// A decision record, as JSON, in its state's place.
pub(super) fn record(id: &DecisionId) -> String {
    let mut name = name(&id.place(), "d:");
    hex(&mut name, &id.as_bytes()[..12]);
    name
}

/// How many beats a front end has made.
pub(super) fn beats(instance: [u8; 3]) -> String {
    let mut name = "sk:beats:".to_owned();
    hex(&mut name, &instance);
    name
}

fn name(place: &[u8; 16], what: &str) -> String {
    let mut name = String::with_capacity(64);
    name.push_str("sk:{");
    hex(&mut name, place);
    name.push_str("}:");
    name.push_str(what);
    name
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // A string takes all that is written to it.
        let _ = write!(text, "{byte:02x}");
    }
}

/// Bytes of one [`mark`].
pub(super) const MARK: usize = 32;

pub(super) fn mark(mark: &Mark) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    bytes[..28].copy_from_slice(mark.decision.as_bytes());
    bytes[28..].copy_from_slice(&mark.row.to_be_bytes());
    bytes
}

/// What all marks of decisions from then on are not before.
pub(super) fn marks_from(time_ms: u64) -> [u8; 6] {
    // An id holds 48 bits of time; later than it can say is after all of them.
    let id = DecisionId::new(time_ms.min((1 << 48) - 1), [0; 3], 0, [0; 16]);
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&id.as_bytes()[..6]);
    bytes
}

/// What is told of a commit: whose state it changed.
pub(super) fn message(key: &StateKey) -> Vec<u8> {
    let mut bytes = (key.application.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(key.application.as_bytes());
    bytes.extend_from_slice(key.context.as_bytes());
    bytes
}

/// `None`: it is no such message.
pub(super) fn read_message(bytes: &[u8]) -> Option<StateKey> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (application, context) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let text = |bytes| std::str::from_utf8(bytes).ok().map(std::sync::Arc::from);
    Some(StateKey { application: text(application)?, context: text(context)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_one_hash_tag_whatever_the_strings() {
        let key = StateKey { application: "}{".into(), context: "{x}".into() };
        let name = state(&key.place());
        assert_eq!((name.find('{'), name.find('}')), (Some(3), Some(36)));
        assert!(name.chars().all(|c| c.is_ascii_graphic()));
        assert_eq!(name.len(), "sk:{}:s".len() + 32);
    }

    proptest! {
        #[test]
        fn a_message_is_read_back(application in "\\PC{0,9}", context in "\\PC{0,9}") {
            let key = StateKey { application: application.into(), context: context.into() };
            prop_assert_eq!(read_message(&message(&key)), Some(key));
        }

        #[test]
        fn a_message_of_any_bytes_is_read_or_refused(bytes in any::<Vec<u8>>()) {
            if let Some(key) = read_message(&bytes) {
                prop_assert_eq!(message(&key), bytes);
            }
        }

        #[test]
        fn marks_lie_in_the_order_of_time(a in 0_u64..1 << 48, b in 0_u64..1 << 48) {
            let decision = DecisionId::new(a, [9; 3], 9, [9; 16]);
            let mark = mark(&Mark { decision, row: 1 });
            prop_assert_eq!(mark[..] < marks_from(b)[..], a < b);
        }
    }
}
