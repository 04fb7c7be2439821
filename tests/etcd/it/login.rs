//! Users and passwords.

use coord_core::{
    Client, Election, Mutex, Session,
    error::{ErrorKind, PrimitiveError},
    kv::{LeaseGrant, LeaseTimeToLive, Put, Txn, Watch},
    session::SessionState,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::Cluster;
use etcd_client::{ConnectOptions, Permission, PermissionType, RoleRevokePermissionOptions};
use tokio::time::timeout;

use crate::support::{client, refused, secs, session, single};

/// The user `app`, who may do as she likes under `app/`.
const APP: &[(&str, &str)] = &[("app", "app/")];

/// A server with the users `root` and `app`.
async fn with_users() -> Cluster {
    let server = single().await;
    set_up(&server, APP).await.expect("a fresh server takes users");
    server
}

/// Adds `root`, and users who may do as they like under a prefix, each with the same password.
async fn set_up(server: &Cluster, users: &[(&str, &str)]) -> Result<(), etcd_client::Error> {
    let client = etcd_client::Client::connect(server.endpoints(), None).await?;
    let mut auth = client.auth_client();
    for user in users.iter().map(|(user, _)| *user).chain(["root"]) {
        auth.user_add(user, "secret", None).await?;
        auth.role_add(user).await?;
        auth.user_grant_role(user, user).await?;
    }
    for (user, prefix) in users {
        let own = Permission::new(PermissionType::Readwrite, *prefix).with_prefix();
        auth.role_grant_permission(*user, own).await?;
    }
    auth.auth_enable().await?;
    Ok(())
}

async fn login(server: &Cluster, user: &str, password: &str) -> coord_core::Result<Client> {
    let builder = EtcdBackend::builder(server.endpoints()).login(user, password);
    Ok(Client::new(builder.connect().await?))
}

#[tokio::test]
async fn right_password_opens_everything_that_the_user_may_do() {
    let server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(Watch::prefix("app/")).await.unwrap();
    kv.put("app/a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.key, "app/a");
    let session = Session::builder(&kv).ttl(secs(5)).open().await.unwrap();
    let guard = Mutex::new(&session, "app/m").lock().await.unwrap();
    guard.txn(Txn::new().and_then([Put::new("app/a", "2")])).await.unwrap();
    guard.unlock().await.unwrap();
    session.close().await.unwrap();
}

#[tokio::test]
async fn wrong_password_and_unknown_user_are_refused_as_such() {
    let server = with_users().await;
    for (user, password) in [("app", "wrong"), ("nobody", "secret"), ("app", "")] {
        let login = async { login(&server, user, password).await?.get("app/a").await };
        let said = refused(login.await, ErrorKind::Unauthenticated);
        assert!(said.contains("not authenticated"), "{said}");
        assert!(!said.contains("wrong") && !said.contains("secret"), "tells the password: {said}");
    }
}

#[tokio::test]
async fn nobody_is_refused_where_users_are_asked_for() {
    let server = single().await;
    // From the time before there were users.
    let kv = client(&server.endpoints()).await;
    set_up(&server, APP).await.unwrap();
    refused(kv.get("app/a").await, ErrorKind::Unauthenticated);
    refused(kv.put("app/a", "1").await, ErrorKind::Unauthenticated);
    refused(kv.watch(Watch::new("app/a")).await, ErrorKind::Unauthenticated);
    let late = async {
        let late = EtcdBackend::connect(server.endpoints()).await?;
        Client::new(late).get("app/a").await
    };
    refused(late.await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn user_is_refused_what_she_may_not_do() {
    let server = with_users().await;
    let root = login(&server, "root", "secret").await.unwrap();
    let kv = login(&server, "app", "secret").await.unwrap();
    refused(kv.get("other").await, ErrorKind::PermissionDenied);
    refused(kv.put("other", "1").await, ErrorKind::PermissionDenied);
    let both = Txn::new().and_then([Put::new("app/a", "1"), Put::new("other", "1")]);
    refused(kv.txn(both).await, ErrorKind::PermissionDenied);
    refused(kv.watch(Watch::new("other")).await, ErrorKind::PermissionDenied);
    assert_eq!(root.get_prefix("").await.unwrap(), [], "nothing of it was applied");
}

/// A refused watch must not disturb others, with which it may share a stream.
#[tokio::test]
async fn refused_watch_leaves_other_watches_alone() {
    let server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(Watch::prefix("app/")).await.unwrap();
    for n in 0..10 {
        refused(kv.watch(Watch::new("other")).await, ErrorKind::PermissionDenied);
        let put = kv.put("app/a", n.to_string()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
    }
}

/// The tokens that a server gives out for a login go with the server.
#[tokio::test]
async fn login_outlives_the_server_that_it_was_made_at() {
    let mut server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let session = Session::builder(&kv).ttl(secs(20)).open().await.unwrap();
    let mut watch = kv.watch(Watch::prefix("app/")).await.unwrap();
    for n in 0..3 {
        let put = kv.put("app/a", n.to_string()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
        server[0].kill();
        server[0].start();
        server[0].ready().await;
        // Of a read that meets the old connection nothing is lost.
        kv.get("app/a").await.unwrap();
    }
    assert!(!matches!(session.state(), SessionState::Lost(_)), "{}", session.state());
}

#[tokio::test]
async fn login_is_not_minded_by_a_server_without_users() {
    let server = single().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    kv.put("a", "1").await.unwrap();
}

/// Go's `TestElectionWithAuthEnabled` (issue 17502): users with rights on their own prefixes only.
/// Of each, one campaigns and lets its lease run out, and another is elected when it has.
#[tokio::test]
async fn election_with_auth_enabled() {
    let server = single().await;
    let users = [("user1", "/foo1"), ("user2", "/bar1")];
    set_up(&server, &users).await.unwrap();
    let campaigns = users.map(|(user, prefix)| {
        let (server, name) = (&server, format!("{prefix}/a"));
        async move {
            let kv = login(server, user, "secret").await.unwrap();
            let first = session(&kv, 2).await;
            let led = Election::new(&first, name.clone()).campaign("first").await.unwrap();
            first.orphan().await.unwrap();
            let second = session(&kv, 10).await;
            let election = Election::new(&second, name);
            assert_eq!(election.leader().await.unwrap().unwrap().value(), "first");
            let elected = timeout(secs(30), election.campaign("second")).await;
            let leads = elected.expect("the lease runs out").unwrap();
            assert!(leads.fencing_token() > led.fencing_token());
            leads.resign().await.unwrap();
            let others = if user == "user1" { "/bar1/a" } else { "/foo1/a" };
            let error = Election::new(&second, others).campaign("not mine").await.unwrap_err();
            let PrimitiveError::Backend(error) = error else { panic!("{error}") };
            refused(Err::<(), _>(error), ErrorKind::PermissionDenied);
        }
    });
    futures_util::future::join_all(campaigns).await;
}

#[tokio::test]
async fn denied_requests_name_the_user_and_the_key() {
    let server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let txn = Txn::new().and_then([Put::new("other/a", "1"), Put::new("app/b", "1")]);
    for (said, keys) in [
        (refused(kv.put("other/a", "1").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (refused(kv.get("other/a").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (refused(kv.delete("other/a").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (refused(kv.txn(txn).await, ErrorKind::PermissionDenied), r#""app/b", "other/a""#),
        (refused(kv.watch(Watch::prefix("o")).await, ErrorKind::PermissionDenied), r#"["o", "p")"#),
    ] {
        assert!(said.contains(r#"the user "app" may not"#) && said.contains(keys), "{said}");
    }
}

/// The requests about leases whose keys the user may not read or write.
#[tokio::test]
async fn denied_lease_requests_name_the_user_and_the_lease() {
    let server = with_users().await;
    let root = login(&server, "root", "secret").await.unwrap();
    let kv = login(&server, "app", "secret").await.unwrap();
    let id = root.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    root.put_with(Put::new("other/a", "1").lease(id)).await.unwrap();
    let with_keys = kv.lease_time_to_live(LeaseTimeToLive { id, keys: true });
    for said in [
        refused(kv.lease_revoke(id).await, ErrorKind::PermissionDenied),
        refused(with_keys.await, ErrorKind::PermissionDenied),
    ] {
        let lease = format!("lease {id}");
        assert!(said.contains(r#"the user "app" may not"#) && said.contains(&lease), "{said}");
    }
    let said = refused(kv.leases().await, ErrorKind::PermissionDenied);
    assert!(said.contains("all leases"), "{said}");
}

/// Revoking a permission leaves open watch streams alone; a watch is refused when it is registered
/// again after a lost connection.
#[tokio::test]
async fn watch_ended_by_a_revoked_permission_names_the_key() {
    let mut server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(Watch::new("app/a")).await.unwrap();
    let root = ConnectOptions::new().with_user("root", "secret");
    let root = etcd_client::Client::connect(server.endpoints(), Some(root)).await.unwrap();
    let all = RoleRevokePermissionOptions::new().with_prefix();
    root.auth_client().role_revoke_permission("app", "app/", Some(all)).await.unwrap();
    server[0].kill();
    server[0].start();
    server[0].ready().await;
    let ended = timeout(secs(30), watch.next()).await.expect("it ends").expect("with an error");
    let said = refused(ended, ErrorKind::PermissionDenied);
    assert!(said.contains(r#"the user "app" may not watch "app/a""#), "{said}");
}
