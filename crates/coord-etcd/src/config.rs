//! Configuration errors: options of the builder that cannot be used.

use std::fmt;

use coord_core::{Error, error::Outcome};

use crate::error::backend_error;

/// The schemes that an endpoint may have.
pub(crate) const ENDPOINT_SCHEMES: &str = "http, https, unix or unixs";

/// The error for an option of [`EtcdBuilder`](crate::EtcdBuilder) that cannot be used. No endpoint
/// was dialled.
///
/// The error of `connect` is a [`coord_core::Error::Backend`] with a `ConfigError` as its source.
/// The outcome is [`NotApplied`](Outcome::NotApplied):
///
/// ```
/// use coord_core::Error;
/// use coord_etcd::{ConfigError, EtcdBackend};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = EtcdBackend::connect(["htps://a.example:2379"]).await.unwrap_err();
/// let Error::Backend { source, .. } = error else { panic!("another error: {error}") };
/// let config = source.downcast_ref::<ConfigError>();
/// assert!(matches!(config, Some(ConfigError::Scheme { scheme, .. }) if scheme == "htps"));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The scheme of an endpoint is not one of etcd's, so it is unknown whether the connection must
    /// be encrypted.
    #[non_exhaustive]
    Scheme {
        /// The endpoint as it was given.
        endpoint: String,
        /// The unknown scheme.
        scheme: String,
    },
    /// An endpoint is neither `host:port` nor a URL.
    #[non_exhaustive]
    Endpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// Why the endpoint is invalid.
        reason: String,
    },
    /// A password would be sent in clear text to an endpoint although TLS is configured.
    #[non_exhaustive]
    PasswordInClear {
        /// The endpoint as it was given.
        endpoint: String,
    },
    /// A certificate or a key cannot be used.
    #[non_exhaustive]
    Certificate {
        /// The name of the certificate or key, such as `client key`, and its file if it has one.
        file: String,
        /// Why the certificate or key cannot be used, and the remedy where one is known.
        reason: String,
    },
    /// The number of connections is 0.
    #[non_exhaustive]
    Connections {
        /// The number that was given.
        connections: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme { endpoint, scheme } => {
                write!(
                    f,
                    "invalid endpoint {endpoint:?}: unknown scheme {scheme:?}: use \
                     {ENDPOINT_SCHEMES}"
                )
            }
            Self::Endpoint { endpoint, reason } => write!(
                f,
                "invalid endpoint {endpoint:?}: {reason}: use host:port, or a URL with the scheme \
                 {ENDPOINT_SCHEMES}"
            ),
            Self::PasswordInClear { endpoint } => write!(
                f,
                "invalid endpoint {endpoint:?}: TLS is configured, and the password would be sent \
                 in clear text: use https, or configure no TLS"
            ),
            Self::Certificate { file, reason } => write!(f, "cannot use the {file}: {reason}"),
            Self::Connections { connections } => {
                write!(f, "invalid number of connections {connections}: must be at least 1")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        backend_error(Outcome::NotApplied, error)
    }
}
