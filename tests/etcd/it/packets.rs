//! How often a member is written to, counted on the way: by a stranger between client and server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use coord_core::{KvBackendExt as _, Mutex};

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

/// An endpoint that leads to another, and how often something came for that one.
fn between(server: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let endpoint = listener.local_addr().expect("it was bound").to_string();
    let server = server.trim_start_matches("http://").to_owned();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    // They end with the connections.
    thread::spawn(move || -> io::Result<()> {
        loop {
            let (near, far) = (listener.accept()?.0, TcpStream::connect(&server)?);
            for socket in [&near, &far] {
                socket.set_nodelay(true)?;
            }
            let (back_from, back_to) = (far.try_clone()?, near.try_clone()?);
            let counted = Arc::clone(&counted);
            thread::spawn(move || hand_on(near, far, &counted));
            thread::spawn(move || hand_on(back_from, back_to, &AtomicUsize::new(0)));
        }
    });
    (endpoint, sent)
}

/// h2 alone makes three pieces of it, and four of a longer one: headers, message, its end, and the
/// answer to the ping that etcd sends with each answer of its own.
#[tokio::test]
async fn request_leaves_in_one_piece_and_the_answer_to_a_ping_in_another_at_most() {
    const TIMES: usize = 200;
    let server = single().await;
    let (endpoint, sent) = between(server[0].endpoint());
    let kv = client(&[endpoint]).await;
    let mutex = Mutex::new(&session(&kv, 60).await, "m");
    for (what, requests) in [("put", TIMES), ("lock and unlock", 2 * TIMES)] {
        sent.store(0, Ordering::Relaxed);
        for _ in 0..TIMES {
            if what == "put" {
                kv.put("a", "1").await.expect("the store is there");
            } else {
                let guard = mutex.lock().await.expect("the store is there");
                guard.unlock().await.expect("the store is there");
            }
        }
        let pieces = sent.load(Ordering::Relaxed);
        assert!(
            (requests..2 * requests + TIMES / 5).contains(&pieces),
            "{what}: {pieces} for {requests}"
        );
    }
}
