//! A server that answers a TLS handshake in plain text, or not at all.
//!
//! The TLS library reports the first bytes as a corrupt message, and a server that hangs up as the
//! end of the handshake. Either is what a client with an `https://` endpoint, or with TLS options,
//! meets at a server that serves `http://`: coord's own answers in plain text, etcd hangs up.

use std::error::Error;
use std::io::{self, ErrorKind};

/// How the TLS library displays bytes that are no TLS record.
const NO_TLS_RECORD: &str = "received corrupt message of type InvalidContentType";

/// How a connection ends that was accepted, and then closed in the handshake. One without TLS has
/// no handshake that is waited for, so its end is met by the first request.
const HUNG_UP: [ErrorKind; 3] =
    [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

const REMEDY: &str = "write http:// in place of https://, or give neither certificates nor \
    authorities";

/// The last cause of a connection failure, in words that name the remedy where it is known.
pub(crate) fn reason(root: &(dyn Error + 'static)) -> String {
    let reason = root.to_string();
    if reason == NO_TLS_RECORD {
        return format!("the server does not speak TLS: {REMEDY}");
    }
    match root.downcast_ref::<io::Error>() {
        Some(error) if HUNG_UP.contains(&error.kind()) => {
            format!("the server hung up in the TLS handshake: if it does not speak TLS, {REMEDY}")
        }
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message was that of a corrupt record, of a handshake's end, or of a reset.
    #[test]
    fn server_without_tls_is_named_with_the_remedy() {
        let hung_up = HUNG_UP.map(|kind| io::Error::new(kind, "tls handshake eof"));
        for cause in hung_up.into_iter().chain([io::Error::other(NO_TLS_RECORD)]) {
            let told = reason(&cause);
            assert!(told.contains("not speak TLS") && told.ends_with(REMEDY), "{told}");
        }
        let refused = io::Error::new(ErrorKind::ConnectionRefused, "connection refused");
        assert_eq!(reason(&refused), "connection refused");
    }
}
