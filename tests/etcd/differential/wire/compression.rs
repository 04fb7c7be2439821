//! Compression with gzip.
//!
//! etcd accepts gzip, and responds with gzip to a client that sent gzip. A client that only accepts
//! gzip receives uncompressed responses.

use coord_etcd_tests::create_watch;
use coord_etcd_tests::raw_client::rejection;
use etcd_client::proto::{PbPutResponse, PbRangeResponse, PbWatchRequest, PbWatchResponse};
use futures_util::{StreamExt, stream};
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::kv::{put, range};
use crate::scenario_run::ScenarioRun;

#[derive(Clone, PartialEq, prost::Message)]
struct LockRequest {
    #[prost(bytes, tag = "1")]
    name: Vec<u8>,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LockResponse {
    #[prost(bytes, tag = "2")]
    key: Vec<u8>,
}

/// The compression of a response, if any.
fn encoding<A>(response: &Response<A>) -> Option<MetadataValue<tonic::metadata::Ascii>> {
    response.metadata().get("grpc-encoding").cloned()
}

async fn call<Q, A>(
    mut grpc: Grpc<Channel>,
    path: &'static str,
    request: Request<Q>,
) -> Result<Response<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    grpc.ready().await.unwrap();
    grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await
}

pub(crate) async fn gzip(run: &mut ScenarioRun) {
    let (puts, reads) = ("/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range");
    let accepts = run.grpc().await.accept_compressed(Gzip);
    let sends = accepts.clone().send_compressed(Gzip);
    for (what, grpc) in [("sends gzip", &sends), ("accepts gzip", &accepts)] {
        for bytes in [1, 10_000, 1_000_000, 1_600_000] {
            let request = Request::new(put("a", &"x".repeat(bytes)));
            let response = call::<_, PbPutResponse>(grpc.clone(), puts, request).await;
            let response = response.map(|response| (encoding(&response), response.into_inner()));
            run.record(&format!("{what}: put of {bytes}"), response);
        }
        let response =
            call::<_, PbRangeResponse>(grpc.clone(), reads, Request::new(range("a", ""))).await;
        let response =
            response.map(|response| (encoding(&response), response.into_inner().kvs[0].version));
        run.record(&format!("{what}: read"), response);
    }
    // Compressed below the size limit, decompressed above it.
    let large = Request::new(put("a", &"x".repeat(20_000_000)));
    let response = call::<_, PbPutResponse>(sends.clone(), puts, large).await;
    run.note("large when decompressed", response.map(|_| ()).map_err(|status| status.code()));
    // A service whose messages etcd-client does not export.
    run.grant("grant", 5, 60).await;
    let lock = Request::new(LockRequest { name: b"m".to_vec(), lease: 5 });
    let response = call::<_, LockResponse>(sends.clone(), "/v3lockpb.Lock/Lock", lock).await;
    run.record("lock", response.map(|response| (encoding(&response), response.into_inner())));
    let mut unknown = Request::new(put("a", "1"));
    unknown.metadata_mut().insert("grpc-encoding", MetadataValue::from_static("snappy"));
    let response = call::<_, PbPutResponse>(accepts, puts, unknown).await;
    run.note("unknown compression", response.map(|_| ()).map_err(|status| rejection(&status)));
    watch(run, sends).await;
}

async fn watch(run: &mut ScenarioRun, mut grpc: Grpc<Channel>) {
    let create = PbWatchRequest { request_union: Some(create_watch!("a", start_revision: 2)) };
    grpc.ready().await.unwrap();
    let requests = stream::iter([create]).chain(stream::pending());
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let codec = ProstCodec::<_, PbWatchResponse>::default();
    let stream = grpc.streaming(Request::new(requests), path, codec).await.unwrap();
    run.note("watch", encoding(&stream));
    let mut stream = stream.into_inner();
    for what in ["created", "events"] {
        let message = stream.message().await;
        let message =
            message.map(|message| message.map(|message| (message.created, message.events.len())));
        run.record(what, message);
    }
}
