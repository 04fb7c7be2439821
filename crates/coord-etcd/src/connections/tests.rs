//! Connections that note who asked, and answer when they are told to.

use std::convert::Infallible;

use tokio::sync::oneshot;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::*;

/// Answers a request with the number of the connection, once its sender is used.
type Fake = BoxCloneSyncService<oneshot::Receiver<()>, usize, Infallible>;

fn fake(number: usize) -> Fake {
    let answer = move |told: oneshot::Receiver<()>| async move {
        let _ = told.await;
        Ok(number)
    };
    BoxCloneSyncService::new(service_fn(answer))
}

/// What the second dial gives.
fn second(there: bool) -> impl Future<Output = Result<Fake, BoxError>> + Send + 'static {
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
    let mut connections = Connections::new(fake(1), second(true));
    let made = under_way(&mut connections, FEW);
    assert!(
        matches!(*connections.shared.second.lock().unwrap(), Second::Dialled(_)),
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
    let mut connections = Connections::new(fake(1), second(true));
    drop(under_way(&mut connections, FEW));
    let made = under_way(&mut connections, FEW);
    assert_eq!(carriers(made).await, [1; FEW]);
}

#[tokio::test]
async fn nobody_waits_for_the_second_and_whoever_comes_by_helps_it_along() {
    let mut steps = 2;
    let slow = std::future::poll_fn(move |_| {
        if steps == 0 {
            return Poll::Ready(Ok::<_, BoxError>(fake(2)));
        }
        steps -= 1;
        Poll::Pending
    });
    let mut connections = Connections::new(fake(1), slow);
    let made = under_way(&mut connections, FEW + 3);
    assert_eq!(carriers(made).await, [1, 1, 1, 1, 1, 1, 2]);
}

#[tokio::test]
async fn second_that_cannot_be_had_is_done_without() {
    let mut connections = Connections::new(fake(1), second(false));
    for _ in 0..2 {
        let made = under_way(&mut connections, 3 * FEW);
        assert_eq!(carriers(made).await, [1; 3 * FEW]);
    }
}
