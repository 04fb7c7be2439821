//! Whom to trust, and who we are.

use coord_core::{Outcome, Result};
use etcd_client::{Certificate, Identity, TlsOptions};

use crate::error::other;

/// How a certificate begins in PEM.
const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// How to speak TLS: the authorities to trust, and a certificate of one's own.
///
/// ```
/// use coord_etcd::Tls;
///
/// # fn read(_: &str) -> Vec<u8> { Vec::new() }
/// let tls = Tls::new()
///     .ca(read("ca.pem"))
///     .identity(read("client.pem"), read("client-key.pem"))
///     .server_name("etcd.example");
/// # let _ = tls;
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts the system's authorities, and shows no certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in `pem`, and no longer the system's. May be called again for more.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Shows a certificate, with its private key, both as PEM.
    #[must_use]
    pub fn identity(
        mut self,
        certificate_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// The name that the servers' certificates are for, where it is not the endpoint's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(crate) fn options(&self) -> Result<TlsOptions> {
        // Whoever trusts a file without a certificate trusts nobody, and would be told no more
        // than that the server is unknown.
        let has_none = |pem: &&Vec<u8>| !pem.windows(MARK.len()).any(|window| window == MARK);
        if self.authorities.iter().any(|pem| has_none(&pem)) {
            let reason = "an authority to trust is given without any certificate".to_owned();
            return Err(other(Outcome::NotApplied, etcd_client::Error::InvalidArgs(reason)));
        }
        let mut options = TlsOptions::new();
        if self.authorities.is_empty() {
            options = options.with_enabled_roots();
        }
        options = options.ca_certificates(self.authorities.iter().map(Certificate::from_pem));
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        Ok(options)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_without_a_certificate_is_refused() {
        let error = Tls::new().ca("nonsense").options().map(drop).expect_err("no certificate");
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().contains("without any certificate"), "{error}");
    }

    #[test]
    fn private_keys_are_not_printed() {
        let tls = Tls::new().identity("certificate", "secret");
        assert!(!format!("{tls:?}").contains("secret"));
    }
}
