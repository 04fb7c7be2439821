//! Put cases: the value, the lease, the previous key-value, and the puts that are refused.

use coord_core::{Client, error::ErrorKind, kv::Put};

use super::helpers::{
    CheckResult, current_revision, expect_refused, get, get_at, grant_lease, lease_keys, put_on,
    puts, unused_lease_id,
};
use super::table;

table! { Put;
    put_is_read_back,
    put_replaces_the_value,
    put_of_an_empty_key_is_refused,
    put_returns_no_previous_key_unless_requested,
    previous_key_of_a_new_key_is_absent,
    previous_key_of_a_deleted_key_is_absent,
    previous_key_has_every_field,
    put_on_a_lease_attaches_the_key,
    put_on_another_lease_moves_the_key,
    put_without_lease_detaches_the_key,
    put_on_the_same_lease_keeps_the_key_attached_once,
    recreated_key_has_no_lease,
    historic_versions_keep_their_lease,
    ignore_lease_keeps_the_lease,
    ignore_lease_of_a_key_without_lease_keeps_none,
    ignore_value_keeps_the_value,
    ignore_value_can_move_the_key_to_a_lease,
    ignore_value_can_detach_the_lease,
    ignore_value_and_lease_changes_only_the_version,
    ignore_value_with_a_value_is_refused,
    ignore_lease_with_a_lease_is_refused,
    ignore_value_of_an_absent_key_is_refused,
    ignore_lease_of_an_absent_key_is_refused,
    ignore_value_of_a_deleted_key_is_refused,
    put_on_a_missing_lease_is_refused,
    refused_put_leaves_the_key_unchanged,
    empty_key_is_refused_before_a_provided_value,
    provided_value_is_refused_before_a_provided_lease,
    provided_value_is_refused_before_a_missing_key,
    missing_lease_is_refused_before_a_missing_key: OwnPutCall,
}

async fn put_is_read_back(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let a = get(kv, "a").await?;
    ensure_eq!((&a.key[..], &a.value[..], a.lease), (&b"a"[..], &b"1"[..], None));
    Ok(())
}

async fn put_replaces_the_value(kv: &Client) -> CheckResult {
    puts(kv, [("a", "a long value"), ("a", "2")]).await?;
    ensure_eq!(get(kv, "a").await?.value, "2");
    Ok(())
}

async fn put_of_an_empty_key_is_refused(kv: &Client) -> CheckResult {
    expect_refused(kv.put("", "1").await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn put_returns_no_previous_key_unless_requested(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    ensure_eq!(kv.put("a", "2").await?.prev_kv, None);
    Ok(())
}

async fn previous_key_of_a_new_key_is_absent(kv: &Client) -> CheckResult {
    ensure_eq!(kv.put_with(Put::new("a", "1").with_prev_kv()).await?.prev_kv, None);
    Ok(())
}

async fn previous_key_of_a_deleted_key_is_absent(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    ensure_eq!(kv.put_with(Put::new("a", "2").with_prev_kv()).await?.prev_kv, None);
    Ok(())
}

async fn previous_key_has_every_field(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put("a", "1").await?;
    kv.put_with(Put::new("a", "2").lease(id)).await?;
    let before = get(kv, "a").await?;
    let response = kv.put_with(Put::new("a", "3").with_prev_kv()).await?;
    ensure_eq!(response.prev_kv, Some(before));
    Ok(())
}

async fn put_on_a_lease_attaches_the_key(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    ensure_eq!(get(kv, "a").await?.lease, Some(id));
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    Ok(())
}

async fn put_on_another_lease_moves_the_key(kv: &Client) -> CheckResult {
    let (one, two) = (grant_lease(kv).await?, grant_lease(kv).await?);
    put_on(kv, one, "a").await?;
    put_on(kv, two, "a").await?;
    ensure_eq!(get(kv, "a").await?.lease, Some(two));
    ensure_eq!(lease_keys(kv, one).await?, [""; 0]);
    ensure_eq!(lease_keys(kv, two).await?, ["a"]);
    Ok(())
}

async fn put_without_lease_detaches_the_key(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.put("a", "1").await?;
    ensure_eq!(get(kv, "a").await?.lease, None);
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    Ok(())
}

async fn put_on_the_same_lease_keeps_the_key_attached_once(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    Ok(())
}

async fn recreated_key_has_no_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.delete("a").await?;
    kv.put("a", "1").await?;
    ensure_eq!(get(kv, "a").await?.lease, None);
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    Ok(())
}

async fn historic_versions_keep_their_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let leased = put_on(kv, id, "a").await?;
    kv.put("a", "1").await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(get_at(kv, "a", leased).await?.lease, Some(id));
    Ok(())
}

