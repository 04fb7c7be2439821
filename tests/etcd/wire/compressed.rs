//! Messages that the client compresses.
//!
//! etcd reads gzip, and answers whoever speaks it in kind; who only says that they could read it
//! is answered plainly.

use coord_etcd_tests::bare::refusal;
use coord_etcd_tests::create;
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
use crate::play::Play;

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

/// What an answer was compressed with.
fn encoding<A>(answer: &Response<A>) -> Option<MetadataValue<tonic::metadata::Ascii>> {
    answer.metadata().get("grpc-encoding").cloned()
}

async fn ask<Q, A>(
    mut grpc: Grpc<Channel>,
    path: &'static str,
    request: Request<Q>,
) -> Result<Response<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    grpc.ready().await.expect("the server is there");
    grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await
}

pub(crate) async fn gzip_is_answered_in_kind(play: &mut Play) {
    let (puts, reads) = ("/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range");
    let listens = play.grpc().await.accept_compressed(Gzip);
    let speaks = listens.clone().send_compressed(Gzip);
    for (who, grpc) in [("speaks", &speaks), ("listens", &listens)] {
        for bytes in [1, 10_000, 1_000_000, 1_600_000] {
            let request = Request::new(put("a", &"x".repeat(bytes)));
            let answer = ask::<_, PbPutResponse>(grpc.clone(), puts, request).await;
            let answer = answer.map(|answer| (encoding(&answer), answer.into_inner()));
            play.told(&format!("{who}: put of {bytes}"), answer);
        }
        let answer =
            ask::<_, PbRangeResponse>(grpc.clone(), reads, Request::new(range("a", ""))).await;
        let answer = answer.map(|answer| (encoding(&answer), answer.into_inner().kvs[0].version));
        play.told(&format!("{who}: read"), answer);
    }
    // Small as it is sent, and large when it is read.
    let bomb = Request::new(put("a", &"x".repeat(20_000_000)));
    let answer = ask::<_, PbPutResponse>(speaks.clone(), puts, bomb).await;
    play.note("bomb", answer.map(|_| ()).map_err(|status| status.code()));
    // A service that has no code of etcd-client's.
    play.grant("grant", 5, 60).await;
    let lock = Request::new(LockRequest { name: b"m".to_vec(), lease: 5 });
    let answer = ask::<_, LockResponse>(speaks.clone(), "/v3lockpb.Lock/Lock", lock).await;
    play.told("lock", answer.map(|answer| (encoding(&answer), answer.into_inner())));
    let mut strange = Request::new(put("a", "1"));
    strange.metadata_mut().insert("grpc-encoding", MetadataValue::from_static("snappy"));
    let answer = ask::<_, PbPutResponse>(listens, puts, strange).await;
    play.note("strange", answer.map(|_| ()).map_err(|status| refusal(&status)));
    watch(play, speaks).await;
}

async fn watch(play: &mut Play, mut grpc: Grpc<Channel>) {
    let create = PbWatchRequest { request_union: Some(create!("a", start_revision: 2)) };
    grpc.ready().await.expect("the server is there");
    let saying = stream::iter([create]).chain(stream::pending());
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let codec = ProstCodec::<_, PbWatchResponse>::default();
    let talk = grpc.streaming(Request::new(saying), path, codec).await.expect("a watch stream");
    play.note("watch", encoding(&talk));
    let mut talk = talk.into_inner();
    for what in ["created", "events"] {
        let told = talk.message().await.map(|told| told.map(|told| (told.created, told.events)));
        let told = told.map(|told| told.map(|(created, events)| (created, events.len())));
        play.told(what, told);
    }
}
