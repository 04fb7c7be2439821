//! Certificates made for one test.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// An authority, with a certificate for servers on this machine and one for their clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Authority {
    /// The certificate of the authority itself, as PEM.
    pub certificate: String,
    /// The certificate and the key of a client, as PEM.
    pub client: (String, String),
    server: (String, String),
}

impl Authority {
    /// Makes an authority that nobody has heard of.
    ///
    /// # Panics
    /// If the machine has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("the parameters agree");
        // etcd's own gateway shows the server's certificate as a client's.
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self {
            certificate: authority.pem(),
            client: issue(&authority, "client", &[ExtendedKeyUsagePurpose::ClientAuth]),
            server: issue(&authority, "server", &both),
        }
    }

    /// Writes what a server needs into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let files = [
            ("authority.pem", &self.certificate),
            ("server.pem", &self.server.0),
            ("server.key", &self.server.1),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("the folder was just made");
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn issue(
    authority: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    uses: &[ExtendedKeyUsagePurpose],
) -> (String, String) {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut params = CertificateParams::new(names).expect("these are names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = uses.to_vec();
    let key = key();
    let certificate = params.signed_by(&key, authority).expect("the authority may sign");
    (certificate.pem(), key.serialize_pem())
}
