//! HTTP endpoints: `/health`, `/livez`, `/readyz`, `/version` and `/metrics`.
//!
//! Probes use these endpoints, and so do scripts that wait with curl until a server has started.
//!
//! Source: etcd 3.5 `server/etcdserver/api/etcdhttp`.

use bytes::Bytes;
use etcd_client::AlarmType;
use futures_util::FutureExt;
use http_body_util::Full;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::call::{CallFuture, CallResult};
use crate::maintenance::ETCD_VERSION;
use crate::services::Services;

const TEXT_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/json");
const METRICS_CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The checks of `/livez`.
const LIVEZ_CHECKS: &[&str] = &["serializable_read"];

/// The checks of `/readyz`.
const READYZ_CHECKS: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// Whether a request is plain HTTP and not gRPC.
pub(crate) fn is_plain_http<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Routes a plain HTTP request to its endpoint. An unknown path or method is an HTTP error.
pub(crate) fn call<B>(services: &Services, request: &Request<B>) -> CallFuture {
    let path = request.uri().path();
    let endpoint = match path {
        "/version" => Endpoint::Version,
        "/health" => Endpoint::Health { excluded: query_values(request, "exclude") },
        "/metrics" => Endpoint::Metrics,
        _ => match checks_of_path(path) {
            Some(checks) => Endpoint::Checks {
                checks,
                excluded: query_values(request, "exclude"),
                verbose: !query_values(request, "verbose").is_empty(),
            },
            None => {
                let text = "404 page not found\n".to_owned();
                return std::future::ready(response(
                    StatusCode::NOT_FOUND,
                    TEXT_CONTENT_TYPE,
                    text,
                ))
                .boxed();
            }
        },
    };
    if request.method() != Method::GET && !matches!(endpoint, Endpoint::Metrics) {
        return std::future::ready(method_not_allowed()).boxed();
    }
    let services = services.clone();
    async move { endpoint.respond(&services).await }.boxed()
}

/// An endpoint, with the parameters of the request.
enum Endpoint {
    Version,
    Health { excluded: Vec<String> },
    Metrics,
    Checks { checks: &'static [&'static str], excluded: Vec<String>, verbose: bool },
}

/// The checks of a path: all checks of the endpoint, or the check that the path names.
fn checks_of_path(path: &str) -> Option<&'static [&'static str]> {
    let path = path.strip_prefix('/')?;
    let (kind, single) =
        path.split_once('/').map_or((path, None), |(kind, check)| (kind, Some(check)));
    let all = match kind {
        "livez" => LIVEZ_CHECKS,
        "readyz" => READYZ_CHECKS,
        _ => return None,
    };
    match single {
        None => Some(all),
        Some(single) => {
            let index = all.iter().position(|check| *check == single)?;
            Some(&all[index..=index])
        }
    }
}

/// All values of a query parameter, in order.
fn query_values<B>(request: &Request<B>, name: &str) -> Vec<String> {
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let pairs = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(given, _)| *given == name).map(|(_, value)| value.to_owned()).collect()
}

impl Endpoint {
    /// Builds the response of the endpoint.
    async fn respond(self, services: &Services) -> CallResult {
        match self {
            Self::Version => response(StatusCode::OK, JSON_CONTENT_TYPE, version_json()),
            Self::Metrics => {
                response(StatusCode::OK, METRICS_CONTENT_TYPE, metrics(services).await)
            }
            Self::Health { excluded } => {
                let selects = |alarm: AlarmType| !excluded.iter().any(|x| x == alarm.as_str_name());
                let alarm = services.alarms().first_raised(selects);
                let reason = match (alarm, services.header().await) {
                    (Some(alarm), _) => format!("ALARM {}", alarm.as_str_name()),
                    (None, Err(status)) => format!("RANGE ERROR:{}", status.message()),
                    (None, Ok(_)) => {
                        let healthy = r#"{"health":"true","reason":""}"#;
                        return response(StatusCode::OK, TEXT_CONTENT_TYPE, healthy.to_owned());
                    }
                };
                let text = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT_CONTENT_TYPE, text)
            }
            Self::Checks { checks, excluded, verbose } => {
                let (mut text, mut healthy) = (String::new(), true);
                for check in checks.iter().filter(|check| !excluded.iter().any(|x| x == *check)) {
                    let failure = check_failure(check, services).await;
                    healthy &= failure.is_none();
                    text += &match failure {
                        None => format!("[+]{check} ok\n"),
                        Some(reason) => format!("[-]{check} failed: {reason}\n"),
                    };
                }
                if !healthy {
                    return response(
                        StatusCode::SERVICE_UNAVAILABLE,
                        TEXT_CONTENT_TYPE,
                        text + "\n",
                    );
                }
                let text = if verbose { text } else { String::new() };
                response(StatusCode::OK, TEXT_CONTENT_TYPE, text + "ok\n")
            }
        }
    }
}

/// Why a check fails; `None` if it passes.
async fn check_failure(check: &str, services: &Services) -> Option<String> {
    match check {
        "data_corruption" => {
            let alarm = services.alarms().first_raised(|alarm| alarm == AlarmType::Corrupt)?;
            Some(format!("alarm activated: {}", alarm.as_str_name()))
        }
        "non_learner" => None,
        _ => services.header().await.err().map(|status| status.message().to_owned()),
    }
}

/// The minor version: `3.5` of `3.5.30`.
fn minor_version() -> &'static str {
    ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(minor, _)| minor)
}

fn version_json() -> String {
    let minor = minor_version();
    format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{minor}.0"}}"#)
}

/// etcd's metrics, as far as this server has their values.
async fn metrics(services: &Services) -> String {
    let header = services.header().await.ok();
    let up = i32::from(header.is_some());
    let coord_core::kv::Header { member_id, revision, .. } = header.unwrap_or_default();
    let minor = minor_version();
    let watch_gauges = services.watch_gauges();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let gauges = [
        ("etcd_server_has_leader", String::new(), i64::from(up)),
        ("etcd_server_is_leader", String::new(), i64::from(up)),
        ("etcd_server_is_learner", String::new(), 0),
        ("etcd_server_id", format!(r#"{{server_id="{member_id:x}"}}"#), 1),
        ("etcd_server_version", format!(r#"{{server_version="{ETCD_VERSION}"}}"#), 1),
        ("etcd_cluster_version", format!(r#"{{cluster_version="{minor}"}}"#), 1),
        ("etcd_debugging_mvcc_current_revision", String::new(), revision.0),
        (
            "etcd_debugging_mvcc_watch_stream_total",
            String::new(),
            count(watch_gauges.streams.get()),
        ),
        ("etcd_debugging_mvcc_watcher_total", String::new(), count(watch_gauges.watches.get())),
    ];
    let gauges = gauges
        .map(|(name, labels, value)| format!("# TYPE {name} gauge\n{name}{labels} {value}\n"));
    gauges.concat()
}

fn method_not_allowed() -> CallResult {
    let text = "Method Not Allowed\n".to_owned();
    let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT_CONTENT_TYPE, text)?;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Ok(response)
}

fn response(status: StatusCode, content_type: HeaderValue, text: String) -> CallResult {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}
