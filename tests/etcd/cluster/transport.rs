//! Tests of the adapter's transport: the number of packets and connections, counted by a proxy in
//! front of the server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use coord_core::{Client, Mutex};
use coord_etcd::EtcdBackend;
use futures_util::future::try_join_all;

use crate::support::{client, session, single_member};

/// The packets and connections that a server has received.
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

/// Starts a proxy that forwards to `server` and accepts `max_connections`. Returns its endpoint and
/// its counters.
fn start_counting_proxy(server: &str, max_connections: usize) -> (String, Arc<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let server = server.trim_start_matches("http://").to_owned();
    let received = Arc::new(Received::default());
    let counted = Arc::clone(&received);
    // This thread accepts `max_connections`, or runs until the process ends. The threads that
    // forward end with their connections.
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

/// Makes `rounds` times `concurrent` puts, and returns the number of connections then.
async fn connections_after_puts(
    client: &Client,
    concurrent: usize,
    rounds: usize,
    received: &Received,
) -> usize {
    for _ in 0..rounds {
        let puts = (0..concurrent).map(|n| client.put(format!("a{n}"), "1"));
        try_join_all(puts).await.unwrap();
    }
    received.connections.load(Ordering::Relaxed)
}

/// A client with up to `max` connections to its endpoint.
async fn client_with_connections(endpoint: String, max: usize) -> Client {
    let etcd = EtcdBackend::builder([endpoint]).connections(max).connect().await;
    Client::new(etcd.unwrap())
}

#[tokio::test]
async fn client_keeps_one_connection_by_default() {
    let server = single_member().await;
    let (endpoint, received) = start_counting_proxy(server[0].endpoint(), usize::MAX);
    let client = client(&[endpoint]).await;
    assert_eq!(connections_after_puts(&client, 100, 20, &received).await, 1);
}

#[tokio::test]
async fn busy_client_opens_as_many_connections_as_configured() {
    let server = single_member().await;
    for connections in [1, 2, 3] {
        let (endpoint, received) = start_counting_proxy(server[0].endpoint(), usize::MAX);
        let client = client_with_connections(endpoint, connections).await;
        assert_eq!(
            connections_after_puts(&client, 4, 100, &received).await,
            1,
            "four concurrent requests need one connection"
        );
        assert_eq!(connections_after_puts(&client, 100, 20, &received).await, connections);
    }
}

#[tokio::test]
async fn refused_second_connection_fails_no_request() {
    let server = single_member().await;
    let (endpoint, received) = start_counting_proxy(server[0].endpoint(), 1);
    let client = client_with_connections(endpoint, 2).await;
    assert_eq!(connections_after_puts(&client, 100, 20, &received).await, 1);
}

/// Without write coalescing, h2 sends three packets for a put and four for a longer request:
/// headers, message, end of stream, and the acknowledgement of the ping that etcd sends with each
/// response.
#[tokio::test]
async fn request_and_ping_acknowledgement_take_at_most_two_packets() {
    const ROUNDS: usize = 200;
    let server = single_member().await;
    let (endpoint, received) = start_counting_proxy(server[0].endpoint(), usize::MAX);
    let client = client(&[endpoint]).await;
    let mutex = Mutex::new(&session(&client, 60).await, "m");
    for (what, requests) in [("put", ROUNDS), ("lock and unlock", 2 * ROUNDS)] {
        received.packets.store(0, Ordering::Relaxed);
        for _ in 0..ROUNDS {
            if what == "put" {
                client.put("a", "1").await.unwrap();
            } else {
                let guard = mutex.lock().await.unwrap();
                guard.unlock().await.unwrap();
            }
        }
        let packets = received.packets.load(Ordering::Relaxed);
        assert!(
            (requests..2 * requests + ROUNDS / 5).contains(&packets),
            "{what}: {packets} for {requests}"
        );
    }
}
