//! What is asked without gRPC: whether the server is well, and which version it is.
//!
//! Scripts that wait for an etcd to start ask it with curl.
//!
//! Source: etcd 3.5 `server/etcdserver/api/etcdhttp`.

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, StatusCode, header};

use crate::call::{Answer, Answered};
use crate::maintenance::VERSION;
use crate::services::Services;

/// Whether a request is none of gRPC's.
pub(crate) fn is_plain<B>(request: &Request<B>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    !content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// Answers it.
pub(crate) fn call<B>(services: &Services, request: &Request<B>) -> Answer {
    let version = || {
        let cluster = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
        format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}.0"}}"#)
    };
    match request.uri().path() {
        "/version" => std::future::ready(said(StatusCode::OK, version())).boxed(),
        "/health" => {
            let services = services.clone();
            async move {
                let alarm = services.alarms().first();
                let sick = match (alarm, services.header().await) {
                    (Some(alarm), _) => format!("ALARM {}", alarm.as_str_name()),
                    (None, Err(_)) => "RANGE ERROR".to_owned(),
                    (None, Ok(_)) => {
                        let well = r#"{"health":"true","reason":""}"#;
                        return said(StatusCode::OK, well.to_owned());
                    }
                };
                let sick = format!(r#"{{"health":"false","reason":"{sick}"}}"#);
                said(StatusCode::SERVICE_UNAVAILABLE, sick)
            }
            .boxed()
        }
        _ => {
            let text = "404 page not found\n".to_owned();
            std::future::ready(said(StatusCode::NOT_FOUND, text)).boxed()
        }
    }
}

fn said(status: StatusCode, text: String) -> Answered {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let json = if status == StatusCode::NOT_FOUND { "text/plain" } else { "application/json" };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(json));
    Ok(response)
}
