//! Tests of authentication on a real etcd: users, passwords and permissions.

use coord_core::{
    Client, Election, Mutex, Session,
    error::{ErrorKind, PrimitiveError},
    kv::{LeaseGrant, LeaseTimeToLive, Put, Txn, Watch},
    session::SessionState,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::Cluster;
use etcd_client::{ConnectOptions, Permission, PermissionType, RoleRevokePermissionOptions};

use crate::support::{assert_refused, client, secs, session, single_member, within};

/// The user `app`, with all permissions under `app/`.
const APP_USER: &[(&str, &str)] = &[("app", "app/")];

/// A server with authentication and the users `root` and `app`.
async fn server_with_users() -> Cluster {
    let server = single_member().await;
    enable_authentication(&server, APP_USER).await.unwrap();
    server
}

/// Enables authentication, with the user `root` and with users that have all permissions under a
/// prefix. Each has the password `secret`.
async fn enable_authentication(
    server: &Cluster,
    users: &[(&str, &str)],
) -> Result<(), etcd_client::Error> {
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
    builder.connect().await.map(Client::new)
}

#[tokio::test]
async fn login_permits_every_call_under_the_users_prefix() {
    let server = server_with_users().await;
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
async fn wrong_password_or_unknown_user_is_unauthenticated() {
    let server = server_with_users().await;
    for (user, password) in [("app", "wrong"), ("unknown", "secret"), ("app", "")] {
        let login = async { login(&server, user, password).await?.get("app/a").await };
        let message = assert_refused(login.await, ErrorKind::Unauthenticated);
        assert!(message.contains("not authenticated"), "{message}");
        let has_password = message.contains("wrong") || message.contains("secret");
        assert!(!has_password, "the message contains the password: {message}");
    }
}

#[tokio::test]
async fn client_without_a_login_is_unauthenticated() {
    let server = single_member().await;
    // Connected before authentication was enabled.
    let kv = client(&server.endpoints()).await;
    enable_authentication(&server, APP_USER).await.unwrap();
    assert_refused(kv.get("app/a").await, ErrorKind::Unauthenticated);
    assert_refused(kv.put("app/a", "1").await, ErrorKind::Unauthenticated);
    assert_refused(kv.watch(Watch::new("app/a")).await, ErrorKind::Unauthenticated);
    let late =
        async { Client::new(EtcdBackend::connect(server.endpoints()).await?).get("app/a").await };
    assert_refused(late.await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn request_without_permission_is_denied_and_not_applied() {
    let server = server_with_users().await;
    let root = login(&server, "root", "secret").await.unwrap();
    let kv = login(&server, "app", "secret").await.unwrap();
    assert_refused(kv.get("other").await, ErrorKind::PermissionDenied);
    assert_refused(kv.put("other", "1").await, ErrorKind::PermissionDenied);
    let both = Txn::new().and_then([Put::new("app/a", "1"), Put::new("other", "1")]);
    assert_refused(kv.txn(both).await, ErrorKind::PermissionDenied);
    assert_refused(kv.watch(Watch::new("other")).await, ErrorKind::PermissionDenied);
    assert_eq!(root.get_prefix("").await.unwrap(), [], "no request was applied");
}

/// A denied watch shares a stream with other watches.
#[tokio::test]
async fn denied_watch_does_not_affect_other_watches() {
    let server = server_with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(Watch::prefix("app/")).await.unwrap();
    for n in 0..10 {
        assert_refused(kv.watch(Watch::new("other")).await, ErrorKind::PermissionDenied);
        let put = kv.put("app/a", n.to_string()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
    }
}

/// The token of a login is lost when the server restarts.
#[tokio::test]
async fn login_is_renewed_after_a_server_restart() {
    let mut server = server_with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let session = Session::builder(&kv).ttl(secs(20)).open().await.unwrap();
    let mut watch = kv.watch(Watch::prefix("app/")).await.unwrap();
    for n in 0..3 {
        let put = kv.put("app/a", n.to_string()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
        server[0].kill();
        server[0].start();
        server[0].wait_until_ready().await;
        // A read on the old connection is retried.
        kv.get("app/a").await.unwrap();
    }
    assert!(!matches!(session.state(), SessionState::Lost(_)), "{}", session.state());
}

#[tokio::test]
async fn login_is_ignored_by_a_server_without_authentication() {
    let server = single_member().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    kv.put("a", "1").await.unwrap();
}

/// Go's `TestElectionWithAuthEnabled` (issue 17502): each user has permissions for one prefix. One
/// session leads until its lease expires; then another session is elected.
#[tokio::test]
async fn election_with_auth_enabled() {
    let server = single_member().await;
    let users = [("user1", "/foo1"), ("user2", "/bar1")];
    enable_authentication(&server, &users).await.unwrap();
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
            // The campaign waits until the lease of the first session expires.
            let leads = within(secs(30), election.campaign("second")).await.unwrap();
            assert!(leads.fencing_token() > led.fencing_token());
            leads.resign().await.unwrap();
            let other_name = if user == "user1" { "/bar1/a" } else { "/foo1/a" };
            let error = Election::new(&second, other_name).campaign("not mine").await.unwrap_err();
            let PrimitiveError::Backend(error) = error else { panic!("{error}") };
            assert_refused(Err::<(), _>(error), ErrorKind::PermissionDenied);
        }
    });
    futures_util::future::join_all(campaigns).await;
}

#[tokio::test]
async fn denied_requests_name_the_user_and_the_key() {
    let server = server_with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let txn = Txn::new().and_then([Put::new("other/a", "1"), Put::new("app/b", "1")]);
    for (message, keys) in [
        (assert_refused(kv.put("other/a", "1").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (assert_refused(kv.get("other/a").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (assert_refused(kv.delete("other/a").await, ErrorKind::PermissionDenied), r#""other/a""#),
        (assert_refused(kv.txn(txn).await, ErrorKind::PermissionDenied), r#""app/b", "other/a""#),
        (
            assert_refused(kv.watch(Watch::prefix("o")).await, ErrorKind::PermissionDenied),
            r#"["o", "p")"#,
        ),
    ] {
        assert!(message.contains(r#"the user "app" may not"#), "{message}");
        assert!(message.contains(keys), "{message}");
    }
}

/// Requests for leases whose keys the user may neither read nor write.
#[tokio::test]
async fn denied_lease_requests_name_the_user_and_the_lease() {
    let server = server_with_users().await;
    let root = login(&server, "root", "secret").await.unwrap();
    let kv = login(&server, "app", "secret").await.unwrap();
    let id = root.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    root.put_with(Put::new("other/a", "1").lease(id)).await.unwrap();
    let with_keys = kv.lease_time_to_live(LeaseTimeToLive { id, keys: true });
    for message in [
        assert_refused(kv.lease_revoke(id).await, ErrorKind::PermissionDenied),
        assert_refused(with_keys.await, ErrorKind::PermissionDenied),
    ] {
        let lease = format!("lease {id}");
        assert!(message.contains(r#"the user "app" may not"#), "{message}");
        assert!(message.contains(&lease), "{message}");
    }
    let message = assert_refused(kv.leases().await, ErrorKind::PermissionDenied);
    assert!(message.contains("all leases"), "{message}");
}

/// etcd checks permissions when a watch is registered: a revoked permission ends a watch when it is
/// registered again after a lost connection.
#[tokio::test]
async fn watch_ended_by_a_revoked_permission_names_the_key() {
    let mut server = server_with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(Watch::new("app/a")).await.unwrap();
    let root = ConnectOptions::new().with_user("root", "secret");
    let root = etcd_client::Client::connect(server.endpoints(), Some(root)).await.unwrap();
    let all = RoleRevokePermissionOptions::new().with_prefix();
    root.auth_client().role_revoke_permission("app", "app/", Some(all)).await.unwrap();
    server[0].kill();
    server[0].start();
    server[0].wait_until_ready().await;
    let ended = within(secs(30), watch.next()).await.unwrap();
    let message = assert_refused(ended, ErrorKind::PermissionDenied);
    assert!(message.contains(r#"the user "app" may not watch "app/a""#), "{message}");
}
