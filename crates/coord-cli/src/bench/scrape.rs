//! Reads the metrics of one member over HTTP or HTTPS.

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

/// Timeout of one request for the metrics.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The metrics endpoint of a member.
#[derive(Debug)]
pub(crate) struct MetricsEndpoint {
    /// The address without a scheme.
    host: String,
    scheme: &'static str,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl MetricsEndpoint {
    /// The endpoint of the member at an address, `host:port` or a URL. An address without a scheme
    /// uses `https` if certificates are configured, as all other requests do.
    pub(crate) fn new(address: &str, certificates: Option<Certificates>) -> Result<Self> {
        let (scheme, host) = match address.split_once("://") {
            Some((scheme, host)) if scheme.eq_ignore_ascii_case("https") => ("https", host),
            Some((_, host)) => ("http", host),
            None if certificates.is_some() => ("https", address),
            None => ("http", address),
        };
        let connector = HttpsConnectorBuilder::new();
        let connector = if scheme == "https" {
            connector.with_tls_config(tls(certificates.unwrap_or_default())?)
        } else {
            // The builder requires a TLS configuration. This one is never used, and trusts no
            // authority.
            let unused = client_config().with_root_certificates(RootCertStore::empty());
            connector.with_tls_config(unused.with_no_client_auth())
        };
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { host: host.trim_end_matches('/').to_owned(), scheme, client })
    }

    /// Reads the current metrics.
    pub(crate) async fn scrape(&self) -> Result<Metrics> {
        let Self { host, scheme, client } = self;
        let address = format!("{scheme}://{host}/metrics")
            .parse()
            .with_context(|| format!("invalid address {host}"))?;
        let text = timeout(SCRAPE_TIMEOUT, async {
            let response = client.get(address).await?;
            ensure!(response.status().is_success(), "{host} returned {}", response.status());
            Ok(response.into_body().collect().await?.to_bytes())
        });
        let text = text
            .await
            .with_context(|| format!("{host} sent no response within {SCRAPE_TIMEOUT:?}"))??;
        Ok(Metrics::parse(&String::from_utf8_lossy(&text)))
    }
}

/// The TLS configuration of the certificates.
fn tls(Certificates { authorities, identity, .. }: Certificates) -> Result<ClientConfig> {
    let config = match authorities {
        None => client_config().with_native_roots().context("the system's authorities")?,
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.context("the authorities")?).context("the authorities")?;
            }
            client_config().with_root_certificates(roots)
        }
    };
    let Some((certificate, key)) = identity else { return Ok(config.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(&key).context("the key of the certificate")?;
    let chain = chain.context("the certificate")?;
    config.with_client_auth_cert(chain, key).context("the certificate and its key")
}

type Config = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

/// A configuration with the cryptography of aws-lc-rs, still without authorities.
fn client_config() -> Config {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().expect("aws-lc-rs supports them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_of_an_address_is_read_in_any_case() {
        let scheme = |address| MetricsEndpoint::new(address, None).map(|endpoint| endpoint.scheme);
        for (address, expected) in
            [("etcd:2379", "http"), ("HTTP://etcd:2379", "http"), ("HTTPS://etcd:2379", "https")]
        {
            assert_eq!(scheme(address).expect("the address is valid"), expected, "{address}");
        }
    }
}
