//! Permission errors: adds the user and the keys to the error of a denied request.
//!
//! etcd reports only "permission denied", so user and keys come from the login and the request.

use std::collections::BTreeSet;

use coord_core::{
    Error,
    kv::{Delete, KeyRange, LeaseId, LeaseTimeToLive, Op, Put, Range, Txn, Watch},
};

use crate::options::Login;

/// A request that needs permission for keys.
pub(crate) trait KeyAccess {
    /// The access and the keys, such as `read "a"`.
    fn action(&self) -> String;
}

impl KeyAccess for Range {
    fn action(&self) -> String {
        format!("read {}", self.keys)
    }
}

impl KeyAccess for Put {
    fn action(&self) -> String {
        format!("write {}", KeyRange::key(self.key.clone()))
    }
}

impl KeyAccess for Delete {
    fn action(&self) -> String {
        format!("delete {}", self.keys)
    }
}

impl KeyAccess for Watch {
    fn action(&self) -> String {
        format!("watch {}", self.keys)
    }
}

/// etcd checks the permission if the keys are requested.
impl KeyAccess for LeaseTimeToLive {
    fn action(&self) -> String {
        format!("read the keys of lease {}", self.id)
    }
}

/// A request to revoke a lease, which deletes its keys.
pub(crate) struct Revoke(pub(crate) LeaseId);

impl KeyAccess for Revoke {
    fn action(&self) -> String {
        format!("delete the keys of lease {}", self.0)
    }
}

/// A request for the list of leases, which needs permission to read all of their keys.
pub(crate) struct ListLeases;

impl KeyAccess for ListLeases {
    fn action(&self) -> String {
        "read the keys of all leases".to_owned()
    }
}

/// Names the keys of the compares and of both branches, up to a maximum, because etcd checks both
/// branches and does not state which key it denied.
impl KeyAccess for Txn {
    fn action(&self) -> String {
        const MAX_NAMED_KEYS: usize = 5;
        let mut keys = BTreeSet::new();
        collect_keys(self, &mut keys);
        let rest = keys.len().saturating_sub(MAX_NAMED_KEYS);
        let named: Vec<_> = keys.into_iter().take(MAX_NAMED_KEYS).collect();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("read or write all of {}{more} in a transaction", named.join(", "))
    }
}

fn collect_keys(txn: &Txn, keys: &mut BTreeSet<String>) {
    keys.extend(txn.compares.iter().map(|compare| compare.keys.to_string()));
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => drop(keys.insert(range.keys.to_string())),
            Op::Put(put) => drop(keys.insert(KeyRange::key(put.key.clone()).to_string())),
            Op::Delete(delete) => drop(keys.insert(delete.keys.to_string())),
            Op::Txn(nested) => collect_keys(nested, keys),
        }
    }
}

/// Adds the user and the keys to a permission error. Returns other errors unchanged.
pub(crate) fn complete(error: Error, login: Option<&Login>, request: &impl KeyAccess) -> Error {
    let Error::PermissionDenied { reason } = error else { return error };
    let user = login.map_or_else(
        || "a client without a login".to_owned(),
        |login| format!("the user {:?}", login.user),
    );
    // etcd's own message adds nothing.
    let cause = if reason == "permission denied" { String::new() } else { format!(" ({reason})") };
    let reason =
        format!("{user} may not {}{cause}: grant a role that permits it", request.action());
    Error::PermissionDenied { reason }
}

#[cfg(test)]
mod tests {
    use coord_core::kv::Compare;

    use super::*;

    #[test]
    fn permission_error_names_the_user_and_the_keys() {
        let login = Login { user: "app".to_owned(), password: "secret".to_owned() };
        let message = |complete: &dyn Fn(Error) -> Error, reason: &str| {
            complete(Error::PermissionDenied { reason: reason.to_owned() }).to_string()
        };
        let put = |error| complete(error, Some(&login), &Put::new("b/x", "1"));
        assert_eq!(
            message(&put, "permission denied"),
            r#"permission denied: the user "app" may not write "b/x": grant a role that permits it"#
        );
        let read = |error| complete(error, None, &Range::prefix("b/"));
        let denied = message(&read, "RBAC: access denied");
        let expected = r#"a client without a login may not read ["b/", "b0")"#;
        assert!(denied.contains(expected), "{denied}");
        assert!(denied.contains("RBAC: access denied"), "{denied}");
        let txn = Txn::new().when([Compare::absent("a")]).and_then([Put::new("b", "")]);
        let txn = |error| complete(error, Some(&login), &txn);
        assert!(message(&txn, "permission denied").contains(r#"all of "a", "b" in a transaction"#));
        let other = complete(Error::EmptyKey, Some(&login), &Put::new("a", ""));
        assert!(matches!(other, Error::EmptyKey));
    }
}
