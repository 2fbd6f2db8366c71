//! Redis with pipelining: through the product's client, and on a bare socket, as `redis-benchmark -P`
//! does it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use skysail_cache::store::redis::RedisAddresses;

use crate::process::RedisProcess;

/// Commands per second, one entry per repeat.
#[derive(Debug, Default, Serialize)]
pub struct Pipelining {
    /// On a bare socket.
    pub raw_per_s: Vec<f64>,
    /// Through the client that cache and state use.
    pub client_per_s: Vec<f64>,
}

/// Commands of a pipeline.
const PIPELINE: usize = 64;
/// Bytes of a value.
const VALUE: usize = 300;
const KEY: &str = "skysail-bench";
/// A command may wait so long for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn measure(
    folder: &Path,
    repeats: usize,
    block: Duration,
) -> anyhow::Result<Pipelining> {
    let redis = RedisProcess::start(folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut raw = Raw::connect(&redis.address)?;
    raw.ask(&command(&["SET", KEY, &"v".repeat(VALUE)]), b"+OK\r\n".len())?;
    let addresses: RedisAddresses = format!("redis://{}", redis.address).parse()?;
    let mut client = runtime.block_on(addresses.target(PATIENCE)?.connect())?;
    let mut pipelining = Pipelining::default();
    for _ in 0..repeats.max(1) {
        pipelining.raw_per_s.push(raw.gets_per_s(block)?);
        let begun = Instant::now();
        let mut answered = 0;
        while begun.elapsed() < block {
            let gets = (0..PIPELINE).map(|_| redis::cmd("GET").arg(KEY).take()).collect();
            let values = runtime.block_on(client.send::<Vec<u8>>(gets))?;
            for value in values {
                ensure!(value?.len() == VALUE, "Redis answers another value");
                answered += 1;
            }
        }
        pipelining.client_per_s.push(f64::from(answered) / begun.elapsed().as_secs_f64());
    }
    Ok(pipelining)
}

/// A command as Redis reads it.
fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes.into_bytes()
}

struct Raw {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Raw {
    fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("connecting to redis-server")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Sends, and reads so many bytes of answer.
    fn ask(&mut self, bytes: &[u8], answer: usize) -> anyhow::Result<&[u8]> {
        self.stream.write_all(bytes)?;
        self.answer.resize(answer, 0);
        self.stream.read_exact(&mut self.answer)?;
        Ok(&self.answer)
    }

    fn gets_per_s(&mut self, block: Duration) -> anyhow::Result<f64> {
        let pipeline = command(&["GET", KEY]).repeat(PIPELINE);
        let head = format!("${VALUE}\r\n");
        let length = (head.len() + VALUE + 2) * PIPELINE;
        let begun = Instant::now();
        let mut answered = 0;
        while begun.elapsed() < block {
            let answer = self.ask(&pipeline, length)?;
            ensure!(answer.starts_with(head.as_bytes()), "Redis answers another value");
            answered += PIPELINE;
        }
        Ok(answered as f64 / begun.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn a_command_is_an_array_of_strings() {
        assert_eq!(command(&["GET", "key"]), b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    }
}
