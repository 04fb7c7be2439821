//! Servers without TLS: error messages for a TLS handshake with such a server.
//!
//! The TLS library reports a plain-text response as a corrupt message, and a closed connection as
//! the end of the handshake. A client with an `https://` endpoint, or with TLS options, receives
//! one of them from a server that serves `http://`: coord's own server responds in plain text, and
//! etcd closes the connection.

use std::error::Error;
use std::io::{self, ErrorKind};

/// The TLS library's message for bytes that are not a TLS record.
const NO_TLS_RECORD: &str = "received corrupt message of type InvalidContentType";

/// The errors of a connection that was accepted and then closed in the handshake. Without TLS there
/// is no handshake to wait for, so the first request finds the connection closed.
const CLOSED_IN_HANDSHAKE: [ErrorKind; 3] =
    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

const REMEDY: &str = "write http:// in place of https://, or give neither certificates nor \
    authorities";

/// The message of a connection failure's deepest cause, with the remedy where it is known.
pub(crate) fn reason(root: &(dyn Error + 'static)) -> String {
    let reason = root.to_string();
    if reason == NO_TLS_RECORD {
        return format!("the server does not speak TLS: {REMEDY}");
    }
    match root.downcast_ref::<io::Error>() {
        Some(error) if CLOSED_IN_HANDSHAKE.contains(&error.kind()) => {
            format!("the server hung up in the TLS handshake: if it does not speak TLS, {REMEDY}")
        }
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages were those of a corrupt record, of an ended handshake and of a reset.
    #[test]
    fn handshake_with_a_plain_server_reports_the_remedy() {
        let closed = CLOSED_IN_HANDSHAKE.map(|kind| io::Error::new(kind, "tls handshake eof"));
        for cause in closed.into_iter().chain([io::Error::other(NO_TLS_RECORD)]) {
            let message = reason(&cause);
            assert!(message.contains("not speak TLS") && message.ends_with(REMEDY), "{message}");
        }
        let refused = io::Error::new(ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(reason(&refused), "connection refused");
    }
}
