//! How often a member is written to, and over how many connections, counted on the way: by a
//! stranger between client and server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use coord_core::{Client, Mutex};
use futures_util::future::try_join_all;

use crate::support::{client, session, single};

/// Hands on what comes, and counts how often something does.
fn hand_on(mut from: TcpStream, mut to: TcpStream, times: &AtomicUsize) -> io::Result<()> {
    let mut piece = [0; 64 * 1024];
    loop {
        let size = from.read(&mut piece)?;
        if size == 0 {
            return to.shutdown(Shutdown::Write);
        }
        times.fetch_add(1, Ordering::Relaxed);
        to.write_all(&piece[..size])?;
    }
}

/// What has come for a server.
#[derive(Default)]
struct Came {
    pieces: AtomicUsize,
    connections: AtomicUsize,
}

/// An endpoint that leads to another over so many connections at most, and what came for that one.
fn between(server: &str, connections_max: usize) -> (String, Arc<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let endpoint = listener.local_addr().expect("it was bound").to_string();
    let server = server.trim_start_matches("http://").to_owned();
    let came = Arc::new(Came::default());
    let counted = Arc::clone(&came);
    // They end with the connections.
    thread::spawn(move || -> io::Result<()> {
        for _ in 0..connections_max {
            let (near, far) = (listener.accept()?.0, TcpStream::connect(&server)?);
            counted.connections.fetch_add(1, Ordering::Relaxed);
            for socket in [&near, &far] {
                socket.set_nodelay(true)?;
            }
            let (back_from, back_to) = (far.try_clone()?, near.try_clone()?);
            let counted = Arc::clone(&counted);
            thread::spawn(move || hand_on(near, far, &counted.pieces));
            thread::spawn(move || hand_on(back_from, back_to, &AtomicUsize::new(0)));
        }
        // Whoever comes now is refused.
        Ok(())
    });
    (endpoint, came)
}

/// So many puts at a time, so many times. How many connections there have been by then.
async fn puts(kv: &Client, at_a_time: usize, times: usize, came: &Came) -> usize {
    for _ in 0..times {
        let puts = (0..at_a_time).map(|n| kv.put(format!("a{n}"), "1"));
        try_join_all(puts).await.expect("the store is there");
    }
    came.connections.load(Ordering::Relaxed)
}

#[tokio::test]
async fn few_requests_at_a_time_share_a_connection_and_many_have_two() {
    let server = single().await;
    let (endpoint, came) = between(server[0].endpoint(), usize::MAX);
    let kv = client(&[endpoint]).await;
    assert_eq!(puts(&kv, 4, 100, &came).await, 1);
    assert_eq!(puts(&kv, 100, 20, &came).await, 2);
}

#[tokio::test]
async fn second_connection_that_is_refused_is_done_without() {
    let server = single().await;
    let (endpoint, came) = between(server[0].endpoint(), 1);
    let kv = client(&[endpoint]).await;
    assert_eq!(puts(&kv, 100, 20, &came).await, 1);
}

/// h2 alone makes three pieces of it, and four of a longer one: headers, message, its end, and the
/// answer to the ping that etcd sends with each answer of its own.
#[tokio::test]
async fn request_leaves_in_one_piece_and_the_answer_to_a_ping_in_another_at_most() {
    const TIMES: usize = 200;
    let server = single().await;
    let (endpoint, came) = between(server[0].endpoint(), usize::MAX);
    let kv = client(&[endpoint]).await;
    let mutex = Mutex::new(&session(&kv, 60).await, "m");
    for (what, requests) in [("put", TIMES), ("lock and unlock", 2 * TIMES)] {
        came.pieces.store(0, Ordering::Relaxed);
        for _ in 0..TIMES {
            if what == "put" {
                kv.put("a", "1").await.expect("the store is there");
            } else {
                let guard = mutex.lock().await.expect("the store is there");
                guard.unlock().await.expect("the store is there");
            }
        }
        let pieces = came.pieces.load(Ordering::Relaxed);
        assert!(
            (requests..2 * requests + TIMES / 5).contains(&pieces),
            "{what}: {pieces} for {requests}"
        );
    }
}
