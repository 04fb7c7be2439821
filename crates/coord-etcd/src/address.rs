//! Addresses of endpoints: the parser, which also decides how an endpoint is dialled.
//!
//! ```text
//! endpoint          dialled                  encrypted
//! host:port         TCP                      if TLS is configured
//! http://host       TCP                      no
//! https://host      TCP                      yes
//! unix:path         a socket in the file     no
//! unixs:path        a socket in the file     yes
//! ```
//!
//! A scheme may be written in upper or lower case. The path of a socket follows `unix:` or
//! `unix://`. Any other scheme is refused: if a misspelt `https` were dialled in clear text, every
//! machine on the route could read the password.

use crate::config::ConfigError;

/// How to dial an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The URI of the requests.
    pub(crate) uri: String,
    /// Whether the connection is encrypted.
    pub(crate) encrypted: bool,
    /// The path, if the endpoint is a Unix socket.
    pub(crate) socket: Option<String>,
}

impl Address {
    /// Parses an endpoint. `has_tls` and `has_password` state what else is configured.
    pub(crate) fn parse(
        endpoint: &str,
        has_tls: bool,
        has_password: bool,
    ) -> Result<Self, ConfigError> {
        let (scheme, rest) = split(endpoint)?;
        let encrypted = match scheme {
            Scheme::Https | Scheme::Unixs => true,
            Scheme::Http | Scheme::Unix => false,
            Scheme::None => has_tls,
        };
        let is_socket = matches!(scheme, Scheme::Unix | Scheme::Unixs);
        if !encrypted && !is_socket && has_tls && has_password {
            return Err(ConfigError::PasswordInClear { endpoint: endpoint.to_owned() });
        }
        let host = if is_socket { "localhost" } else { rest };
        let uri = format!("{}://{host}", if encrypted { "https" } else { "http" });
        Ok(Self { uri, encrypted, socket: is_socket.then(|| rest.to_owned()) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    None,
    Http,
    Https,
    Unix,
    Unixs,
}

/// The scheme of an endpoint, and the rest of the endpoint.
fn split(endpoint: &str) -> Result<(Scheme, &str), ConfigError> {
    let malformed = |reason: &str| ConfigError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let known = |scheme: &str| match scheme.to_ascii_lowercase().as_str() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        "unix" => Some(Scheme::Unix),
        "unixs" => Some(Scheme::Unixs),
        _ => None,
    };
    let (scheme, rest) = match (endpoint.split_once("://"), endpoint.split_once(':')) {
        (Some((name, rest)), _) => {
            let scheme = known(name).ok_or_else(|| ConfigError::Scheme {
                endpoint: endpoint.to_owned(),
                scheme: name.to_owned(),
            })?;
            (scheme, rest)
        }
        (None, Some((name, rest))) => match known(name) {
            Some(scheme @ (Scheme::Unix | Scheme::Unixs)) => (scheme, rest),
            // A host may have the name of a scheme. A single slash is a misspelt `://`.
            _ if rest.starts_with('/') => return Err(malformed("there is no host")),
            _ => (Scheme::None, endpoint),
        },
        (None, None) => (Scheme::None, endpoint),
    };
    if rest.is_empty() {
        return Err(malformed("there is nothing after the scheme"));
    }
    Ok((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(endpoint: &str, has_tls: bool) -> (String, bool, Option<String>) {
        let Address { uri, encrypted, socket } =
            Address::parse(endpoint, has_tls, false).expect("the endpoint is well-formed");
        (uri, encrypted, socket)
    }

    #[test]
    fn scheme_selects_transport_and_encryption() {
        let tcp = |uri: &str, encrypted| (uri.to_owned(), encrypted, None);
        assert_eq!(parsed("a:1", false), tcp("http://a:1", false));
        assert_eq!(parsed("a:1", true), tcp("https://a:1", true));
        assert_eq!(parsed("[::1]:1", true), tcp("https://[::1]:1", true));
        for (http, https) in [("http", "https"), ("HTTP", "HTTPS"), ("Http", "hTTps")] {
            assert_eq!(parsed(&format!("{http}://a:1"), true), tcp("http://a:1", false));
            assert_eq!(parsed(&format!("{https}://a:1"), false), tcp("https://a:1", true));
        }
        let socket = |uri: &str, encrypted| (uri.to_owned(), encrypted, Some("/a/b".to_owned()));
        for unix in ["unix:/a/b", "unix:///a/b", "UNIX:/a/b", "Unix:///a/b"] {
            assert_eq!(parsed(unix, true), socket("http://localhost", false), "{unix}");
        }
        for unixs in ["unixs:/a/b", "unixs:///a/b", "UNIXS:///a/b"] {
            assert_eq!(parsed(unixs, false), socket("https://localhost", true), "{unixs}");
        }
        let relative = parsed("unix://localhost:m1", false).2;
        assert_eq!(relative.as_deref(), Some("localhost:m1"), "etcd's own name for a socket");
    }

    #[test]
    fn unknown_scheme_is_refused_with_the_known_schemes() {
        for scheme in ["htps", "tls", "grpcs", "grpc", "dns", "etcd", "", "https ", "ht tp"] {
            let endpoint = format!("{scheme}://a:1");
            let error = Address::parse(&endpoint, true, true).expect_err("the scheme is unknown");
            let expected =
                ConfigError::Scheme { endpoint: endpoint.clone(), scheme: scheme.to_owned() };
            assert_eq!(error, expected);
            let message = error.to_string();
            assert!(message.contains(&endpoint) && message.contains("http, https, unix or unixs"));
        }
        for endpoint in ["http:/a:1", "https:/a:1", "https://", "unix:", "HTTP://"] {
            let error =
                Address::parse(endpoint, true, true).expect_err("the endpoint is malformed");
            assert!(matches!(error, ConfigError::Endpoint { .. }), "{endpoint}: {error}");
        }
    }

    #[test]
    fn clear_text_password_is_refused_when_tls_is_configured() {
        let refused = |endpoint, has_tls, has_password| {
            let parsed = Address::parse(endpoint, has_tls, has_password);
            matches!(parsed, Err(ConfigError::PasswordInClear { .. }))
        };
        assert!(refused("http://a:1", true, true) && refused("HTTP://a:1", true, true));
        assert!(!refused("http://a:1", false, true) && !refused("http://a:1", true, false));
        for endpoint in ["a:1", "https://a:1", "unix:/a", "unixs:/a"] {
            assert!(!refused(endpoint, true, true), "{endpoint}");
        }
    }
}
