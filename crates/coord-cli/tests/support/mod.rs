//! The program under test, for tests without an etcd server.

use std::process::{Command, Output};

/// Runs `coord` with these arguments, without the variables of `etcdctl`.
pub(crate) fn coord(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program is built")
}

/// `coord` without arguments, and without the variables of `etcdctl`.
pub(crate) fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_coord"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"ETCD") {
            program.env_remove(name);
        }
    }
    program
}

/// Output as text.
pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("it is text")
}
