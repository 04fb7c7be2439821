//! Error messages for a TLS handshake with a server that does not use TLS.
//!
//! The TLS library reports a plain-text response as a corrupt message, and a closed connection as
//! an early end of the handshake. Neither message names the remedy. A client with an `https://`
//! endpoint, or with TLS options, receives one of them from a server that serves `http://`: coord's
//! own server responds in plain text, and etcd closes the connection.

use std::error::Error;
use std::io::{self, ErrorKind};

/// The TLS library's message for bytes that are not a TLS record.
const NOT_A_TLS_RECORD: &str = "received corrupt message of type InvalidContentType";

/// The errors of a connection that was accepted and then closed in the handshake.
///
/// A connection without TLS has no handshake, so none of these is the cause of a failed dial there:
/// the first request fails instead.
const CLOSED_IN_HANDSHAKE: [ErrorKind; 3] =
    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

/// The remedy for TLS options or an `https://` endpoint with a server that does not use TLS.
const PLAIN_TEXT_REMEDY: &str = "write http:// in place of https://, or configure neither \
    certificates nor CAs";

/// The message of the root cause of a failed dial, with the remedy where one is known.
pub(crate) fn reason(root: &(dyn Error + 'static)) -> String {
    let reason = root.to_string();
    if reason == NOT_A_TLS_RECORD {
        return format!("the server does not use TLS: {PLAIN_TEXT_REMEDY}");
    }
    match root.downcast_ref::<io::Error>() {
        Some(error) if CLOSED_IN_HANDSHAKE.contains(&error.kind()) => {
            let problem = "the server closed the connection in the TLS handshake";
            format!("{problem}: if the server does not use TLS, {PLAIN_TEXT_REMEDY}")
        }
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the messages reported a corrupt record, an ended handshake or a reset
    /// connection.
    #[test]
    fn handshake_with_a_plain_server_reports_the_remedy() {
        let closed = CLOSED_IN_HANDSHAKE.map(|kind| io::Error::new(kind, "tls handshake eof"));
        for cause in closed.into_iter().chain([io::Error::other(NOT_A_TLS_RECORD)]) {
            let message = reason(&cause);
            assert!(message.contains("not use TLS"), "{message}");
            assert!(message.ends_with(PLAIN_TEXT_REMEDY), "{message}");
        }
        let refused = io::Error::new(ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(reason(&refused), "connection refused");
    }
}
