//! Unary fast path: calls with one small request message and one response message.
//!
//! tonic treats every call as two streams of messages, each with a buffer of 8 KiB. This module
//! decodes a request message that arrived in one frame in place, and encodes the response into a
//! buffer of its exact size. Most calls qualify. A request whose body is large, compressed, empty
//! or malformed, or has several messages, is passed to tonic with its body unchanged. So only tonic
//! rejects request bodies.

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tonic::codegen::http::{Request, Response, Version};
use tonic::codegen::{Body as HttpBody, StdError};

use crate::status::GRPC_STATUS_HEADER;

const GRPC_ENCODING_HEADER: HeaderName = HeaderName::from_static("grpc-encoding");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");
const GRPC_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Length of a message's prefix: the compressed flag and the message length.
const PREFIX_BYTES: usize = 5;

/// The body of a request.
pub(crate) trait RequestBody:
    HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + Unpin + 'static
{
}

impl<B: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + Unpin + 'static> RequestBody
    for B
{
}

/// Decodes the request's message, or returns the request for tonic.
pub(crate) fn read_message<Q: prost::Message + Default>(
    request: Request<impl RequestBody>,
    max_bytes: usize,
) -> impl Future<Output = Result<Q, Request<impl RequestBody>>> + Send {
    let (head, mut body) = request.into_parts();
    // tonic needs the headers only for compression. Otherwise this function drops them, because
    // they are large and many calls are in progress at a time.
    let headers_for_tonic =
        head.headers.contains_key(GRPC_ENCODING_HEADER).then(|| Box::new(head.headers));
    async move {
        let first = body.frame().await;
        if headers_for_tonic.is_none()
            && body.is_end_stream()
            && let Some(Ok(frame)) = &first
            && let Some(data) = frame.data_ref()
            && let Some(message) = decode_exactly_one(data, max_bytes)
        {
            return Ok(message);
        }
        let all = stream::iter(first).chain(BodyStream::new(body));
        let mut request = Request::new(StreamBody::new(all));
        if let Some(headers) = headers_for_tonic {
            *request.headers_mut() = *headers;
        }
        Err(request)
    }
}

/// Decodes bytes that are exactly one prefix and one complete message.
fn decode_exactly_one<Q: prost::Message + Default>(mut data: &[u8], max_bytes: usize) -> Option<Q> {
    if data.len() < PREFIX_BYTES || data.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(data.get_u32()).ok()?;
    if length != data.len() || length > max_bytes {
        return None;
    }
    Q::decode(data).ok()
}

/// Encodes a response with one message.
pub(crate) fn response(message: &impl prost::Message) -> Response<Body> {
    let length = message.encoded_len();
    let Ok(prefix) = u32::try_from(length) else {
        // The status that tonic returns in this case.
        let text = format!("Cannot return body with more than 4GB of data but got {length} bytes");
        return Status::resource_exhausted(text).into_http();
    };
    let mut data = Vec::with_capacity(PREFIX_BYTES + length);
    data.put_u8(0);
    data.put_u32(prefix);
    message.encode_raw(&mut data);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS_HEADER, STATUS_OK);
    let frames = [Frame::data(Bytes::from(data)), Frame::trailers(trailers)];
    let frames = frames.map(Ok::<_, Status>);
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    *response.version_mut() = Version::HTTP_2;
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbPutRequest;
    use prost::Message;

    use super::*;

    #[test]
    fn fast_path_reads_exactly_one_whole_message() {
        let put = PbPutRequest { key: b"key".to_vec(), ..PbPutRequest::default() };
        let message = put.encode_to_vec();
        let length = u8::try_from(message.len()).expect("a small message");
        let framed = [&[0, 0, 0, 0, length], &message[..]].concat();
        let read = |data: &[u8], max| decode_exactly_one::<PbPutRequest>(data, max);
        assert_eq!(read(&framed, message.len()), Some(put));
        assert_eq!(read(&framed, message.len() - 1), None, "too large");
        assert_eq!(read(&framed[..4], 100), None, "half a prefix");
        assert_eq!(read(&framed[..framed.len() - 1], 100), None, "half a message");
        assert_eq!(read(&framed.repeat(2), 100), None, "two messages");
        let compressed = [&[1], &framed[1..]].concat();
        assert_eq!(read(&compressed, 100), None, "compressed");
        assert_eq!(read(&[0, 0, 0, 0, 1, 0xff], 100), None, "malformed");
    }
}
