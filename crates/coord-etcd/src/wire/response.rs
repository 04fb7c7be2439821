//! Responses to requests about keys, from and to etcd's messages.

use coord_core::kv::{
    CompactResponse, DeleteResponse, Header, KeyValue, OpResponse, PutResponse, RangeResponse,
    TxnResponse,
};
use etcd_client::proto::{
    PbCompactionResponse, PbDeleteResponse, PbPutResponse, PbRangeResponse, PbResponseOp,
    PbTxnOpResponse, PbTxnResponse,
};

use super::{FromWire, Malformed, ToWire, read_all, write_all};

impl ToWire for RangeResponse {
    type Wire = PbRangeResponse;

    fn to_wire(self) -> PbRangeResponse {
        PbRangeResponse {
            header: Some(self.header.to_wire()),
            kvs: write_all(self.kvs),
            more: self.more,
            count: self.count,
        }
    }
}

impl FromWire<PbRangeResponse> for RangeResponse {
    fn from_wire(wire: PbRangeResponse) -> Result<Self, Malformed> {
        let PbRangeResponse { header, kvs, more, count } = wire;
        Ok(Self { header: Header::from_wire(header)?, kvs: read_all(kvs)?, more, count })
    }
}

impl ToWire for PutResponse {
    type Wire = PbPutResponse;

    fn to_wire(self) -> PbPutResponse {
        let prev_kv = self.prev_kv.map(KeyValue::to_wire);
        PbPutResponse { header: Some(self.header.to_wire()), prev_kv }
    }
}

impl FromWire<PbPutResponse> for PutResponse {
    fn from_wire(wire: PbPutResponse) -> Result<Self, Malformed> {
        let prev_kv = wire.prev_kv.map(KeyValue::from_wire).transpose()?;
        Ok(Self { header: Header::from_wire(wire.header)?, prev_kv })
    }
}

impl ToWire for DeleteResponse {
    type Wire = PbDeleteResponse;

    fn to_wire(self) -> PbDeleteResponse {
        PbDeleteResponse {
            header: Some(self.header.to_wire()),
            deleted: self.deleted,
            prev_kvs: write_all(self.prev_kvs),
        }
    }
}

impl FromWire<PbDeleteResponse> for DeleteResponse {
    fn from_wire(wire: PbDeleteResponse) -> Result<Self, Malformed> {
        let PbDeleteResponse { header, deleted, prev_kvs } = wire;
        Ok(Self { header: Header::from_wire(header)?, deleted, prev_kvs: read_all(prev_kvs)? })
    }
}

impl ToWire for TxnResponse {
    type Wire = PbTxnResponse;

    fn to_wire(self) -> PbTxnResponse {
        PbTxnResponse {
            header: Some(self.header.to_wire()),
            succeeded: self.succeeded,
            responses: write_all(self.responses),
        }
    }
}

impl FromWire<PbTxnResponse> for TxnResponse {
    fn from_wire(wire: PbTxnResponse) -> Result<Self, Malformed> {
        let PbTxnResponse { header, succeeded, responses } = wire;
        Ok(Self { header: Header::from_wire(header)?, succeeded, responses: read_all(responses)? })
    }
}

impl ToWire for OpResponse {
    type Wire = PbResponseOp;

    fn to_wire(self) -> PbResponseOp {
        let response = match self {
            Self::Range(range) => PbTxnOpResponse::ResponseRange(range.to_wire()),
            Self::Put(put) => PbTxnOpResponse::ResponsePut(put.to_wire()),
            Self::Delete(delete) => PbTxnOpResponse::ResponseDeleteRange(delete.to_wire()),
            Self::Txn(txn) => PbTxnOpResponse::ResponseTxn(txn.to_wire()),
        };
        PbResponseOp { response: Some(response) }
    }
}

impl FromWire<PbResponseOp> for OpResponse {
    fn from_wire(wire: PbResponseOp) -> Result<Self, Malformed> {
        Ok(
            match wire
                .response
                .ok_or(Malformed("an empty response to an operation of a transaction"))?
            {
                PbTxnOpResponse::ResponseRange(range) => {
                    Self::Range(RangeResponse::from_wire(range)?)
                }
                PbTxnOpResponse::ResponsePut(put) => Self::Put(PutResponse::from_wire(put)?),
                PbTxnOpResponse::ResponseDeleteRange(delete) => {
                    Self::Delete(DeleteResponse::from_wire(delete)?)
                }
                PbTxnOpResponse::ResponseTxn(txn) => Self::Txn(TxnResponse::from_wire(txn)?),
            },
        )
    }
}

impl ToWire for CompactResponse {
    type Wire = PbCompactionResponse;

    fn to_wire(self) -> PbCompactionResponse {
        PbCompactionResponse { header: Some(self.header.to_wire()) }
    }
}

impl FromWire<PbCompactionResponse> for CompactResponse {
    fn from_wire(wire: PbCompactionResponse) -> Result<Self, Malformed> {
        Ok(Self { header: Header::from_wire(wire.header)? })
    }
}
