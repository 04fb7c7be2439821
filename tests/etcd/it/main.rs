//! What only a real etcd can show: members that die, logins, certificates, and etcd's own tools.

mod endpoints;
mod faults;
mod harness;
mod interop;
mod ledger;
mod login;
mod support;
mod tls;
mod traffic;
