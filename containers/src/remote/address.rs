//! Where a container listens.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::error::ContainerError;

/// Where a container listens: `host:port`, or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host's name or address, and a port.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        let wrong = || {
            ContainerError::Invalid(format!(
                "address '{text}': expected host:port, or unix:/path of a socket"
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        // A scheme, a path, or an IPv6 address without brackets.
        let bare = host.starts_with('[') || !host.contains(':');
        if host.is_empty() || port == 0 || !bare || host.contains('/') {
            return Err(wrong());
        }
        Ok(Self::Tcp(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["localhost:80", "10.0.0.1:9000", "[::1]:7400", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///a".parse::<Address>().unwrap(), Address::Unix("/a".into()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is() {
        for text in
            ["", "host", ":80", "host:0", "host:99999", "http://host:80", "unix:rel", "::1:80"]
        {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("expected host:port"), "{text}: {error}");
        }
    }
}
