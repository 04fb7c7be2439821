//! A certificate authority for one test, with its server and client certificates.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P521_SHA512, SignatureAlgorithm,
};

/// A CA that has issued one certificate for servers on this machine and one for their clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Authority {
    /// The certificate of the authority itself, and the certificates of
    /// [`trust_client_ca`](Self::trust_client_ca), as PEM.
    pub certificate: String,
    /// The certificate and the key of a client, as PEM.
    pub client: (String, String),
    server: (String, String),
}

impl Authority {
    /// A new authority, with P-256 keys.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn new() -> Self {
        Self::with_keys(&PKCS_ECDSA_P256_SHA256)
    }

    fn with_keys(kind: &'static SignatureAlgorithm) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let authority =
            CertifiedIssuer::self_signed(params, key(kind)).expect("the parameters are valid");
        // etcd's own gateway presents the server certificate as a client certificate.
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self {
            certificate: authority.pem(),
            client: issue(&authority, "client", kind, &[ExtendedKeyUsagePurpose::ClientAuth]),
            server: issue(&authority, "server", kind, &both),
        }
    }

    /// A new authority, with P-521 keys.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn p521() -> Self {
        Self::with_keys(&PKCS_ECDSA_P521_SHA512)
    }

    /// The certificate of the server, as PEM.
    #[must_use]
    pub fn server_certificate(&self) -> &str {
        &self.server.0
    }

    /// Makes the server also accept clients whose certificates another authority issued.
    #[must_use]
    pub fn trust_client_ca(mut self, certificate: &str) -> Self {
        self.certificate.push_str(certificate);
        self
    }

    /// Makes the server present this certificate. Certificate and key are PEM.
    #[must_use]
    pub fn server_identity(mut self, certificate: &str, key: &str) -> Self {
        self.server = (certificate.to_owned(), key.to_owned());
        self
    }

    /// Makes the server present a self-signed certificate that is also a CA, as `openssl req -x509`
    /// creates it.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn self_signed_server(self) -> Self {
        let mut params =
            CertificateParams::new(names()).expect("the names are valid DNS names or addresses");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a self-signed server");
        let key = key(&PKCS_ECDSA_P256_SHA256);
        let certificate = params.self_signed(&key).expect("the parameters are valid");
        self.server_identity(&certificate.pem(), &key.serialize_pem())
    }

    /// Writes the files that a server is configured with into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let files = [
            ("authority.pem", &self.certificate),
            ("server.pem", &self.server.0),
            ("server.key", &self.server.1),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("the folder was created by the caller");
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn key(kind: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(kind).expect("a key can be generated")
}

fn names() -> [String; 2] {
    ["127.0.0.1".to_owned(), "localhost".to_owned()]
}

fn issue(
    authority: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    kind: &'static SignatureAlgorithm,
    uses: &[ExtendedKeyUsagePurpose],
) -> (String, String) {
    let mut params =
        CertificateParams::new(names()).expect("the names are valid DNS names or addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = uses.to_vec();
    let key = key(kind);
    let certificate = params.signed_by(&key, authority).expect("a CA can sign");
    (certificate.pem(), key.serialize_pem())
}
