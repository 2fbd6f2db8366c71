use skysail_proto::{DataType, Tensor, waiters::Waiter};

use super::*;

mod properties;

const ROW: Duration = Duration::from_millis(1);

struct World {
    queue: DeadlineQueue<usize>,
    now: Instant,
    outputs: Arc<[Arc<str>]>,
    /// Those who wait, by the number of their call.
    waiters: Vec<Waiter>,
}

impl World {
    fn new() -> Self {
        Self {
            queue: DeadlineQueue::new(1_000_000, usize::MAX),
            now: Instant::now() + Duration::from_secs(1_000),
            outputs: ["y".into()].into(),
            waiters: Vec::new(),
        }
    }

    fn push(&mut self, rows: usize, width: usize, deadline_ms: u64) -> (Arc<Waiters>, u64) {
        self.push_of(DataType::Uint8, rows, width, deadline_ms)
    }

    fn push_of(
        &mut self,
        datatype: DataType,
        rows: usize,
        width: usize,
        deadline_ms: u64,
    ) -> (Arc<Waiters>, u64) {
        let shape = [i64::try_from(rows).unwrap(), i64::try_from(width).unwrap()];
        let bytes = rows * width * datatype.size().unwrap();
        let tensor = Tensor::new("x", datatype, shape, vec![0_u8; bytes]).unwrap();
        let (waiters, waiter) = Waiters::new(self.now + Duration::from_millis(deadline_ms));
        let entry = Entry {
            inputs: Arc::new(Inputs::new(vec![tensor]).unwrap()),
            outputs: Arc::clone(&self.outputs),
            waiters: Arc::clone(&waiters),
            shared: true,
            queued: self.now,
            past: Default::default(),
            payload: self.waiters.len(),
        };
        self.waiters.push(waiter);
        (waiters, self.queue.push(entry))
    }

    /// One millisecond per row.
    fn form(&mut self, limit: usize) -> Formed<usize> {
        let now = self.now;
        let finish = move |rows: usize| now + ROW * u32::try_from(rows).unwrap();
        let room = Room {
            now,
            limit,
            max_bytes: usize::MAX,
            finish: &finish,
            fastest: &finish,
            accepts: &|_| true,
        };
        self.queue.form(&room)
    }
}

fn calls(formed: &Formed<usize>) -> Vec<usize> {
    formed.entries.iter().map(|entry| entry.payload).collect()
}

fn dropped(formed: &Formed<usize>) -> Vec<(usize, DropReason)> {
    formed.dropped.iter().map(|(entry, reason)| (entry.payload, *reason)).collect()
}

#[test]
fn earliest_deadline_first_and_arrival_among_equals() {
    let mut world = World::new();
    for deadline in [900, 300, 600, 300] {
        world.push(1, 1, deadline);
    }
    let formed = world.form(3);
    assert_eq!(calls(&formed), [1, 3, 2]);
    assert!(formed.limited);
    assert!(!world.form(3).limited);
    assert!(world.queue.is_empty());
}

#[test]
fn early_drop_gives_up_the_oldest_so_that_the_batch_stays_large() {
    let mut world = World::new();
    for deadline in [5, 8, 20, 30, 40, 50, 60, 70, 80, 90] {
        world.push(1, 1, deadline);
    }
    // A window of ten ends at 10 ms; the lazy rule would have run the first alone.
    let formed = world.form(10);
    assert_eq!(dropped(&formed), [(0, DropReason::Window), (1, DropReason::Window)]);
    assert_eq!(formed.rows, 8);
}

#[test]
fn the_window_shrinks_where_the_queue_ends_and_finish_comes_nearer() {
    let mut world = World::new();
    world.push(1, 1, 1);
    world.push(1, 1, 1);
    // Two rows end at 2 ms: the first is given up, and then the second can be in time.
    let formed = world.form(10);
    assert_eq!(dropped(&formed), [(0, DropReason::Window)]);
    assert_eq!(calls(&formed), [1]);
}

#[test]
fn what_a_faster_replica_can_do_is_left_to_it() {
    let mut world = World::new();
    world.push(1, 1, 5);
    let now = world.now;
    let slow = move |_: usize| now + Duration::from_millis(10);
    let fast = move |_: usize| now + Duration::from_millis(2);
    let room = Room {
        now,
        limit: 4,
        max_bytes: usize::MAX,
        finish: &slow,
        fastest: &fast,
        accepts: &|_| true,
    };
    let formed = world.queue.form(&room);
    assert!(formed.entries.is_empty() && formed.dropped.is_empty());
    assert_eq!(world.queue.rows(), 1);
    let room = Room { finish: &fast, ..room };
    assert_eq!(calls(&world.queue.form(&room)), [0]);
}

