//! TLS options: the CAs to trust, and the client certificate.
//!
//! This file contains the options and builds the configuration of rustls from them. `pem` reads PEM
//! files, and `verify` verifies server certificates.

mod pem;
mod verify;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};

use crate::config::ConfigError;
use verify::Verifier;

/// TLS options: the CAs to trust, and a client certificate.
///
/// ```
/// use coord_etcd::Tls;
///
/// let tls = Tls::new()
///     .ca_file("ca.pem")
///     .identity_files("client.pem", "client-key.pem")
///     .server_name("etcd.example");
/// # let _ = tls;
/// ```
///
/// Files are PEM. Keys and signatures may use RSA, P-256, P-384, P-521 and Ed25519. If `connect`
/// fails because one of these certificates or keys cannot be used, the source of the error is
/// [`ConfigError::Certificate`], which names the file and the reason, and the remedy where one is
/// known.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Vec<PemSource>,
    /// The client certificate and its private key.
    identity: Option<(PemSource, PemSource)>,
    server_name: Option<String>,
}

/// PEM text, or the file that contains it.
#[derive(Clone)]
enum PemSource {
    Text(Vec<u8>),
    File(PathBuf),
    /// A file and its text. The caller has read it, because a pipe can be read only once.
    Read(PathBuf, Vec<u8>),
}

impl Tls {
    /// Options that trust the system's CAs and present no client certificate.
    ///
    /// The feature `webpki-roots` adds the CAs of the crate `webpki-roots`. The system's CAs are
    /// left out without the feature `native-roots`, a default feature.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in `pem` in place of the system's CAs. Further calls add more.
    ///
    /// Each certificate may be that of a CA or of a server. `connect` leaves out a block that
    /// cannot be used, with a warning in the log, and fails if no block can be used.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(PemSource::Text(pem.into()));
        self
    }

    /// Trusts the certificates in a file, as [`ca`](Self::ca) does. `connect` reads the file.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities.push(PemSource::File(path.into()));
        self
    }

    /// Trusts certificates that were read from a file. Errors name the file.
    pub(crate) fn ca_read(mut self, path: PathBuf, pem: Vec<u8>) -> Self {
        self.authorities.push(PemSource::Read(path, pem));
        self
    }

    /// Presents a client certificate, with its private key, both as PEM. The certificates of
    /// intermediate CAs follow the client's.
    #[must_use]
    pub fn identity(
        mut self,
        certificate_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity =
            Some((PemSource::Text(certificate_pem.into()), PemSource::Text(key_pem.into())));
        self
    }

    /// Presents a client certificate from files, as [`identity`](Self::identity) does. `connect`
    /// reads the files.
    #[must_use]
    pub fn identity_files(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((PemSource::File(certificate.into()), PemSource::File(key.into())));
        self
    }

    /// Presents a client certificate that was read from files. Errors name the files.
    pub(crate) fn identity_read(
        mut self,
        certificate: (PathBuf, Vec<u8>),
        key: (PathBuf, Vec<u8>),
    ) -> Self {
        self.identity =
            Some((PemSource::Read(certificate.0, certificate.1), PemSource::Read(key.0, key.1)));
        self
    }

    /// Sets the name to expect in the servers' certificates. Default: the host of the endpoint.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The name to expect in a server's certificate.
    pub(crate) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        self.server_name.as_deref().unwrap_or(host)
    }

    /// Reads the files, checks them, and builds the configuration of rustls.
    pub(crate) fn config(&self) -> Result<ClientConfig, ConfigError> {
        let provider = CryptoProvider::get_default()
            .map_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()), Arc::clone);
        let mut roots = RootCertStore::empty();
        let mut configured = Vec::new();
        for authority in &self.authorities {
            configured.extend(trust_authority(authority, &mut roots)?);
        }
        if self.authorities.is_empty() {
            trust_defaults(&mut roots);
        }
        if roots.is_empty() {
            let reason = "this system has none: configure a CA";
            return Err(certificate_error("system's CA certificates", reason));
        }
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain_verifier =
            builder.build().map_err(|error| certificate_error("CA certificates", error))?;
        let identity = self.identity.as_ref();
        let identity =
            identity.map(|(certificate, key)| client_identity(certificate, key, &provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| certificate_error("TLS provider of this process", error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { chain_verifier, configured }));
        let mut config = match identity.transpose()? {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

impl PemSource {
    /// The name in errors: the kind, such as `client key`, and the file if there is one.
    fn name(&self, kind: &str) -> String {
        match self {
            Self::Text(_) => kind.to_owned(),
            Self::File(path) | Self::Read(path, _) => format!("{kind} {}", path.display()),
        }
    }

    fn read(&self, kind: &str) -> Result<Cow<'_, [u8]>, ConfigError> {
        match self {
            Self::Text(text) | Self::Read(_, text) => Ok(Cow::Borrowed(text)),
            Self::File(path) => std::fs::read(path)
                .map(Cow::Owned)
                .map_err(|error| certificate_error(&self.name(kind), error)),
        }
    }
}

/// Adds the certificates of one PEM text to `roots`, and returns them. Logs each block that cannot
/// be used, unless all of them cannot.
fn trust_authority(
    authority: &PemSource,
    roots: &mut RootCertStore,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let name = authority.name("CA certificate");
    let text = authority.read("CA certificate")?;
    let found = pem::certificates(&text).map_err(|reason| certificate_error(&name, reason))?;
    let (mut good, mut broken) = (Vec::new(), Vec::new());
    for (number, certificate) in found.into_iter().enumerate() {
        let added = certificate.and_then(|certificate| {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            Ok(certificate)
        });
        match added {
            Ok(certificate) => good.push(certificate),
            Err(reason) => broken.push(format!("block {} cannot be used: {reason}", number + 1)),
        }
    }
    if good.is_empty() {
        return Err(certificate_error(&name, broken.join("; ")));
    }
    for reason in broken {
        tracing::warn!(name, reason, "CA certificate left out");
    }
    Ok(good)
}

/// Reads the client certificate and its key. Checks that they match, unless the certificate is
/// X.509 version 1, which rustls cannot read.
fn client_identity(
    certificate: &PemSource,
    key: &PemSource,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, ConfigError> {
    let name = certificate.name("client certificate");
    let text = certificate.read("client certificate")?;
    let chain = pem::certificates(&text).and_then(|found| found.into_iter().collect());
    let chain: Vec<_> = chain.map_err(|reason: String| certificate_error(&name, reason))?;
    if let Some(number) = chain.iter().position(|certificate| !pem::is_certificate(certificate)) {
        let reason = format!("block {} is not a certificate: export it again", number + 1);
        return Err(certificate_error(&name, reason));
    }
    let key_name = key.name("client key");
    let text = key.read("client key")?;
    let private = pem::private_key(&text).map_err(|reason| certificate_error(&key_name, reason))?;
    let private = provider.key_provider.load_private_key(private).map_err(|error| {
        let remedy = "use a key of RSA (2048 to 8192 bits), P-256, P-384, P-521 or Ed25519";
        certificate_error(&key_name, format!("{error}: {remedy}"))
    })?;
    let certified = CertifiedKey::new(chain, private);
    if let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) =
        certified.keys_match()
    {
        let remedy = "give a certificate and a key that belong together";
        let reason = format!("it does not match the {name}: {remedy}");
        return Err(certificate_error(&key_name, reason));
    }
    Ok(certified)
}

/// Trusts the CAs of the system, or of the list in `webpki-roots`, or both, by the features of this
/// build.
#[cfg_attr(
    not(any(feature = "native-roots", feature = "webpki-roots")),
    expect(unused_variables, clippy::needless_pass_by_ref_mut, reason = "there is no list")
)]
fn trust_defaults(roots: &mut RootCertStore) {
    #[cfg(feature = "native-roots")]
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    #[cfg(feature = "webpki-roots")]
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
}

