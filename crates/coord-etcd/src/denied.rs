//! Denied requests: which user may not do what to which keys.
//!
//! etcd answers "permission denied" and nothing else, so the rest comes from the request.

use std::collections::BTreeSet;

use coord_core::{
    Error,
    kv::{Delete, KeyRange, LeaseId, LeaseTimeToLive, Op, Put, Range, Txn, Watch},
};

use crate::options::Login;

/// A request about keys.
pub(crate) trait OnKeys {
    /// What it does, to which keys: `read "a"`.
    fn action(&self) -> String;
}

impl OnKeys for Range {
    fn action(&self) -> String {
        format!("read {}", self.keys)
    }
}

impl OnKeys for Put {
    fn action(&self) -> String {
        format!("write {}", KeyRange::key(self.key.clone()))
    }
}

impl OnKeys for Delete {
    fn action(&self) -> String {
        format!("delete {}", self.keys)
    }
}

impl OnKeys for Watch {
    fn action(&self) -> String {
        format!("watch {}", self.keys)
    }
}

/// Permission is needed for the keys, if they are requested.
impl OnKeys for LeaseTimeToLive {
    fn action(&self) -> String {
        format!("read the keys of lease {}", self.id)
    }
}

/// A request to revoke a lease, which deletes its keys.
pub(crate) struct Revoke(pub(crate) LeaseId);

impl OnKeys for Revoke {
    fn action(&self) -> String {
        format!("delete the keys of lease {}", self.0)
    }
}

/// A request for the list of leases, which needs permission to read all of their keys.
pub(crate) struct ListLeases;

impl OnKeys for ListLeases {
    fn action(&self) -> String {
        "read the keys of all leases".to_owned()
    }
}

/// etcd checks both branches, so each key may be the one.
impl OnKeys for Txn {
    fn action(&self) -> String {
        const NAMED_MAX: usize = 5;
        let mut keys = BTreeSet::new();
        collect(self, &mut keys);
        let rest = keys.len().saturating_sub(NAMED_MAX);
        let named: Vec<_> = keys.into_iter().take(NAMED_MAX).collect();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("read or write all of {}{more} in a transaction", named.join(", "))
    }
}

fn collect(txn: &Txn, keys: &mut BTreeSet<String>) {
    keys.extend(txn.compares.iter().map(|compare| compare.keys.to_string()));
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => drop(keys.insert(range.keys.to_string())),
            Op::Put(put) => drop(keys.insert(KeyRange::key(put.key.clone()).to_string())),
            Op::Delete(delete) => drop(keys.insert(delete.keys.to_string())),
            Op::Txn(nested) => collect(nested, keys),
        }
    }
}

/// Names the user and the keys, if the error is that the user may not do this.
pub(crate) fn named(error: Error, login: Option<&Login>, request: &impl OnKeys) -> Error {
    let Error::PermissionDenied { reason } = error else { return error };
    let who = login.map_or_else(
        || "a client without a login".to_owned(),
        |login| format!("the user {:?}", login.user),
    );
    // etcd's own message adds nothing.
    let said = if reason == "permission denied" { String::new() } else { format!(" ({reason})") };
    let reason = format!("{who} may not {}{said}: grant a role that permits it", request.action());
    Error::PermissionDenied { reason }
}

#[cfg(test)]
mod tests {
    use coord_core::kv::Compare;

    use super::*;

    #[test]
    fn denied_request_is_named_with_its_user_and_keys() {
        let login = Login { user: "app".to_owned(), password: "secret".to_owned() };
        let named = |request: &dyn Fn(Error) -> Error, reason: &str| {
            request(Error::PermissionDenied { reason: reason.to_owned() }).to_string()
        };
        let put = |error| named_for(error, Some(&login), &Put::new("b/x", "1"));
        assert_eq!(
            named(&put, "permission denied"),
            r#"permission denied: the user "app" may not write "b/x": grant a role that permits it"#
        );
        let read = |error| named_for(error, None, &Range::prefix("b/"));
        let said = named(&read, "RBAC: access denied");
        assert!(said.contains(r#"a client without a login may not read ["b/", "b0")"#), "{said}");
        assert!(said.contains("RBAC: access denied"), "{said}");
        let txn = Txn::new().when([Compare::absent("a")]).and_then([Put::new("b", "")]);
        let txn = |error| named_for(error, Some(&login), &txn);
        assert!(named(&txn, "permission denied").contains(r#"all of "a", "b" in a transaction"#));
        let other = named_for(Error::EmptyKey, Some(&login), &Put::new("a", ""));
        assert!(matches!(other, Error::EmptyKey));
    }

    fn named_for(error: Error, login: Option<&Login>, request: &impl OnKeys) -> Error {
        super::named(error, login, request)
    }
}
