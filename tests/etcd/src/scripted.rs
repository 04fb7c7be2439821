//! A scripted HTTP/2 server: sends the frames that a test chooses, for endpoints that are not etcd.
//!
//! Such an endpoint may be a proxy, which responds for a dead member, ends connections by its own
//! rules and limits streams. No HTTP library lets a server do that frame by frame, so this server
//! writes the frames itself (RFC 9113). Of a request it parses only what tests need: the
//! connection, the stream and the first message.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The first message of a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScriptedRequest {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The id of the HTTP/2 stream: 1, 3, 5 and so on.
    pub stream: u32,
    /// The number of earlier requests on all connections.
    pub number: usize,
    /// The message as it was sent, without its gRPC prefix.
    pub message: Vec<u8>,
}

/// An action of the server in response to a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ScriptedResponse {
    /// An HTTP status, and a page of this content type.
    Page(u16, &'static str),
    /// A gRPC status.
    Grpc(u8, &'static str),
    /// A gRPC response that consists of this message.
    Message(&'static [u8]),
    /// HTTP status 200 with gRPC's content type, without a message and without a status.
    Empty,
    /// RST_STREAM with this error code.
    Reset(u32),
    /// GOAWAY with the last stream id and the error code. Other streams are served as before.
    GoAway(u32, u32),
    /// Closes the connection.
    Hangup,
}

impl ScriptedResponse {
    /// A valid response to each unary request: a header at revision 1.
    pub const VALID: Self = Self::Message(&[0x0a, 0x06, 0x08, 1, 0x10, 1, 0x18, 1]);
}

type Script = Arc<dyn Fn(&ScriptedRequest) -> Vec<ScriptedResponse> + Send + Sync>;

/// A scripted server on a port of this machine. Dropping it closes its connections.
#[derive(Debug)]
#[must_use = "the server stops when it is dropped"]
pub struct ScriptedServer {
    endpoint: String,
    accepting: JoinSet<()>,
}

impl ScriptedServer {
    /// Starts a server that calls `script` for each request and executes the actions in order.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(
        script: impl Fn(&ScriptedRequest) -> Vec<ScriptedResponse> + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        let requests = Arc::new(AtomicUsize::new(0));
        Self::serve(move |connection, socket| {
            let connection = Connection {
                connection,
                socket,
                script: Arc::clone(&script),
                requests: Arc::clone(&requests),
                messages: BTreeMap::new(),
            };
            async move { connection.run().await }
        })
        .await
    }

    /// Starts a server that supports only HTTP/1.1 and responds with this status line.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start_http1(status: &'static str) -> Self {
        Self::serve(move |_, mut socket| async move {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            socket.read_u8().await?;
            socket.write_all(head.as_bytes()).await
        })
        .await
    }

    async fn serve<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the machine has free ports");
        let endpoint = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let Ok((socket, _)) = listener.accept().await else { return };
                connections.spawn(serve(connection, socket));
            }
        });
        Self { endpoint, accepting }
    }

    /// The URL of the server.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Stops the server. Its port stays closed.
    pub fn stop(&mut self) {
        self.accepting.abort_all();
    }
}

struct Connection {
    connection: usize,
    socket: TcpStream,
    script: Script,
    requests: Arc<AtomicUsize>,
    /// The received part of the first message of each stream without a response.
    messages: BTreeMap<u32, Vec<u8>>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        let mut preface = [0; 24];
        self.socket.read_exact(&mut preface).await?;
        self.write(SETTINGS, 0, 0, &[]).await?;
        loop {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let stream = u32::from_be_bytes(stream);
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.socket.read_exact(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await?,
                PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await?,
                HEADERS => drop(self.messages.insert(stream, Vec::new())),
                DATA => self.data(stream, &payload).await?,
                _ => {}
            }
        }
    }

    async fn data(&mut self, stream: u32, payload: &[u8]) -> io::Result<()> {
        let Some(message) = self.messages.get_mut(&stream) else { return Ok(()) };
        message.extend_from_slice(payload);
        let [_, a, b, c, d, rest @ ..] = &message[..] else { return Ok(()) };
        if rest.len() < u32::from_be_bytes([*a, *b, *c, *d]) as usize {
            return Ok(());
        }
        let request = ScriptedRequest {
            connection: self.connection,
            stream,
            number: self.requests.fetch_add(1, Ordering::Relaxed),
            message: rest.to_vec(),
        };
        self.messages.remove(&stream);
        for response in (self.script)(&request) {
            self.respond(stream, response).await?;
        }
        Ok(())
    }

    async fn respond(&mut self, stream: u32, response: ScriptedResponse) -> io::Result<()> {
        match response {
            ScriptedResponse::Page(status, kind) => {
                let headers = [(":status", &*status.to_string()), ("content-type", kind)];
                self.headers(stream, 0, &headers).await?;
                self.write(DATA, END_STREAM, stream, b"<html>an error page</html>").await
            }
            ScriptedResponse::Grpc(code, message) => {
                let code = code.to_string();
                let status = [("grpc-status", &*code), ("grpc-message", message)];
                self.headers(stream, END_STREAM, &[&GRPC[..], &status[..]].concat()).await
            }
            ScriptedResponse::Message(message) => {
                self.headers(stream, 0, &GRPC).await?;
                let length =
                    u32::try_from(message.len()).expect("a test message is short").to_be_bytes();
                let framed = [&[0], &length[..], message].concat();
                self.write(DATA, 0, stream, &framed).await?;
                self.headers(stream, END_STREAM, &[("grpc-status", "0")]).await
            }
            ScriptedResponse::Empty => self.headers(stream, END_STREAM, &GRPC).await,
            ScriptedResponse::Reset(code) => {
                self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await
            }
            ScriptedResponse::GoAway(last, code) => {
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                self.write(GOAWAY, 0, 0, &payload).await
            }
            ScriptedResponse::Hangup => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Writes headers as literals without indexing (RFC 7541, section 6.2.2).
    async fn headers(
        &mut self,
        stream: u32,
        flags: u8,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(0);
            for text in [name, value] {
                // A length below 127 is encoded in one byte.
                block.push(u8::try_from(text.len()).expect("a test message is short"));
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.write(HEADERS, flags | END_HEADERS, stream, &block).await
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let [_, a, b, c] =
            u32::try_from(payload.len()).expect("a test message is short").to_be_bytes();
        let head = [a, b, c, kind, flags];
        let frame = [&head[..], &stream.to_be_bytes(), payload].concat();
        self.socket.write_all(&frame).await
    }
}

const GRPC: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
