//! Cancellation cases of `resume`: a dropped call changes nothing, so a second one finds all keys
//! of the former process.

use coord_core::recipes::{Barrier, DoubleBarrier, MultiLock, ResumedLock, RwLock, Semaphore};
use coord_core::{Mutex, Session};

use super::trial::{TTL, Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::keys;

#[test]
fn dropped_resume_calls_change_nothing() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    let on = "on an adopted lease";
    vec![
        Case::new(&["Mutex::resume"], on, mutex),
        Case::new(&["Semaphore::resume"], on, semaphore),
        Case::new(&["RwLock::resume"], on, rwlock),
        Case::new(&["MultiLock::resume"], on, multi_lock),
        Case::new(&["Barrier::resume"], on, barrier),
        Case::new(&["DoubleBarrier::resume"], on, double_barrier),
    ]
}

/// The session of the process under test, on the lease of `former`.
async fn adopt(t: &Trial, former: &Session) -> Session {
    let lease = former.orphan().await.unwrap();
    Session::builder(t.client()).ttl(TTL).lease(lease).open().await.unwrap()
}

/// Drops `resume` at the drop point, and calls it again if it has not completed.
async fn resumed<T, F>(t: &Trial, resume: impl Fn() -> F) -> T
where
    F: Future<Output = T> + Send,
{
    let resumed = t.drop_at_await(resume()).await;
    t.messages_arrive().await;
    match resumed {
        Some(resumed) => resumed,
        None => t.proceeds(resume()).await,
    }
}

/// No key is left except data of the case, although the session still lives.
async fn nothing_is_left(t: &Trial, adopter: &Session) {
    t.messages_arrive().await;
    let left = keys(t.other.client(), "").await;
    let is_data = |key: &String| key.starts_with("data/") || key.starts_with("coord/limit/data/");
    assert!(left.iter().all(is_data), "{left:?}");
    close(adopter).await;
}

async fn mutex(t: Trial) {
    let former = session_of(&t.holder).await;
    let held = Mutex::new(&former, "m").lock().await.unwrap();
    let adopter = adopt(&t, &former).await;
    let mutex = Mutex::new(&adopter, "m");
    let resumed = resumed(&t, || mutex.resume()).await.unwrap().unwrap();
    assert_eq!(resumed.fencing_token(), held.fencing_token());
    resumed.unlock().await.unwrap();
    nothing_is_left(&t, &adopter).await;
}

async fn semaphore(t: Trial) {
    let former = session_of(&t.holder).await;
    let _held = Semaphore::new(&former, "data/s", 2).acquire(2).await.unwrap();
    let adopter = adopt(&t, &former).await;
    let semaphore = Semaphore::new(&adopter, "data/s", 2);
    let mut resumed = resumed(&t, || semaphore.resume()).await.unwrap();
    resumed.remove(0).release().await.unwrap();
    assert_eq!(t.proceeds(semaphore.available()).await.unwrap(), 2);
    nothing_is_left(&t, &adopter).await;
    assert_eq!(keys(t.other.client(), "").await, ["coord/limit/data/s"]);
}

async fn rwlock(t: Trial) {
    let former = session_of(&t.holder).await;
    let held = RwLock::new(&former, "m").read().await.unwrap();
    let _held = held.upgrade().await.unwrap();
    let adopter = adopt(&t, &former).await;
    let lock = RwLock::new(&adopter, "m");
    let Some(ResumedLock::Write(writer)) = resumed(&t, || lock.resume()).await.unwrap() else {
        panic!("the writer's keys are on the lease")
    };
    writer.unlock().await.unwrap();
    nothing_is_left(&t, &adopter).await;
}

async fn multi_lock(t: Trial) {
    let former = session_of(&t.holder).await;
    let _held = MultiLock::new(&former, ["m", "n"]).unwrap().lock().await.unwrap();
    let adopter = adopt(&t, &former).await;
    let both = MultiLock::new(&adopter, ["m", "n"]).unwrap();
    let resumed = resumed(&t, || both.resume()).await.unwrap().unwrap();
    resumed.unlock().await.unwrap();
    nothing_is_left(&t, &adopter).await;
}

async fn barrier(t: Trial) {
    let former = session_of(&t.holder).await;
    let _held = Barrier::new(former.client(), "b").hold(&former).await.unwrap().unwrap();
    let adopter = adopt(&t, &former).await;
    let barrier = Barrier::new(t.client(), "b");
    let resumed = resumed(&t, || barrier.resume(&adopter)).await.unwrap().unwrap();
    resumed.release().await.unwrap();
    nothing_is_left(&t, &adopter).await;
}

async fn double_barrier(t: Trial) {
    let former = session_of(&t.holder).await;
    let _inside = DoubleBarrier::new(&former, "data/b", 1).unwrap().enter(1).await.unwrap();
    let adopter = adopt(&t, &former).await;
    let barrier = DoubleBarrier::new(&adopter, "data/b", 1).unwrap();
    let mut resumed = resumed(&t, || barrier.resume(1)).await.unwrap();
    t.proceeds(resumed.remove(0).leave()).await.unwrap();
    nothing_is_left(&t, &adopter).await;
    assert_eq!(keys(t.other.client(), "data/").await, ["data/b/state"]);
}
