//! What holds whatever comes.

use proptest::prelude::*;

use super::*;

/// A call: what it holds, and what becomes of it.
#[derive(Clone, Debug)]
struct Arrival {
    rows: usize,
    width: usize,
    datatype: DataType,
    outputs: usize,
    deadline_ms: u64,
    /// Who asked has gone by the time a batch is formed.
    leaves: bool,
    /// Another joins, this much earlier and this much later.
    joined: Option<(u64, u64)>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let datatype = prop_oneof![Just(DataType::Uint8), Just(DataType::Fp32), Just(DataType::Int8)];
    let joined = proptest::option::weighted(0.2, (0_u64..60, 0_u64..60));
    let kind = (1_usize..12, 1_usize..4, datatype, 0_usize..3);
    (kind, 0_u64..60, proptest::bool::weighted(0.1), joined).prop_map(
        |((rows, width, datatype, outputs), deadline_ms, leaves, joined)| Arrival {
            rows,
            width,
            datatype,
            outputs,
            deadline_ms,
            leaves,
            joined,
        },
    )
}

fn enter(world: &mut World, arrival: &Arrival) {
    let outputs = [&["y"][..], &["z"], &["y", "z"]];
    world.outputs = outputs[arrival.outputs].iter().map(|name| Arc::from(*name)).collect();
    let (waiters, ticket) =
        world.push_of(arrival.datatype, arrival.rows, arrival.width, arrival.deadline_ms);
    let now = world.now;
    let at = |ms: u64| now + Duration::from_millis(ms);
    let mut joiners = Vec::new();
    if let Some((earlier, later)) = arrival.joined {
        let earlier = at(arrival.deadline_ms.saturating_sub(earlier));
        joiners = vec![waiters.join(earlier), waiters.join(at(arrival.deadline_ms + later))];
        world.queue.requeue(ticket, waiters.earliest());
    }
    if arrival.leaves {
        // The waiter's place is kept, so that numbers stay what they are.
        let (_, other) = Waiters::new(now);
        drop(std::mem::replace(world.waiters.last_mut().unwrap(), other));
    } else {
        // They wait as long as the first one does.
        joiners.into_iter().for_each(std::mem::forget);
    }
}

proptest! {
    /// A batch of two or more queries is within its bounds, of one kind, in time by the rule, and
    /// holds nobody who is gone; every call comes out exactly once.
    #[test]
    fn batches_keep_their_promises(
        arrivals in proptest::collection::vec(arrival(), 1..120),
        limit in 1_usize..30,
        max_bytes in 1_usize..200,
        step_ms in 0_u64..5,
    ) {
        let mut world = World::new();
        let (mut out, mut entered) = (Vec::new(), 0);
        for chunk in arrivals.chunks(7) {
            chunk.iter().for_each(|arrival| enter(&mut world, arrival));
            entered += chunk.len();
            let now = world.now;
            let finish = move |rows: usize| now + ROW * u32::try_from(rows).unwrap();
            let formed = world.queue.form(&Room {
                now, limit, max_bytes, finish: &finish, fastest: &finish, accepts: &|_| true,
            });
            let rows: usize = formed.entries.iter().map(Entry::rows).sum();
            let bytes: usize = formed.entries.iter().map(|e| e.inputs.bytes()).sum();
            prop_assert_eq!(rows, formed.rows);
            if formed.entries.len() > 1 {
                prop_assert!(rows <= limit && bytes <= max_bytes);
            }
            for entry in &formed.entries {
                prop_assert!(!arrivals[entry.payload].leaves);
                prop_assert!(entry.waiters.latest() >= finish(rows));
                prop_assert!(
                    entry.shares_a_batch_with(&formed.entries[0].inputs, &formed.entries[0].outputs)
                );
            }
            for (entry, reason) in &formed.dropped {
                let expected = match reason {
                    DropReason::Abandoned => entry.waiters.is_abandoned(),
                    DropReason::Expired => entry.waiters.latest() <= now,
                    DropReason::Window => entry.waiters.latest() < finish(limit.max(entry.rows())),
                    _ => false,
                };
                prop_assert!(expected, "{reason:?} of {entry:?}");
            }
            out.extend(calls(&formed));
            out.extend(dropped(&formed).into_iter().map(|(call, _)| call));
            world.now += Duration::from_millis(step_ms);
        }
        out.extend(world.queue.drain().into_iter().map(|entry| entry.payload));
        out.sort_unstable();
        prop_assert_eq!(out, (0..entered).collect::<Vec<_>>());
        prop_assert!(world.queue.is_empty() && world.queue.rows() == 0);
    }

    /// Behind an endless stream of others that are due later, of whatever kind, each call comes
    /// out after at most as many batches as there were calls.
    #[test]
    fn nobody_waits_for_ever(
        first in proptest::collection::vec(arrival(), 1..40),
        others in proptest::collection::vec(arrival(), 1..10),
        limit in 1_usize..30,
    ) {
        let mut world = World::new();
        first.iter().for_each(|arrival| enter(&mut world, arrival));
        let mut left: Vec<_> = (0..first.len()).collect();
        for other in others.iter().cycle().take(first.len()) {
            let later = Arrival { deadline_ms: 1_000, joined: None, ..other.clone() };
            enter(&mut world, &later);
            let formed = world.form(limit);
            left.retain(|call| {
                !calls(&formed).contains(call)
                    && !dropped(&formed).iter().any(|(gone, _)| gone == call)
            });
        }
        prop_assert!(left.is_empty(), "{left:?} still wait");
    }

    /// The bounds count what is in, through every way in and out.
    #[test]
    fn rows_are_counted(arrivals in proptest::collection::vec(arrival(), 1..60), limit in 1_usize..9) {
        let mut world = World::new();
        let mut rows = 0;
        for (number, arrival) in arrivals.iter().enumerate() {
            enter(&mut world, arrival);
            rows += arrival.rows;
            if number % 3 == 0 {
                let formed = world.form(limit);
                rows -= formed.rows;
                rows -= formed.dropped.iter().map(|(entry, _)| entry.rows()).sum::<usize>();
            } else if number % 3 == 1 {
                world.now += Duration::from_millis(7);
                rows -= world.queue.purge(world.now).iter().map(|(e, _)| e.rows()).sum::<usize>();
            }
            prop_assert_eq!(world.queue.rows(), rows);
            prop_assert_eq!(world.queue.is_empty(), rows == 0);
            prop_assert!(world.queue.head_rows() <= rows);
        }
    }
}
