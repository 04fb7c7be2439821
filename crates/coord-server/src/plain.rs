//! What is asked without gRPC: whether the server is well, which version it is, how it fares.
//!
//! Scripts that wait for an etcd to start ask it with curl, and so do probes.
//!
//! Source: etcd 3.5 `server/etcdserver/api/etcdhttp`.

use bytes::Bytes;
use etcd_client::AlarmType;
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
        "/health" => Page::Health { excluded: asked(request, "exclude") },
        "/metrics" => Page::Metrics,
        _ => match checks(path) {
            Some(checks) => Page::Checks {
                checks,
                excluded: asked(request, "exclude"),
                verbose: !asked(request, "verbose").is_empty(),
            },
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
    Health { excluded: Vec<String> },
    Metrics,
    Checks { checks: &'static [&'static str], excluded: Vec<String>, verbose: bool },
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

/// What the query gives under a name, as often as it does.
fn asked<B>(request: &Request<B>, name: &str) -> Vec<String> {
    let words = request.uri().query().unwrap_or_default().split('&');
    let pairs = words.map(|word| word.split_once('=').unwrap_or((word, "")));
    pairs.filter(|(given, _)| *given == name).map(|(_, value)| value.to_owned()).collect()
}

impl Page {
    async fn show(self, services: &Services) -> Answered {
        match self {
            Self::Version => said(StatusCode::OK, JSON, version()),
            Self::Metrics => said(StatusCode::OK, METRICS, metrics(services).await),
            Self::Health { excluded } => {
                let counts = |alarm: AlarmType| !excluded.iter().any(|x| x == alarm.as_str_name());
                let sick = match (services.alarms().first(counts), services.header().await) {
                    (Some(alarm), _) => format!("ALARM {}", alarm.as_str_name()),
                    (None, Err(why)) => format!("RANGE ERROR:{}", why.message()),
                    (None, Ok(_)) => {
                        let well = r#"{"health":"true","reason":""}"#;
                        return said(StatusCode::OK, TEXT, well.to_owned());
                    }
                };
                let text = format!("{{\"health\":\"false\",\"reason\":\"{sick}\"}}\n");
                said(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
            Self::Checks { checks, excluded, verbose } => {
                let (mut text, mut well) = (String::new(), true);
                for check in checks.iter().filter(|check| !excluded.iter().any(|x| x == *check)) {
                    let fault = fault(check, services).await;
                    well &= fault.is_none();
                    text += &match fault {
                        None => format!("[+]{check} ok\n"),
                        Some(why) => format!("[-]{check} failed: {why}\n"),
                    };
                }
                if !well {
                    return said(StatusCode::SERVICE_UNAVAILABLE, TEXT, text + "\n");
                }
                let text = if verbose { text } else { String::new() };
                said(StatusCode::OK, TEXT, text + "ok\n")
            }
        }
    }
}

/// What a check finds wrong.
async fn fault(check: &str, services: &Services) -> Option<String> {
    match check {
        "data_corruption" => {
            let alarm = services.alarms().first(|alarm| alarm == AlarmType::Corrupt)?;
            Some(format!("alarm activated: {}", alarm.as_str_name()))
        }
        "non_learner" => None,
        _ => services.header().await.err().map(|why| why.message().to_owned()),
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
async fn metrics(services: &Services) -> String {
    let header = services.header().await.ok();
    let up = i32::from(header.is_some());
    let coord_core::kv::Header { member_id, revision, .. } = header.unwrap_or_default();
    let minor = minor();
    let watching = services.watching();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let gauges = [
        ("etcd_server_has_leader", String::new(), i64::from(up)),
        ("etcd_server_is_leader", String::new(), i64::from(up)),
        ("etcd_server_is_learner", String::new(), 0),
        ("etcd_server_id", format!(r#"{{server_id="{member_id:x}"}}"#), 1),
        ("etcd_server_version", format!(r#"{{server_version="{VERSION}"}}"#), 1),
        ("etcd_cluster_version", format!(r#"{{cluster_version="{minor}"}}"#), 1),
        ("etcd_debugging_mvcc_current_revision", String::new(), revision.0),
        ("etcd_debugging_mvcc_watch_stream_total", String::new(), count(watching.streams.get())),
        ("etcd_debugging_mvcc_watcher_total", String::new(), count(watching.watches.get())),
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
