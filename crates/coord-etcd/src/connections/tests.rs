//! Tests of the connection pool, over services that respond when the test permits it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::advance;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::*;

/// A connection whose request is a receiver. It responds with its number when the sender of the
/// request sends, and with an error when the sender is dropped.
type FakeConnection = BoxCloneSyncService<oneshot::Receiver<()>, usize, BoxError>;

fn fake(number: usize) -> FakeConnection {
    let respond = move |permitted: oneshot::Receiver<()>| async move {
        permitted.await?;
        Ok(number)
    };
    BoxCloneSyncService::new(service_fn(respond))
}

/// A pool whose connections are numbered in the order of their dials, from 1 on.
fn connections(max: usize) -> Connections<FakeConnection> {
    let dialled = AtomicUsize::new(1);
    let dial = move || std::future::ready(Ok::<_, BoxError>(fake(next(&dialled))));
    Connections::new(fake(1), max - 1, dial)
}

fn next(dialled: &AtomicUsize) -> usize {
    dialled.fetch_add(1, Ordering::Relaxed) + 1
}

/// A request without a response.
struct Pending {
    permit: oneshot::Sender<()>,
    response: BoxFuture<'static, Result<usize, BoxError>>,
}

/// Makes requests one after the other. A dial that a request starts ends before the next request.
async fn requests(connections: &mut Connections<FakeConnection>, count: usize) -> Vec<Pending> {
    let mut requests = Vec::new();
    for _ in 0..count {
        let (permit, permitted) = oneshot::channel();
        let mut response = connections.call(permitted);
        assert!(response.as_mut().now_or_never().is_none(), "no response is permitted yet");
        requests.push(Pending { permit, response });
        yield_now().await;
    }
    requests
}

/// The numbers of the connections that carried the requests.
async fn carriers(requests: Vec<Pending>) -> Vec<usize> {
    let mut carriers = Vec::new();
    for Pending { permit, response } in requests {
        permit.send(()).expect("the request waits");
        carriers.push(response.await.expect("there is a response"));
    }
    carriers
}

fn is_dialing(connections: &Connections<FakeConnection>) -> bool {
    !connections.shared.further().dialing.is_empty()
}

#[tokio::test]
async fn second_connection_is_used_when_the_first_is_busy() {
    let mut connections = connections(2);
    let few = requests(&mut connections, BUSY_REQUESTS).await;
    assert!(!is_dialing(&connections), "four requests need one connection");
    let more = requests(&mut connections, BUSY_REQUESTS + 3).await;
    assert_eq!(carriers(few).await, [1; BUSY_REQUESTS]);
    assert_eq!(carriers(more).await, [1, 2, 2, 2, 2, 2, 1]);
    let few = requests(&mut connections, BUSY_REQUESTS).await;
    assert_eq!(carriers(few).await, [1; BUSY_REQUESTS], "the earlier requests have ended");
}

#[tokio::test]
async fn further_connections_are_dialled_up_to_the_limit() {
    let mut connections = connections(3);
    let pending = requests(&mut connections, 4 * BUSY_REQUESTS).await;
    let expected = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 1];
    assert_eq!(carriers(pending).await, expected);
    assert_eq!(connections.shared.further().open.len(), 2);
}

#[tokio::test]
async fn dropped_request_is_not_in_flight() {
    let mut connections = connections(2);
    drop(requests(&mut connections, BUSY_REQUESTS).await);
    let few = requests(&mut connections, BUSY_REQUESTS).await;
    assert_eq!(carriers(few).await, [1; BUSY_REQUESTS]);
}

#[tokio::test]
async fn requests_do_not_wait_for_a_dial() {
    let (accept, dialled) = oneshot::channel::<()>();
    let dialled = dialled.shared();
    let dial = move || dialled.clone().map(|_| Ok::<_, BoxError>(fake(2)));
    let mut connections = Connections::new(fake(1), 1, dial);
    let before = requests(&mut connections, 2 * BUSY_REQUESTS).await;
    assert!(is_dialing(&connections));
    accept.send(()).expect("the dial waits");
    yield_now().await;
    let after = requests(&mut connections, 1).await;
    assert_eq!(carriers(before).await, [1; 2 * BUSY_REQUESTS]);
    assert_eq!(carriers(after).await, [2]);
}

/// Regression: after a failed dial, the second connection was never dialled again.
#[tokio::test(start_paused = true)]
async fn failed_dial_is_repeated_after_ten_seconds() {
    let (is_up, dials) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (up, counted) = (Arc::clone(&is_up), Arc::clone(&dials));
    let dial = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let dialled = if up.load(Ordering::Relaxed) { Ok(fake(2)) } else { Err("refused") };
        std::future::ready(dialled)
    };
    let mut connections = Connections::new(fake(1), 1, dial);
    let down = requests(&mut connections, 3 * BUSY_REQUESTS).await;
    assert_eq!(dials.load(Ordering::Relaxed), 1, "no dial for each request");
    is_up.store(true, Ordering::Relaxed);
    advance(REDIAL_AFTER - Duration::from_millis(1)).await;
    let early = requests(&mut connections, 2).await;
    advance(Duration::from_millis(1)).await;
    let late = requests(&mut connections, 2).await;
    assert_eq!(carriers(down).await, [1; 3 * BUSY_REQUESTS]);
    assert_eq!(carriers(early).await, [1, 1]);
    assert_eq!(carriers(late).await, [1, 2], "the first of them starts the dial");
}

/// Regression: requests were sent on a broken connection, which tonic redials for each of them,
/// while another connection was open.
#[tokio::test(start_paused = true)]
async fn broken_connection_is_not_used_for_ten_seconds() {
    let mut connections = connections(2);
    let busy = requests(&mut connections, BUSY_REQUESTS + 1).await;
    for Pending { permit, response } in requests(&mut connections, 2).await {
        drop(permit);
        response.await.expect_err("the second connection breaks");
    }
    let without = requests(&mut connections, 2).await;
    advance(REDIAL_AFTER - Duration::from_millis(1)).await;
    let early = requests(&mut connections, 1).await;
    advance(Duration::from_millis(1)).await;
    let late = requests(&mut connections, 2).await;
    assert_eq!(carriers(busy).await, [1; BUSY_REQUESTS + 1]);
    assert_eq!((carriers(without).await, carriers(early).await), (vec![1, 1], vec![1]));
    assert_eq!(carriers(late).await, [1, 3], "the first of them starts the dial");
}
