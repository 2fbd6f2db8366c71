//! Content codings: gzip and deflate, of requests and of answers.

use std::io::{self, Read, Write};

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use flate2::{
    Compression,
    read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

use super::refusal::Refusal;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// What headers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// That of a request's body.
    ///
    /// # Errors
    ///
    /// One that is not known, or several: 415.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else {
            return Ok(None);
        };
        match value.to_str().map(str::trim) {
            Ok("" | "identity") => Ok(None),
            said => said.ok().and_then(Self::named).map(Some).ok_or_else(|| {
                Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("Content-Encoding {value:?} is not known; expected gzip or deflate"),
                )
            }),
        }
    }

    /// The one that the client likes best, if it asks for any.
    pub(super) fn asked(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::ACCEPT_ENCODING).iter();
        let entries = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        let mut best: Option<(f32, Self)> = None;
        for entry in entries {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let Some(coding) = Self::named(name.trim()) else { continue };
            let quality =
                parameters.split_once("q=").map_or(Some(1.0), |(_, q)| q.trim().parse().ok());
            let quality: f32 = quality.unwrap_or(0.0);
            if quality > 0.0 && best.is_none_or(|(other, _)| quality > other) {
                best = Some((quality, coding));
            }
        }
        best.map(|(_, coding)| coding)
    }

    /// Takes the coding off; at most `limit` bytes come out.
    ///
    /// # Errors
    ///
    /// The body is not so compressed (400), or too large without the coding (413).
    pub(super) fn decode(self, body: &Bytes, limit: usize) -> Result<Bytes, Refusal> {
        let take = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut decoded = Vec::with_capacity(body.len().saturating_mul(2).min(limit));
        let read = match self {
            Self::Gzip => MultiGzDecoder::new(&body[..]).take(take).read_to_end(&mut decoded),
            Self::Deflate if is_zlib(body) => {
                ZlibDecoder::new(&body[..]).take(take).read_to_end(&mut decoded)
            }
            // HTTP means zlib by it, and some clients send what the name says.
            Self::Deflate => DeflateDecoder::new(&body[..]).take(take).read_to_end(&mut decoded),
        };
        read.map_err(|error| {
            let what = format!("Content-Encoding is {}, but the body is not: {error}", self.name());
            Refusal::new(StatusCode::BAD_REQUEST, what)
        })?;
        if decoded.len() > limit {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the body has {} bytes and without its {} coding more than {limit}, which is \
                     max_message_bytes",
                    body.len(),
                    self.name()
                ),
            ));
        }
        Ok(decoded.into())
    }

    /// Compresses an answer, fast rather than small.
    ///
    /// # Errors
    ///
    /// None that is known of: it writes to memory.
    pub(super) fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let encoded = Vec::with_capacity(body.len() / 2 + 64);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(encoded, Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(encoded, Compression::fast());
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

/// By the two bytes in front (RFC 1950).
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_liked_coding_is_chosen_and_none_where_none_is_asked() {
        for (value, expected) in [
            ("gzip", Some(Coding::Gzip)),
            ("deflate, gzip", Some(Coding::Deflate)),
            ("deflate;q=0.5, gzip;q=0.8", Some(Coding::Gzip)),
            ("gzip; q=0, deflate", Some(Coding::Deflate)),
            ("gzip;q=0", None),
            ("br, zstd", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(
                Coding::asked(&headers(header::ACCEPT_ENCODING, value)),
                expected,
                "{value}"
            );
        }
        assert_eq!(Coding::asked(&HeaderMap::new()), None);
    }

    #[test]
    fn bodies_come_back() {
        let body = b"a body, a body, a body".repeat(99);
        for coding in [Coding::Gzip, Coding::Deflate] {
            let encoded = Bytes::from(coding.encode(&body).unwrap());
            assert!(encoded.len() < body.len());
            assert_eq!(coding.decode(&encoded, body.len()).unwrap(), body);
        }
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(&body).unwrap();
        let raw = Bytes::from(raw.finish().unwrap());
        assert_eq!(Coding::Deflate.decode(&raw, body.len()).unwrap(), body);
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = Bytes::from(Coding::Gzip.encode(&vec![0; 10 << 20]).unwrap());
        assert!(bomb.len() < 100_000);
        let refused = Coding::Gzip.decode(&bomb, 1 << 20).unwrap_err();
        assert!(format!("{refused:?}").contains("413"), "{refused:?}");
        assert!(format!("{refused:?}").contains("1048576"), "{refused:?}");
    }

    #[test]
    fn what_is_not_compressed_or_cut_is_refused() {
        let mut whole = Coding::Gzip.encode(b"{\"inputs\": []}").unwrap();
        whole.truncate(whole.len() - 3);
        for body in [Bytes::from_static(b"{\"inputs\": []}"), whole.into(), Bytes::new()] {
            let refused = Coding::Gzip.decode(&body, 100).unwrap_err();
            assert!(format!("{refused:?}").contains("400"), "{refused:?}");
        }
        let unknown = headers(header::CONTENT_ENCODING, "br");
        assert!(format!("{:?}", Coding::of_request(&unknown).unwrap_err()).contains("415"));
    }
}