#[test]
fn nobody_waits_for_one_that_is_gone_or_late() {
    let mut world = World::new();
    world.push(1, 1, 500);
    world.push(1, 1, 0);
    world.push(1, 1, 500);
    drop(world.waiters.remove(0));
    let formed = world.form(10);
    assert_eq!(dropped(&formed), [(1, DropReason::Expired), (0, DropReason::Abandoned)]);
    assert_eq!(calls(&formed), [2]);
}

#[test]
fn a_flight_is_queued_by_its_earliest_and_given_up_by_its_latest() {
    let mut world = World::new();
    let (flight, ticket) = world.push(1, 1, 800);
    world.push(1, 1, 400);
    let _later = flight.join(world.now + Duration::from_millis(2_000));
    let soon = world.now + Duration::from_millis(100);
    let _sooner = flight.join(soon);
    world.queue.requeue(ticket, soon);
    assert_eq!(calls(&world.form(1)), [0]);
    // A ticket that is gone moves nothing.
    world.queue.requeue(ticket, world.now);
    let (flight, ticket) = world.push(1, 1, 10);
    world.queue.requeue(ticket, flight.earliest());
    let _patient = flight.join(world.now + Duration::from_millis(3_000));
    world.now += Duration::from_millis(1_000);
    let formed = world.form(10);
    assert_eq!(calls(&formed), [2]);
    assert_eq!(dropped(&formed), [(1, DropReason::Expired)]);
}

#[test]
fn a_query_is_never_split_and_an_oversized_one_runs_alone() {
    let mut world = World::new();
    for (rows, deadline) in [(3, 500), (3, 501), (20, 502), (2, 503)] {
        world.push(rows, 1, deadline);
    }
    let formed = world.form(5);
    assert_eq!((calls(&formed), formed.limited), (vec![0], true));
    assert_eq!(calls(&world.form(5)), [1]);
    let formed = world.form(5);
    assert_eq!((calls(&formed), formed.rows), (vec![2], 20));
    assert_eq!(calls(&world.form(5)), [3]);
}

#[test]
fn an_oversized_query_is_judged_by_its_own_time() {
    let mut world = World::new();
    world.push(20, 1, 10);
    assert_eq!(dropped(&world.form(5)), [(0, DropReason::Window)]);
}

#[test]
fn other_shapes_and_outputs_make_other_batches_and_none_starves() {
    let mut world = World::new();
    world.push(1, 3, 500);
    world.push(1, 4, 501);
    world.push(1, 3, 502);
    world.outputs = ["z".into()].into();
    world.push(1, 3, 503);
    assert_eq!(calls(&world.form(10)), [0, 2]);
    assert_eq!(calls(&world.form(10)), [1]);
    assert_eq!(calls(&world.form(10)), [3]);
    assert!(world.queue.is_empty());
    // A group that is all dropped does not hide the next one.
    world.push(1, 3, 0);
    world.push(1, 4, 500);
    let formed = world.form(10);
    assert_eq!(calls(&formed), [5]);
    assert_eq!(dropped(&formed), [(4, DropReason::Expired)]);
}

#[test]
fn bounds_count_rows_and_bytes_and_let_one_call_into_an_empty_queue() {
    let mut world = World::new();
    world.queue = DeadlineQueue::new(10, 100);
    let inputs = |rows: usize, width: usize| {
        let shape = [i64::try_from(rows).unwrap(), i64::try_from(width).unwrap()];
        let tensor = Tensor::new("x", DataType::Uint8, shape, vec![0_u8; rows * width]).unwrap();
        Inputs::new(vec![tensor]).unwrap()
    };
    assert!(world.queue.has_room_for(&inputs(50, 50)));
    world.push(8, 1, 500);
    assert!(world.queue.has_room_for(&inputs(2, 1)));
    assert!(!world.queue.has_room_for(&inputs(3, 1)));
    assert!(!world.queue.has_room_for(&inputs(1, 93)));
    let gone = world.now + Duration::from_secs(9);
    assert_eq!(world.queue.purge(gone).len(), 1);
    assert!(world.queue.has_room_for(&inputs(3, 1)));
}

#[test]
fn a_batch_is_held_until_the_timer_but_never_makes_a_call_late() {
    let now = Instant::now();
    let ms = Duration::from_millis;
    let head = (now + ms(100), now);
    assert_eq!(hold_until(head, ms(5), ms(10)), (now + ms(5), false));
    assert_eq!(hold_until(head, ms(95), ms(10)), (now + ms(90), true));
}
