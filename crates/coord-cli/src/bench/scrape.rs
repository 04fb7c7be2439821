//! Asking a member for its counters, over HTTP or HTTPS.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coord_etcd::environment::Certificates;
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::metrics::Metrics;

/// How long the server may take to tell its counters.
const PATIENCE: Duration = Duration::from_secs(10);

/// The member whose counters are read.
#[derive(Debug)]
pub(crate) struct Member {
    /// Without a scheme.
    host: String,
    scheme: &'static str,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Member {
    /// The member at this address, `host:port` or a URL. An address without a scheme is `https` if
    /// there are certificates, as for all other calls.
    pub(crate) fn new(address: &str, certificates: Option<Certificates>) -> Result<Self> {
        let (scheme, host) = match address.split_once("://") {
            Some(("https", host)) => ("https", host),
            Some((_, host)) => ("http", host),
            None if certificates.is_some() => ("https", address),
            None => ("http", address),
        };
        let connector = HttpsConnectorBuilder::new();
        let connector = if scheme == "https" {
            connector.with_tls_config(tls(certificates.unwrap_or_default())?)
        } else {
            // Never used, and so trusts nobody.
            let nobody = client_config().with_root_certificates(RootCertStore::empty());
            connector.with_tls_config(nobody.with_no_client_auth())
        };
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { host: host.trim_end_matches('/').to_owned(), scheme, client })
    }

    /// Its counters now.
    pub(crate) async fn scraped(&self) -> Result<Metrics> {
        let Self { host, scheme, client } = self;
        let address = format!("{scheme}://{host}/metrics").parse().context("not an address")?;
        let text = timeout(PATIENCE, async {
            let answer = client.get(address).await?;
            ensure!(answer.status().is_success(), "{host} answered {}", answer.status());
            Ok(answer.into_body().collect().await?.to_bytes())
        });
        let text = text.await.with_context(|| format!("{host} did not answer"))??;
        Ok(Metrics::read(&String::from_utf8_lossy(&text)))
    }
}

fn tls(Certificates { authorities, identity, .. }: Certificates) -> Result<ClientConfig> {
    let trusting = match authorities {
        None => client_config().with_native_roots().context("the system's authorities")?,
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.context("the authorities")?).context("the authorities")?;
            }
            client_config().with_root_certificates(roots)
        }
    };
    let Some((certificate, key)) = identity else { return Ok(trusting.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(&key).context("the key of the certificate")?;
    let chain = chain.context("the certificate")?;
    trusting.with_client_auth_cert(chain, key).context("the certificate and its key")
}

type Config = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn client_config() -> Config {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().expect("ring speaks them")
}
