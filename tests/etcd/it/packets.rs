//! Tests of the transport: how many packets and connections a member receives, counted by a proxy
//! between client and server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use coord_core::{Client, Mutex};
use coord_etcd::EtcdBackend;
use futures_util::future::try_join_all;

use crate::support::{client, session, single};

/// What a server has received.
#[derive(Default)]
struct Received {
    packets: AtomicUsize,
    connections: AtomicUsize,
}

/// Forwards one direction of a connection, and counts the reads.
fn forward(mut from: TcpStream, mut to: TcpStream, reads: &AtomicUsize) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        let size = from.read(&mut buffer)?;
        if size == 0 {
            return to.shutdown(Shutdown::Write);
        }
        reads.fetch_add(1, Ordering::Relaxed);
        to.write_all(&buffer[..size])?;
    }
}

/// An endpoint that forwards to `server` and accepts up to `max_connections`.
fn counting_proxy(server: &str, max_connections: usize) -> (String, Arc<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let endpoint = listener.local_addr().expect("it was bound").to_string();
    let server = server.trim_start_matches("http://").to_owned();
    let received = Arc::new(Received::default());
    let counted = Arc::clone(&received);
    // The threads end with their connections.
    thread::spawn(move || -> io::Result<()> {
        for _ in 0..max_connections {
            let (near, far) = (listener.accept()?.0, TcpStream::connect(&server)?);
            counted.connections.fetch_add(1, Ordering::Relaxed);
            for socket in [&near, &far] {
                socket.set_nodelay(true)?;
            }
            let (back_from, back_to) = (far.try_clone()?, near.try_clone()?);
            let counted = Arc::clone(&counted);
            thread::spawn(move || forward(near, far, &counted.packets));
            thread::spawn(move || forward(back_from, back_to, &AtomicUsize::new(0)));
        }
        // Later connections are refused.
        Ok(())
    });
    (endpoint, received)
}

/// Makes `rounds` times `concurrent` puts, and returns the number of connections after that.
async fn puts(client: &Client, concurrent: usize, rounds: usize, received: &Received) -> usize {
    for _ in 0..rounds {
        let puts = (0..concurrent).map(|n| client.put(format!("a{n}"), "1"));
        try_join_all(puts).await.expect("the store is there");
    }
    received.connections.load(Ordering::Relaxed)
}

/// A client with at most so many connections to a member.
async fn client_with_connections(endpoint: String, max: usize) -> Client {
    let etcd = EtcdBackend::builder([endpoint]).connections(max).connect().await;
    Client::new(etcd.expect("the store is there"))
}

#[tokio::test]
async fn client_keeps_one_connection_by_default() {
    let server = single().await;
    let (endpoint, received) = counting_proxy(server[0].endpoint(), usize::MAX);
    let client = client(&[endpoint]).await;
    assert_eq!(puts(&client, 100, 20, &received).await, 1);
}

#[tokio::test]
async fn busy_client_opens_as_many_connections_as_configured() {
    let server = single().await;
    for connections in [1, 2, 3] {
        let (endpoint, received) = counting_proxy(server[0].endpoint(), usize::MAX);
        let client = client_with_connections(endpoint, connections).await;
        assert_eq!(puts(&client, 4, 100, &received).await, 1, "four requests need one");
        assert_eq!(puts(&client, 100, 20, &received).await, connections);
    }
}

#[tokio::test]
async fn refused_second_connection_fails_no_request() {
    let server = single().await;
    let (endpoint, received) = counting_proxy(server[0].endpoint(), 1);
    let client = client_with_connections(endpoint, 2).await;
    assert_eq!(puts(&client, 100, 20, &received).await, 1);
}

/// Without write coalescing h2 sends three packets for a put, and four for a longer request:
/// headers, message, end of stream, and the acknowledgement of the ping that etcd sends with each
/// response.
#[tokio::test]
async fn request_and_ping_acknowledgement_take_at_most_two_packets() {
    const TIMES: usize = 200;
    let server = single().await;
    let (endpoint, received) = counting_proxy(server[0].endpoint(), usize::MAX);
    let client = client(&[endpoint]).await;
    let mutex = Mutex::new(&session(&client, 60).await, "m");
    for (what, requests) in [("put", TIMES), ("lock and unlock", 2 * TIMES)] {
        received.packets.store(0, Ordering::Relaxed);
        for _ in 0..TIMES {
            if what == "put" {
                client.put("a", "1").await.expect("the store is there");
            } else {
                let guard = mutex.lock().await.expect("the store is there");
                guard.unlock().await.expect("the store is there");
            }
        }
        let packets = received.packets.load(Ordering::Relaxed);
        assert!(
            (requests..2 * requests + TIMES / 5).contains(&packets),
            "{what}: {packets} for {requests}"
        );
    }
}
