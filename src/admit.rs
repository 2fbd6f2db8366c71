//! Admission: bounded concurrency, shed early; and the deadline, which is fixed here, once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use skysail_proto::PredictError;
use tonic::metadata::MetadataMap;

/// Bounds the queries of one application that are under way.
#[derive(Clone, Debug)]
pub struct Admission {
    under_way: Arc<AtomicU32>,
    limit: u32,
}

/// A query's place; dropping it gives it back, also when the call is cancelled.
#[derive(Debug)]
pub struct Place {
    under_way: Arc<AtomicU32>,
}

impl Admission {
    /// At most `limit` at once.
    pub fn new(limit: u32) -> Self {
        Self { under_way: Arc::default(), limit }
    }

    /// Takes a place, or refuses at once.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED where all are taken; never UNAVAILABLE, which clients retry, and that
    /// makes an overload worse.
    pub fn admit(&self, objective: Duration) -> Result<Place, PredictError> {
        // Counted first and given back where it was one too many: two atomics and no loop.
        let place = Place { under_way: Arc::clone(&self.under_way) };
        if self.under_way.fetch_add(1, Ordering::AcqRel) < self.limit {
            Ok(place)
        } else {
            let what = format!("{} queries are under way, which is max_in_flight", self.limit);
            Err(PredictError::overloaded(what, objective))
        }
    }

    /// Queries under way.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The earliest of the gRPC deadline, the request's own timeout and the objective, less the slack
/// that is kept back for the way out.
///
/// Nothing is left to do in a query whose time is shorter than the slack: its deadline is `now`.
pub fn deadline(
    now: Instant,
    objective: Duration,
    slack: Duration,
    timeout: Option<Duration>,
    transport: Option<Duration>,
) -> Instant {
    let budget = [timeout, transport].into_iter().flatten().fold(objective, Duration::min);
    now + budget.saturating_sub(slack)
}

/// What `grpc-timeout` says; a malformed one is none.
pub fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_place_is_free_again() {
        let admission = Admission::new(1);
        let place = admission.admit(Duration::from_millis(20)).unwrap();
        let error = admission.admit(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code(), skysail_proto::Code::ResourceExhausted);
        drop(place);
        assert!(admission.admit(Duration::from_millis(20)).is_ok());
        assert_eq!(admission.under_way(), 0);
    }

    #[test]
    fn the_earliest_deadline_holds() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let due = |timeout, transport| deadline(now, ms(50), ms(1), timeout, transport) - now;
        assert_eq!(due(None, None), ms(49));
        assert_eq!(due(Some(ms(20)), Some(ms(30))), ms(19));
        assert_eq!(due(Some(ms(200)), Some(ms(10))), ms(9));
        assert_eq!(due(Some(Duration::from_micros(3)), None), Duration::ZERO);
    }

    #[test]
    fn timeouts_are_read_as_the_transport_writes_them() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&metadata)
        };
        assert_eq!(read("15m"), Some(Duration::from_millis(15)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        for wrong in ["", "m", "x9m", "9", "999999999m", "1q"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
