//! Requests as bytes on a connection, so that a test says exactly what is sent.

use std::io::{Read, Write};

use flate2::{Compression, read, write};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::common::Server;

/// A request.
#[derive(Clone)]
pub(crate) struct Call {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Call {
    pub(crate) fn get(path: impl AsRef<str>) -> Self {
        Self::new("GET", path, "")
    }

    pub(crate) fn post(path: impl AsRef<str>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path, body)
    }

    fn new(method: &str, path: impl AsRef<str>, body: impl Into<Vec<u8>>) -> Self {
        let line = format!("{method} {} HTTP/1.1", path.as_ref());
        Self { line, headers: Vec::new(), body: body.into(), chunked: false }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub(crate) fn compressed(mut self, coding: &str) -> Self {
        let fast = Compression::fast();
        self.body = match coding {
            "gzip" => {
                let mut encoder = write::GzEncoder::new(Vec::new(), fast);
                encoder.write_all(&self.body).unwrap();
                encoder.finish().unwrap()
            }
            _ => {
                let mut encoder = write::ZlibEncoder::new(Vec::new(), fast);
                encoder.write_all(&self.body).unwrap();
                encoder.finish().unwrap()
            }
        };
        self.with("Content-Encoding", coding)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{}\r\nHost: test\r\n", self.line);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.chunked {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
            return [head.as_bytes(), &self.body].concat();
        }
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        let mut bytes = head.into_bytes();
        for chunk in self.body.chunks(1000) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }

    /// Sends it on a connection of its own, and waits for no answer.
    pub(crate) async fn write(&self, server: &Server) -> TcpStream {
        let mut stream = TcpStream::connect(&server.http).await.unwrap();
        stream.write_all(&self.bytes()).await.unwrap();
        stream
    }

    pub(crate) async fn send(&self, server: &Server) -> Answer {
        Answer::read(&mut BufReader::new(self.write(server).await)).await
    }
}

/// A request with binary data behind its JSON.
pub(crate) fn binary(path: &str, json: &serde_json::Value, data: &[u8]) -> Call {
    let json = json.to_string();
    let body = [json.as_bytes(), data].concat();
    Call::post(path, body).with("Inference-Header-Content-Length", json.len())
}

/// Sends a request so often before it reads the first answer.
pub(crate) async fn pipelined(server: &Server, call: &Call, times: usize) -> Vec<Answer> {
    let mut stream = BufReader::new(TcpStream::connect(&server.http).await.unwrap());
    stream.get_mut().write_all(&call.bytes().repeat(times)).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..times {
        answers.push(Answer::read(&mut stream).await);
    }
    answers
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    async fn read(stream: &mut BufReader<TcpStream>) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "no answer: {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines[1..].iter().map(|line| line.split_once(": ").unwrap());
        let headers =
            headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut answer = Self { status, headers, body: Vec::new() };
        let length = answer.header("content-length").expect("a length").parse().unwrap();
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).await.unwrap();
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(other, _)| other == name);
        header.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON, and what stands behind it.
    pub(crate) fn split(&self) -> (serde_json::Value, Vec<u8>) {
        assert_eq!(self.status, 200, "{}", self.text());
        let length = self.header("inference-header-content-length").expect("binary data");
        let (json, data) = self.body.split_at(length.parse().unwrap());
        (serde_json::from_slice(json).unwrap(), data.to_vec())
    }

    /// The same without its coding.
    pub(crate) fn decompressed(mut self, coding: &str) -> Self {
        let mut body = Vec::new();
        match coding {
            "gzip" => read::GzDecoder::new(&self.body[..]).read_to_end(&mut body).unwrap(),
            _ => read::ZlibDecoder::new(&self.body[..]).read_to_end(&mut body).unwrap(),
        };
        self.body = body;
        self
    }

    /// Checks that it is a refusal in the protocol's form.
    #[track_caller]
    pub(crate) fn is_refused(&self, status: u16, word: &str) {
        assert_eq!(self.status, status, "{word}: {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        let message = json["error"].as_str().unwrap();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        assert!(message.contains(word), "{word}: {message}");
    }
}
