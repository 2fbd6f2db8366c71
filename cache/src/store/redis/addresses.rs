//! Where Redis is.

use std::{fmt, str::FromStr, time::Duration};

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::link::{PATIENCE, RedisTarget};

/// Where Redis is: one address, or several nodes of a Redis Cluster with commas between them.
///
/// `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS, `unix:///path`.
#[derive(Clone)]
pub struct RedisAddresses(Vec<ConnectionInfo>);

/// Addresses that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("expected {}, got {why}", RedisAddresses::EXPECTED)]
pub struct RedisAddressError {
    /// Which of them is wrong, and how. Not the address itself, in which a password may stand.
    pub why: String,
}

impl RedisAddresses {
    /// What an address looks like.
    pub const EXPECTED: &str = "redis://[user:password@]host[:port][/database], rediss://… for \
        TLS, or unix:///path; with commas between the nodes of a Redis Cluster";

    /// What can be connected to, by a deadline of `patience` for connecting and for each answer.
    ///
    /// # Errors
    ///
    /// The addresses do not go together.
    pub fn target(&self, patience: Duration) -> Result<RedisTarget, RedisAddressError> {
        RedisTarget::new(&self.0, patience).map_err(|error| why("what cannot be used", error))
    }

    /// Each of them.
    pub fn nodes(&self) -> &[ConnectionInfo] {
        &self.0
    }
}

impl FromStr for RedisAddresses {
    type Err = RedisAddressError;

    fn from_str(text: &str) -> Result<Self, RedisAddressError> {
        let mut addresses = Vec::new();
        for (index, address) in text.split(',').enumerate() {
            let info = address.trim().into_connection_info();
            let wrong = |error| why(&format!("number {} that is none", index + 1), error);
            addresses.push(info.map_err(wrong)?);
        }
        let addresses = Self(addresses);
        addresses.target(PATIENCE)?;
        Ok(addresses)
    }
}

fn why(which: &str, error: redis::RedisError) -> RedisAddressError {
    RedisAddressError { why: format!("{which}: {error}") }
}

/// Without user and password.
impl fmt::Display for RedisAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, info) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", info.addr())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddresses({self})")
    }
}