async fn ignore_lease_keeps_the_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.put_with(Put::new("a", "new").ignore_lease()).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((&a.value[..], a.lease), (&b"new"[..], Some(id)));
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    Ok(())
}

async fn ignore_lease_of_a_key_without_lease_keeps_none(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.put_with(Put::new("a", "2").ignore_lease()).await?;
    ensure_eq!(get(kv, "a").await?.lease, None);
    Ok(())
}

async fn ignore_value_keeps_the_value(kv: &Client) -> CheckResult {
    let [first] = puts(kv, [("a", "1")]).await?;
    let second = kv.put_with(Put::new("a", "").ignore_value()).await?.header.revision;
    let a = get(kv, "a").await?;
    ensure_eq!(a.value, "1");
    ensure_eq!((a.create_revision, a.mod_revision, a.version), (first, second, 2));
    Ok(())
}

async fn ignore_value_can_move_the_key_to_a_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put("a", "1").await?;
    kv.put_with(Put::new("a", "").ignore_value().lease(id)).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((&a.value[..], a.lease), (&b"1"[..], Some(id)));
    Ok(())
}

async fn ignore_value_can_detach_the_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    kv.put_with(Put::new("a", "").ignore_value()).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((&a.value[..], a.lease), (&b"leased"[..], None));
    Ok(())
}

async fn ignore_value_and_lease_changes_only_the_version(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let mut expected = get(kv, "a").await?;
    let response = kv.put_with(Put::new("a", "").ignore_value().ignore_lease()).await?;
    expected.mod_revision = response.header.revision;
    expected.version = 2;
    ensure_eq!(get(kv, "a").await?, expected);
    Ok(())
}

async fn ignore_value_with_a_value_is_refused(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let put = Put::new("a", "2").ignore_value();
    expect_refused(kv.put_with(put).await, ErrorKind::ValueProvided)?;
    Ok(())
}

async fn ignore_lease_with_a_lease_is_refused(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put("a", "1").await?;
    let put = Put::new("a", "2").ignore_lease().lease(id);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseProvided)?;
    Ok(())
}

async fn ignore_value_of_an_absent_key_is_refused(kv: &Client) -> CheckResult {
    let put = Put::new("a", "").ignore_value();
    expect_refused(kv.put_with(put).await, ErrorKind::KeyNotFound)?;
    Ok(())
}

async fn ignore_lease_of_an_absent_key_is_refused(kv: &Client) -> CheckResult {
    let put = Put::new("a", "1").ignore_lease();
    expect_refused(kv.put_with(put).await, ErrorKind::KeyNotFound)?;
    Ok(())
}

async fn ignore_value_of_a_deleted_key_is_refused(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    let put = Put::new("a", "").ignore_value();
    expect_refused(kv.put_with(put).await, ErrorKind::KeyNotFound)?;
    Ok(())
}

async fn put_on_a_missing_lease_is_refused(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let put = Put::new("a", "1").lease(missing);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn refused_put_leaves_the_key_unchanged(kv: &Client) -> CheckResult {
    let (id, missing) = (grant_lease(kv).await?, unused_lease_id(kv).await?);
    put_on(kv, id, "a").await?;
    let (before, revision) = (get(kv, "a").await?, current_revision(kv).await?);
    let put = Put::new("a", "2").lease(missing);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(get(kv, "a").await?, before);
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    ensure_eq!(current_revision(kv).await?, revision);
    Ok(())
}

async fn empty_key_is_refused_before_a_provided_value(kv: &Client) -> CheckResult {
    let put = Put::new("", "1").ignore_value();
    expect_refused(kv.put_with(put).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn provided_value_is_refused_before_a_provided_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    let put = Put::new("a", "1").ignore_value().ignore_lease().lease(id);
    expect_refused(kv.put_with(put).await, ErrorKind::ValueProvided)?;
    Ok(())
}

async fn provided_value_is_refused_before_a_missing_key(kv: &Client) -> CheckResult {
    let put = Put::new("absent", "1").ignore_value();
    expect_refused(kv.put_with(put).await, ErrorKind::ValueProvided)?;
    Ok(())
}

async fn missing_lease_is_refused_before_a_missing_key(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let put = Put::new("absent", "").ignore_value().lease(missing);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    Ok(())
}
