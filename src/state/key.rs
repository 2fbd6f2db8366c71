//! Keys that no user string can make ambiguous: each string is preceded by its length.
//!
//! Numbers are big-endian, so that keys sort as the numbers do.

use skysail_selection::{
    DecisionId,
    store::{Mark, StateKey},
};

/// Of the state of one application or context.
pub fn state(key: &StateKey) -> Vec<u8> {
    let mut bytes = application(&key.application);
    string(&mut bytes, &key.context);
    bytes
}

/// What all keys of an application begin with, and no key of another.
pub fn application(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + name.len());
    string(&mut bytes, name);
    bytes
}

/// Of a mark. The decision comes before the context, so that an application's marks lie in the
/// order of time, and trimming reads only what it removes.
pub fn mark(key: &StateKey, mark: &Mark) -> Vec<u8> {
    let mut bytes = application(&key.application);
    bytes.extend_from_slice(mark.decision.as_bytes());
    string(&mut bytes, &key.context);
    bytes.extend_from_slice(&mark.row.to_be_bytes());
    bytes
}

/// The first key that a mark of a decision made then can have.
pub fn marks_from(name: &str, time_ms: u64) -> Vec<u8> {
    let mut bytes = application(name);
    // An id holds 48 bits of time; later than it can say is after all of them.
    let time_ms = time_ms.min((1 << 48) - 1);
    bytes.extend_from_slice(DecisionId::new(time_ms, [0; 3], 0, [0; 16]).as_bytes());
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(application: &str, context: &str) -> StateKey {
        StateKey { application: application.into(), context: context.into() }
    }

    /// Short strings of the bytes that a careless encoding would trip over.
    fn names() -> impl Strategy<Value = String> {
        prop_oneof!["[\\x00a]{0,4}", "\\PC{0,12}", "(\\x00{7}[\\x00-\\x04])?[ab\\x00]{0,3}"]
    }

    proptest! {
        #[test]
        fn equal_keys_have_equal_parts(a in names(), b in names(), c in names(), d in names()) {
            prop_assert_eq!(state(&key(&a, &b)) == state(&key(&c, &d)), a == c && b == d);
        }

        #[test]
        fn no_application_begins_like_another(a in names(), b in names(), context in names()) {
            let begins = state(&key(&a, &context)).starts_with(&application(&b));
            prop_assert_eq!(begins, a == b);
        }

        #[test]
        fn equal_marks_have_equal_parts(
            a in (names(), names(), any::<[u8; 2]>(), any::<u32>()),
            b in (names(), names(), any::<[u8; 2]>(), any::<u32>()),
        ) {
            let encode = |(application, context, id, row): &(String, String, [u8; 2], u32)| {
                let decision = DecisionId::new(id[0].into(), [0; 3], id[1].into(), [0; 16]);
                mark(&key(application, context), &Mark { decision, row: *row })
            };
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }

        #[test]
        fn marks_lie_in_the_order_of_time(
            a in 0_u64..1 << 48, b in 0_u64..1 << 48, name in names(), context in names(),
        ) {
            let decision = DecisionId::new(a, [9; 3], 9, [9; 16]);
            let mark = mark(&key(&name, &context), &Mark { decision, row: 1 });
            prop_assert_eq!(mark < marks_from(&name, b), a < b);
        }
    }
}
