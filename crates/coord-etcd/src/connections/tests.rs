//! Connections that note who asked, and answer when they are told to.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::advance;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::*;

/// Answers a request with the number of the connection, once its sender is used; with an error if
/// that is dropped.
type Fake = BoxCloneSyncService<oneshot::Receiver<()>, usize, BoxError>;

fn fake(number: usize) -> Fake {
    let answer = move |told: oneshot::Receiver<()>| async move {
        told.await?;
        Ok(number)
    };
    BoxCloneSyncService::new(service_fn(answer))
}

/// What dialling the second gives.
fn second(there: bool) -> std::future::Ready<Result<Fake, BoxError>> {
    let dialled = if there { Ok(fake(2)) } else { Err("refused".into()) };
    std::future::ready(dialled)
}

/// A request that is made and not answered.
struct Made {
    answer: oneshot::Sender<()>,
    asked: BoxFuture<'static, Result<usize, BoxError>>,
}

/// So many of them.
fn under_way(connections: &mut Connections<Fake>, requests: usize) -> Vec<Made> {
    let make = |_| {
        let (answer, told) = oneshot::channel();
        let mut asked = connections.call(told);
        assert!(asked.as_mut().now_or_never().is_none(), "it is not answered yet");
        Made { answer, asked }
    };
    (0..requests).map(make).collect()
}

/// Which connections carried them, in order.
async fn carriers(made: Vec<Made>) -> Vec<usize> {
    let mut carriers = Vec::new();
    for Made { answer, asked } in made {
        answer.send(()).expect("somebody waits for it");
        carriers.push(asked.await.expect("it is answered"));
    }
    carriers
}

#[tokio::test]
async fn few_requests_take_the_first_and_what_exceeds_them_the_lesser_used() {
    let mut connections = Connections::new(fake(1), || second(true));
    let made = under_way(&mut connections, FEW);
    assert!(
        matches!(*connections.shared.second.lock().unwrap(), Second::Wanting(None)),
        "nor dialled"
    );
    let more = under_way(&mut connections, FEW + 2);
    assert_eq!(carriers(made).await, [1; FEW]);
    assert_eq!(carriers(more).await, [2, 2, 2, 2, 1, 2]);
    let few = under_way(&mut connections, FEW);
    assert_eq!(carriers(few).await, [1; FEW], "all had been answered");
}

#[tokio::test]
async fn request_that_is_dropped_is_not_under_way() {
    let mut connections = Connections::new(fake(1), || second(true));
    drop(under_way(&mut connections, FEW));
    let made = under_way(&mut connections, FEW);
    assert_eq!(carriers(made).await, [1; FEW]);
}

#[tokio::test]
async fn nobody_waits_for_the_second_and_whoever_comes_by_helps_it_along() {
    let slow = || {
        let mut steps = 2;
        std::future::poll_fn(move |_| {
            if steps == 0 {
                return Poll::Ready(Ok::<_, BoxError>(fake(2)));
            }
            steps -= 1;
            Poll::Pending
        })
    };
    let mut connections = Connections::new(fake(1), slow);
    let made = under_way(&mut connections, FEW + 3);
    assert_eq!(carriers(made).await, [1, 1, 1, 1, 1, 1, 2]);
}

#[tokio::test]
async fn second_that_cannot_be_had_is_done_without() {
    let mut connections = Connections::new(fake(1), || second(false));
    for _ in 0..2 {
        let made = under_way(&mut connections, 3 * FEW);
        assert_eq!(carriers(made).await, [1; 3 * FEW]);
    }
}

/// Who could not be reached in one moment, or had been dialled too slowly for want of anybody who
/// came by, was never dialled again.
#[tokio::test(start_paused = true)]
async fn second_that_could_not_be_had_is_dialled_again_after_a_while() {
    let there = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&there);
    let mut connections = Connections::new(fake(1), move || second(asked.load(Ordering::Relaxed)));
    let made = under_way(&mut connections, FEW + 1);
    there.store(true, Ordering::Relaxed);
    let more = under_way(&mut connections, 1);
    advance(PAUSE).await;
    let late = under_way(&mut connections, 1);
    assert_eq!(carriers(made).await, [1; FEW + 1]);
    assert_eq!((carriers(more).await, carriers(late).await), (vec![1], vec![2]));
}

/// A connection that breaks is dialled again by tonic, time after time and with each request that
/// is meant for it, while the first is there.
#[tokio::test(start_paused = true)]
async fn second_that_broke_is_done_without_for_a_while() {
    let mut connections = Connections::new(fake(1), || second(true));
    let made = under_way(&mut connections, FEW);
    for Made { answer, asked } in under_way(&mut connections, 2) {
        drop(answer);
        asked.await.expect_err("it breaks");
    }
    let more = under_way(&mut connections, 2);
    advance(PAUSE - Duration::from_millis(1)).await;
    let late = under_way(&mut connections, 1);
    advance(Duration::from_millis(1)).await;
    let again = under_way(&mut connections, 1);
    assert_eq!((carriers(made).await, carriers(more).await), (vec![1; FEW], vec![1, 1]));
    assert_eq!((carriers(late).await, carriers(again).await), (vec![1], vec![2]));
}
