//! A server that answers a TLS handshake in plain text, or not at all.
//!
//! The TLS library reports the first bytes as a corrupt message, and a server that hangs up as the
//! end of the handshake. Either is what a client with an `https://` endpoint, or with TLS options,
//! meets at a server that serves `http://`: coord's own answers in plain text, etcd hangs up.

use std::error::Error;

/// How the TLS library displays bytes that are no TLS record.
const NO_TLS_RECORD: &str = "received corrupt message of type InvalidContentType";
/// How it displays that the server hung up before it had answered.
const HUNG_UP: &str = "tls handshake eof";

const REMEDY: &str = "write http:// in place of https://, or give neither certificates nor \
    authorities";

/// The last cause of a connection failure, in words that name the remedy where it is known.
pub(crate) fn reason(root: &(dyn Error + 'static)) -> String {
    match root.to_string().as_str() {
        NO_TLS_RECORD => format!("the server does not speak TLS: {REMEDY}"),
        HUNG_UP => {
            format!("the server hung up in the TLS handshake: if it does not speak TLS, {REMEDY}")
        }
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    /// They were told of a corrupt message, or of a handshake's end.
    #[test]
    fn server_without_tls_is_named_with_the_remedy() {
        for cause in [NO_TLS_RECORD, HUNG_UP] {
            let told = reason(&Error::other(cause));
            assert!(told.contains("not speak TLS") && told.ends_with(REMEDY), "{told}");
        }
        assert_eq!(reason(&Error::other("connection refused")), "connection refused");
    }
}
