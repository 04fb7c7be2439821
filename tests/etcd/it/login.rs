//! Users and passwords.

use coord_core::{
    ErrorKind, KvBackend as _, KvBackendExt as _, Mutex, Put, Session, SessionState, Txn,
    WatchRequest,
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::Cluster;
use etcd_client::{Client, Permission, PermissionType};
use std::sync::Arc;

use crate::support::{refused, secs, single};

/// A server with the users `root`, and `app`, who may do as she likes under `app/`.
async fn with_users() -> Cluster {
    let server = single().await;
    set_up(&server).await.expect("a fresh server takes users");
    server
}

async fn set_up(server: &Cluster) -> Result<(), etcd_client::Error> {
    let client = Client::connect(server.endpoints(), None).await?;
    let mut auth = client.auth_client();
    for (user, role) in [("root", "root"), ("app", "app")] {
        auth.user_add(user, "secret", None).await?;
        auth.role_add(role).await?;
        auth.user_grant_role(user, role).await?;
    }
    let own = Permission::new(PermissionType::Readwrite, "app/").with_prefix();
    auth.role_grant_permission("app", own).await?;
    auth.auth_enable().await?;
    Ok(())
}

async fn login(server: &Cluster, user: &str, password: &str) -> coord_core::Result<EtcdBackend> {
    EtcdBackend::builder(server.endpoints()).login(user, password).connect().await
}

#[tokio::test]
async fn right_password_opens_everything_that_the_user_may_do() {
    let server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(WatchRequest::prefix("app/")).await.unwrap();
    kv.put("app/a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events[0].kv.key, "app/a");
    let session = Session::builder(Arc::new(kv)).ttl(secs(5)).open().await.unwrap();
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
    let kv = EtcdBackend::connect(server.endpoints()).await.unwrap();
    set_up(&server).await.unwrap();
    refused(kv.get("app/a").await, ErrorKind::Unauthenticated);
    refused(kv.put("app/a", "1").await, ErrorKind::Unauthenticated);
    refused(kv.watch(WatchRequest::new("app/a")).await, ErrorKind::Unauthenticated);
    let late = async { EtcdBackend::connect(server.endpoints()).await?.get("app/a").await };
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
    refused(kv.watch(WatchRequest::new("other")).await, ErrorKind::PermissionDenied);
    assert_eq!(root.get_prefix("").await.unwrap(), [], "nothing of it was applied");
}

/// A refused watch must not disturb others, with which it may share a stream.
#[tokio::test]
async fn refused_watch_leaves_other_watches_alone() {
    let server = with_users().await;
    let kv = login(&server, "app", "secret").await.unwrap();
    let mut watch = kv.watch(WatchRequest::prefix("app/")).await.unwrap();
    for n in 0..10 {
        refused(kv.watch(WatchRequest::new("other")).await, ErrorKind::PermissionDenied);
        let put = kv.put("app/a", n.to_string()).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, put.header.revision);
    }
}

/// The tokens that a server gives out for a login go with the server.
#[tokio::test]
async fn login_outlives_the_server_that_it_was_made_at() {
    let mut server = with_users().await;
    let kv = Arc::new(login(&server, "app", "secret").await.unwrap());
    let session =
        Session::builder(Arc::<EtcdBackend>::clone(&kv)).ttl(secs(20)).open().await.unwrap();
    let mut watch = kv.watch(WatchRequest::prefix("app/")).await.unwrap();
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
