//! Masks: the fields of a response that may differ between two backends.
//!
//! Two masked responses must be equal in every field. The documentation of the [mirror](super)
//! lists the masked fields.

use std::fmt::Debug;

use coord_core::{
    Error,
    kv::{
        CompactResponse, DeleteResponse, Header, LeaseGrantResponse, LeaseKeepAliveResponse,
        LeaseRevokeResponse, LeaseTimeToLiveResponse, LeasesResponse, OpResponse, PutResponse,
        RangeResponse, Revision, TxnResponse,
    },
};

/// A response that can be compared with another store's response to the same request.
pub(super) trait Mask: Debug + PartialEq + Send {
    /// Clears or normalizes the fields that may differ.
    fn mask(&mut self);

    /// The store's revision in the header; zero if it is masked.
    fn revision(&self) -> Revision;
}

impl Mask for Header {
    /// Keeps the revision. Of every other field, keeps only whether the field is set.
    fn mask(&mut self) {
        for id in [&mut self.cluster_id, &mut self.member_id, &mut self.raft_term] {
            *id = u64::from(*id != 0);
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Implements [`Mask`] for responses of which only the header is masked.
macro_rules! masked_by_header {
    ($($response:ty),+) => {
        $(impl Mask for $response {
            fn mask(&mut self) {
                self.header.mask();
            }

            fn revision(&self) -> Revision {
                self.header.revision
            }
        })+
    };
}

masked_by_header! {
    RangeResponse, PutResponse, DeleteResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseRevokeResponse
}

impl Mask for TxnResponse {
    fn mask(&mut self) {
        self.header.mask();
        for response in &mut self.responses {
            match response {
                OpResponse::Range(response) => response.mask(),
                OpResponse::Put(response) => response.mask(),
                OpResponse::Delete(response) => response.mask(),
                OpResponse::Txn(response) => response.mask(),
            }
        }
    }

    fn revision(&self) -> Revision {
        self.header.revision
    }
}

impl Mask for LeaseTimeToLiveResponse {
    fn mask(&mut self) {
        self.header.mask();
        if let Some(lease) = &mut self.lease {
            lease.keys.sort();
        }
    }

    fn revision(&self) -> Revision {
        self.header.revision
    }
}

impl Mask for LeasesResponse {
    fn mask(&mut self) {
        self.header.mask();
        self.header.revision = Revision::ZERO;
        self.leases.sort();
    }

    fn revision(&self) -> Revision {
        Revision::ZERO
    }
}

impl Mask for CompactResponse {
    fn mask(&mut self) {
        self.header.mask();
        self.header.revision = Revision::ZERO;
    }

    fn revision(&self) -> Revision {
        Revision::ZERO
    }
}

/// Whether two errors have the same kind, outcome and details. A detail that only one of the errors
/// has is not compared.
pub(super) fn same_error(left: &Error, right: &Error) -> bool {
    left.kind() == right.kind() && left.outcome() == right.outcome() && same_details(left, right)
}

fn same_details(left: &Error, right: &Error) -> bool {
    match (left, right) {
        (Error::KeyNotFound { key: left }, Error::KeyNotFound { key: right }) => {
            agree(left.as_ref(), right.as_ref())
        }
        (Error::LeaseNotFound { lease: left }, Error::LeaseNotFound { lease: right }) => {
            agree(*left, *right)
        }
        (
            Error::Compacted { requested: left, compact_revision: left_oldest },
            Error::Compacted { requested: right, compact_revision: right_oldest },
        ) => agree(*left, *right) && agree(*left_oldest, *right_oldest),
        (
            Error::FutureRevision { requested: left, current: left_newest },
            Error::FutureRevision { requested: right, current: right_newest },
        ) => agree(*left, *right) && agree(*left_newest, *right_newest),
        (Error::ValueProvided { key: left }, Error::ValueProvided { key: right })
        | (Error::LeaseProvided { key: left }, Error::LeaseProvided { key: right })
        | (Error::DuplicateKey { key: left }, Error::DuplicateKey { key: right }) => left == right,
        (
            Error::TooManyOps { count: left, limit: left_limit },
            Error::TooManyOps { count: right, limit: right_limit },
        ) => (left, left_limit) == (right, right_limit),
        (Error::EmptyWatchRange { keys: left }, Error::EmptyWatchRange { keys: right }) => {
            left == right
        }
        (Error::LeaseExists { lease: left }, Error::LeaseExists { lease: right }) => left == right,
        // The other errors have no details, only text for humans, or numbers that may differ.
        _ => true,
    }
}

/// Whether two details are equal, or one of them is absent.
fn agree<T: PartialEq>(left: Option<T>, right: Option<T>) -> bool {
    left.is_none() || right.is_none() || left == right
}

/// Both responses as text, one below the other.
pub(super) fn both_texts(left: &impl Debug, right: &impl Debug) -> String {
    let line = |response: String| response.chars().take(4_000).collect::<String>();
    format!("  left  {}\n  right {}", line(format!("{left:?}")), line(format!("{right:?}")))
}
