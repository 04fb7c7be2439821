//! Calls while an alarm is raised: a NOSPACE alarm rejects acquiring, a CORRUPT alarm every write.

use etcd_client::proto::PbLeaderKey;
use etcd_client::{AlarmAction, AlarmType, Client};

use crate::target::{Rejection, ServiceClient, Target, unknown_status, value, within_20_s};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";

pub(crate) async fn nospace_alarm_rejects_acquire_but_not_release(target: Target) {
    let client = target.client().await;
    let [lease, waiting, other] =
        [client.grant(60).await, client.grant(60).await, client.grant(60).await];
    let (leader, _) = client.campaign("jobs", "me", lease).await.unwrap();
    let (held, _) = client.lock("printer", lease).await.unwrap();
    let waiter = client.start_lock("printer", waiting, 2).await;

    set_alarm(&target, AlarmAction::Activate, AlarmType::Nospace).await;
    for named in [lease, other, 0] {
        assert_acquire_rejected(&client, named, NO_SPACE).await;
    }
    let rejected = client.proclaim(Some(&leader), "still me").await.unwrap_err();
    assert_eq!(rejected, unknown_status(NO_SPACE));
    // The alarm is checked before the leader key.
    let stale = PbLeaderKey { rev: 1, ..leader.clone() };
    let rejected = client.proclaim(Some(&stale), "me").await.unwrap_err();
    assert_eq!(rejected, unknown_status(NO_SPACE));
    assert_eq!(value(&client.leader("jobs").await.unwrap().0), "me");
    client.unlock(held).await.unwrap();
    within_20_s(waiter.response()).await.unwrap();
    client.resign(Some(&leader)).await.unwrap();

    set_alarm(&target, AlarmAction::Deactivate, AlarmType::Nospace).await;
    client.campaign("jobs", "me", other).await.unwrap();
}

pub(crate) async fn corrupt_alarm_rejects_every_write(target: Target) {
    let client = target.client().await;
    let [lease, other] = [client.grant(60).await, client.grant(60).await];
    let (leader, entered) = client.campaign("jobs", "me", lease).await.unwrap();
    set_alarm(&target, AlarmAction::Activate, AlarmType::Corrupt).await;
    for named in [lease, other, 0] {
        assert_acquire_rejected(&client, named, CORRUPT).await;
    }
    let assert_corrupt = |result: Result<i64, Rejection>| {
        assert_eq!(result.unwrap_err(), unknown_status(CORRUPT));
    };
    assert_corrupt(client.proclaim(Some(&leader), "still me").await);
    assert_corrupt(client.resign(Some(&leader)).await);
    assert_corrupt(client.unlock(&*leader.key).await);
    let (kv, revision) = client.leader("jobs").await.unwrap();
    assert_eq!((value(&kv), revision), ("me", entered));
    set_alarm(&target, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    client.resign(Some(&leader)).await.unwrap();
}

/// Asserts that locking and campaigning are rejected, on this lease or, if it is 0, without a
/// lease.
async fn assert_acquire_rejected(client: &ServiceClient, lease: i64, message: &str) {
    let before = client.keys("").await;
    assert_eq!(client.lock("jobs", lease).await.unwrap_err(), unknown_status(message));
    assert_eq!(client.lock("free", lease).await.unwrap_err(), unknown_status(message));
    let rejected = client.campaign("jobs", "me", lease).await.unwrap_err();
    assert_eq!(rejected, unknown_status(message));
    assert_eq!(client.keys("").await, before);
}

async fn set_alarm(target: &Target, action: AlarmAction, alarm: AlarmType) {
    let mut client = Client::connect([target.endpoint()], None).await.unwrap();
    client.alarm(action, alarm, None).await.unwrap();
}
