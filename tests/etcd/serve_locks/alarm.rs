//! What is refused while an alarm is raised: what needs room, or every change.

use etcd_client::proto::PbLeaderKey;
use etcd_client::{AlarmAction, AlarmType, Client};

use crate::place::{Call, DONE, Peer, Place, REFUSED, Refusal, THERE, soon, unknown, value};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";

pub(crate) async fn without_space_nobody_comes_and_whoever_is_there_may_go(place: Place) {
    let peer = place.peer().await;
    let [lease, waiting, other] =
        [peer.grant(60).await, peer.grant(60).await, peer.grant(60).await];
    let (leader, _) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    let (held, _) = peer.lock("printer", lease).await.expect(DONE);
    let waiter = peer.clone();
    let waiter = Call::begin(async move { waiter.lock("printer", waiting).await });
    peer.until_there_are(2, "printer/").await;

    set(&place, AlarmAction::Activate, AlarmType::Nospace).await;
    for named in [lease, other, 0] {
        refuses_to_come(&peer, named, NO_SPACE).await;
    }
    let refused = peer.proclaim(Some(&leader), "still me").await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NO_SPACE));
    // Nobody looks whether it leads.
    let nobody = PbLeaderKey { rev: 1, ..leader.clone() };
    let refused = peer.proclaim(Some(&nobody), "me").await.expect_err(REFUSED);
    assert_eq!(refused, unknown(NO_SPACE));
    assert_eq!(value(&peer.leader("jobs").await.expect(DONE).0), "me");
    peer.unlock(held).await.expect(DONE);
    soon(waiter.answer()).await.expect(DONE);
    peer.resign(Some(&leader)).await.expect(DONE);

    set(&place, AlarmAction::Deactivate, AlarmType::Nospace).await;
    peer.campaign("jobs", "me", other).await.expect(DONE);
}

pub(crate) async fn of_a_corrupt_store_nothing_is_changed(place: Place) {
    let peer = place.peer().await;
    let [lease, other] = [peer.grant(60).await, peer.grant(60).await];
    let (leader, entered) = peer.campaign("jobs", "me", lease).await.expect(DONE);
    set(&place, AlarmAction::Activate, AlarmType::Corrupt).await;
    for named in [lease, other, 0] {
        refuses_to_come(&peer, named, CORRUPT).await;
    }
    let corrupt = |result: Result<i64, Refusal>| {
        assert_eq!(result.expect_err(REFUSED), unknown(CORRUPT));
    };
    corrupt(peer.proclaim(Some(&leader), "still me").await);
    corrupt(peer.resign(Some(&leader)).await);
    corrupt(peer.unlock(&*leader.key).await);
    let (kv, revision) = peer.leader("jobs").await.expect(DONE);
    assert_eq!((value(&kv), revision), ("me", entered));
    set(&place, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    peer.resign(Some(&leader)).await.expect(DONE);
}

/// Neither a lock nor a campaign is let in, on this lease or, if it is 0, on a new one.
async fn refuses_to_come(peer: &Peer, lease: i64, message: &str) {
    let before = peer.keys("").await;
    assert_eq!(peer.lock("jobs", lease).await.expect_err(REFUSED), unknown(message));
    assert_eq!(peer.lock("free", lease).await.expect_err(REFUSED), unknown(message));
    let refused = peer.campaign("jobs", "me", lease).await.expect_err(REFUSED);
    assert_eq!(refused, unknown(message));
    assert_eq!(peer.keys("").await, before);
}

async fn set(place: &Place, action: AlarmAction, alarm: AlarmType) {
    let mut client = Client::connect([place.endpoint()], None).await.expect(THERE);
    client.alarm(action, alarm, None).await.expect(DONE);
}