/// The error for a certificate or key that cannot be used. `file` is its name, without an article.
fn certificate_error(file: &str, reason: impl ToString) -> ConfigError {
    ConfigError::Certificate { file: file.to_owned(), reason: reason.to_string() }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let error = Tls::new().ca("nonsense").config().map(drop).expect_err("no certificate");
        let message = error.to_string();
        assert!(message.contains("CA certificate"), "{message}");
        assert!(message.contains("no certificate"), "{message}");
    }

    #[test]
    fn missing_file_is_named_in_the_error() {
        let error = Tls::new().ca_file("/no/such.pem").config().map(drop).expect_err("no file");
        assert!(error.to_string().contains("CA certificate /no/such.pem"), "{error}");
        let tls = Tls::new().identity_files("/no/client.pem", "/no/key.pem");
        let error = tls.config().map(drop).expect_err("no file");
        assert!(error.to_string().contains("client certificate /no/client.pem"), "{error}");
    }

    #[test]
    fn server_name_defaults_to_the_host() {
        let tls = Tls::new();
        assert_eq!((tls.name("a.example"), tls.name("[::1]")), ("a.example", "::1"));
        assert_eq!(tls.server_name("b.example").name("a.example"), "b.example");
    }

    #[test]
    fn private_key_is_not_printed() {
        let tls = Tls::new().identity("certificate", "secret");
        assert!(!format!("{tls:?}").contains("secret"));
    }
}
