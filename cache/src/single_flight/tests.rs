//! The table of flights alone, in every order of its steps that shuttle comes to.

use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::rand::Rng;
use skysail_proto::{DataType, Tensor};

use super::*;
use crate::service::interleavings::{explore, hour, step};

const KEY: CacheKey = CacheKey { identity: [1; 32], input: [2; 32] };

fn booking() -> Booking {
    Booking {
        key: KEY,
        deadline: hour(),
        generation: Generation(0),
        max_age: Duration::ZERO,
        shun_abandoned: false,
    }
}

fn kept() -> Kept {
    let y = Tensor::new("y", DataType::Uint8, vec![1, 1], vec![7]).expect("it fits");
    Kept { outputs: Arc::new([y]), at: Instant::now() }
}

/// Callers who see to their own flights, and drop some of them as a panic would: those who sit in
/// one are told, the next to come leads, and nothing stays in the table.
#[test]
fn a_flight_that_is_dropped_leaves_nobody_behind() {
    explore(|| {
        let flights = Arc::new(Flights::default());
        let store = Arc::new(parking_lot::Mutex::new(None::<Kept>));
        let (landed, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let caller = {
            let (flights, store) = (Arc::clone(&flights), Arc::clone(&store));
            let (landed, dropped) = (Arc::clone(&landed), Arc::clone(&dropped));
            move || {
                let look = || {
                    step();
                    store.lock().clone()
                };
                let mut seat = match flights.board(booking(), look) {
                    Boarding::Kept(_) => return true,
                    Boarding::Joined(seat) => seat,
                    Boarding::Lead(seat, departure) => {
                        step();
                        if shuttle::rand::thread_rng().r#gen() {
                            *store.lock() = Some(kept());
                            landed.fetch_add(1, Ordering::Relaxed);
                            departure.land(Ok(kept_reply(kept())));
                        } else {
                            dropped.fetch_add(1, Ordering::Relaxed);
                            drop(departure);
                        }
                        seat
                    }
                };
                let result = shuttle::future::block_on(seat.landed(hour(), Instant::now));
                match result.expect("no failure that another flight could mend") {
                    Ok(_) => true,
                    Err(PredictError::Internal(_)) => false,
                    Err(other) => panic!("it was dropped, which is no {other}"),
                }
            }
        };
        let callers: Vec<_> = (0..3).map(|_| shuttle::thread::spawn(caller.clone())).collect();
        let answered = callers.into_iter().map(|caller| caller.join().expect("no panic"));
        let answered = answered.filter(|answered| *answered).count();

        let landed = landed.load(Ordering::Relaxed);
        let dropped = dropped.load(Ordering::Relaxed);
        assert_eq!(flights.len(), 0, "a flight stays in the table");
        assert!(landed <= 1, "an answer that is kept was asked for again");
        assert_eq!(answered > 0, landed > 0);
        assert!(3 - answered >= dropped, "who led a dropped flight was told so");
    });
}
