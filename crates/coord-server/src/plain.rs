//! What is asked without gRPC: whether the server is well, which version it is, how it fares.
//!
//! Scripts that wait for an etcd to start ask it with curl, and so do probes.
//!
//! Source: etcd 3.5 `server/etcdserver/api/etcdhttp`.

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::call::{Answer, Answered};
use crate::maintenance::VERSION;
use crate::services::Services;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What is looked at to tell whether the server lives, and whether it can be used.
const LIVE: &[&str] = &["serializable_read"];
const READY: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// Whether a request is none of gRPC's.
pub(crate) fn is_plain<B>(request: &Request<B>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    !content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// Answers it.
pub(crate) fn call<B>(services: &Services, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let page = match path {
        "/version" => Page::Version,
        "/health" => Page::Health,
        "/metrics" => Page::Metrics,
        _ => match checks(path) {
            Some(checks) => Page::Checks { checks, verbose: is_verbose(request) },
            None => {
                let text = "404 page not found\n".to_owned();
                return std::future::ready(said(StatusCode::NOT_FOUND, TEXT, text)).boxed();
            }
        },
    };
    if request.method() != Method::GET && !matches!(page, Page::Metrics) {
        return std::future::ready(only_get()).boxed();
    }
    let services = services.clone();
    async move { page.show(&services).await }.boxed()
}

/// What there is to see.
enum Page {
    Version,
    Health,
    Metrics,
    Checks { checks: &'static [&'static str], verbose: bool },
}

/// What is looked at for this path: everything, or one thing alone.
fn checks(path: &str) -> Option<&'static [&'static str]> {
    let path = path.strip_prefix('/')?;
    let (kind, one) = path.split_once('/').map_or((path, None), |(kind, one)| (kind, Some(one)));
    let all = match kind {
        "livez" => LIVE,
        "readyz" => READY,
        _ => return None,
    };
    match one {
        None => Some(all),
        Some(one) => {
            let at = all.iter().position(|check| *check == one)?;
            Some(&all[at..=at])
        }
    }
}

fn is_verbose<B>(request: &Request<B>) -> bool {
    let mut words = request.uri().query().unwrap_or_default().split('&');
    words.any(|word| word.split('=').next() == Some("verbose"))
}

impl Page {
    async fn show(self, services: &Services) -> Answered {
        let header = services.header().await;
        let (kind, text) = match (self, header) {
            (Self::Version, _) => (JSON, version()),
            (Self::Health, header) => {
                let sick = match (services.alarms().first(), header) {
                    (Some(alarm), _) => format!("ALARM {}", alarm.as_str_name()),
                    (None, Err(why)) => format!("RANGE ERROR:{}", why.message()),
                    (None, Ok(_)) => {
                        let well = r#"{"health":"true","reason":""}"#;
                        return said(StatusCode::OK, TEXT, well.to_owned());
                    }
                };
                let text = format!("{{\"health\":\"false\",\"reason\":\"{sick}\"}}\n");
                return said(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
            }
            (Self::Checks { checks, verbose }, Ok(_)) => {
                let lines = checks.iter().map(|check| format!("[+]{check} ok\n"));
                let lines = if verbose { lines.collect() } else { String::new() };
                (TEXT, lines + "ok\n")
            }
            (Self::Checks { checks, .. }, Err(why)) => {
                let why = why.message();
                let lines = checks.iter().map(|check| format!("[-]{check} failed: {why}\n"));
                return said(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines.collect());
            }
            (Self::Metrics, header) => (METRICS, metrics(header.ok())),
        };
        said(StatusCode::OK, kind, text)
    }
}

/// `3.5`, of `3.5.30`.
fn minor() -> &'static str {
    VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor)
}

fn version() -> String {
    let minor = minor();
    format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{minor}.0"}}"#)
}

/// The few of etcd's figures that are known here.
fn metrics(header: Option<coord_core::Header>) -> String {
    let up = i32::from(header.is_some());
    let coord_core::Header { member_id, revision, .. } = header.unwrap_or_default();
    let minor = minor();
    let gauges = [
        ("etcd_server_has_leader", String::new(), i64::from(up)),
        ("etcd_server_is_leader", String::new(), i64::from(up)),
        ("etcd_server_is_learner", String::new(), 0),
        ("etcd_server_id", format!(r#"{{server_id="{member_id:x}"}}"#), 1),
        ("etcd_server_version", format!(r#"{{server_version="{VERSION}"}}"#), 1),
        ("etcd_cluster_version", format!(r#"{{cluster_version="{minor}"}}"#), 1),
        ("etcd_debugging_mvcc_current_revision", String::new(), revision.0),
    ];
    let gauges = gauges
        .map(|(name, labels, value)| format!("# TYPE {name} gauge\n{name}{labels} {value}\n"));
    gauges.concat()
}

fn only_get() -> Answered {
    let text = "Method Not Allowed\n".to_owned();
    let mut answer = said(StatusCode::METHOD_NOT_ALLOWED, TEXT, text)?;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Ok(answer)
}

fn said(status: StatusCode, kind: HeaderValue, text: String) -> Answered {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
