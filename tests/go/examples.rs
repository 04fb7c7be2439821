//! The output of Go's examples, which coord's examples of the same scenarios also print.
//!
//! Source: the `// Output:` of `ExampleElection_Campaign`, `ExampleMutex_Lock`,
//! `ExampleMutex_TryLock` and `ExampleSTM_apply` in etcd
//! `tests/integration/clientv3/concurrency` at commit 2f59c9f.

pub(crate) const ELECTION: &str = "\
completed first election with e2
completed second election with e1
";

pub(crate) const MUTEX: &str = "\
acquired lock for s1
released lock for s1
acquired lock for s2
";

pub(crate) const TRY_LOCK: &str = "\
acquired lock for s1
cannot acquire lock for s2, as already locked in another session
released lock for s1
acquired lock for s2
";

pub(crate) const TRANSFER: &str = "\
account sum is 500
";
