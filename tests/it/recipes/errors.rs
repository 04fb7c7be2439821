//! The errors of all recipes convert into `PrimitiveError`, with their outcome.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use coord_core::error::{Error, LossReason, Outcome, PrimitiveError, Source};
use coord_core::recipes::{
    CounterError, DoubleBarrierError, LatchError, MessageQueueError, MultiLockError,
    PrefixCacheError, RateLimiterError, SemaphoreError, ShardAssignmentError, UpgradeFailure,
};

/// An error of the backend that is retryable, and whose outcome is unknown.
fn unavailable() -> Error {
    Error::Unavailable { outcome: Outcome::Unknown, reason: "no leader".to_owned(), source: None }
}

/// The message, the outcome, and whether a call may succeed later.
type Seen = (String, Outcome, bool);

fn seen(error: &PrimitiveError) -> Seen {
    (error.to_string(), error.outcome(), error.is_retryable())
}

/// The error of a recipe, and what it is converted into.
macro_rules! converted {
    ($error:expr) => {{
        let error = $error;
        let before: Seen = (error.to_string(), error.outcome(), error.is_retryable());
        (before, PrimitiveError::from(error))
    }};
}

#[test]
fn errors_of_one_recipe_only_keep_their_type_and_outcome() {
    fn is<E: StdError + 'static>(error: &Source) -> bool {
        error.downcast_ref::<E>().is_some()
    }
    let (prefix, writer) = (Bytes::from("jobs/"), Bytes::from("a/write/1-1"));
    let delay = MessageQueueError::InvalidDelay { delay: Duration::ZERO, limit: Duration::MAX };
    let unknown = MessageQueueError::OutcomeUnknown(LossReason::Expired.into());
    type Is = fn(&Source) -> bool;
    let none = Outcome::NotApplied;
    let errors: [(_, Is, _); 11] = [
        (converted!(CounterError::InvalidStripes { stripes: 0, max: 9 }), is::<CounterError>, none),
        (converted!(DoubleBarrierError::NoParties), is::<DoubleBarrierError>, none),
        (converted!(LatchError::NoCount), is::<LatchError>, none),
        (converted!(delay), is::<MessageQueueError>, none),
        (converted!(unknown), is::<MessageQueueError>, Outcome::Unknown),
        (converted!(MultiLockError::NoNames), is::<MultiLockError>, none),
        (
            converted!(PrefixCacheError::TooLarge { prefix, bytes_max: 1 }),
            is::<PrefixCacheError>,
            none,
        ),
        (converted!(RateLimiterError::Released), is::<RateLimiterError>, none),
        (converted!(SemaphoreError::InvalidLimit { limit: 0 }), is::<SemaphoreError>, none),
        (converted!(ShardAssignmentError::NoShards), is::<ShardAssignmentError>, none),
        (converted!(UpgradeFailure::Refused { writer }), is::<UpgradeFailure>, none),
    ];
    for ((before, error), is_of_recipe, outcome) in errors {
        assert_eq!(before, seen(&error));
        assert_eq!((error.outcome(), error.is_retryable(), error.loss()), (outcome, false, None));
        let PrimitiveError::Recipe { error: of_recipe, .. } = &error else { panic!("{error}") };
        assert!(is_of_recipe(of_recipe), "{error}");
    }
}

/// Membership, barriers and shared values have no error type of their own.
#[test]
fn backend_errors_of_recipes_convert_unwrapped() {
    let errors = [
        converted!(CounterError::from(unavailable())),
        converted!(DoubleBarrierError::from(unavailable())),
        converted!(LatchError::from(unavailable())),
        converted!(MessageQueueError::from(unavailable())),
        converted!(PrefixCacheError::from(unavailable())),
        converted!(RateLimiterError::from(unavailable())),
        converted!(SemaphoreError::from(unavailable())),
        converted!(ShardAssignmentError::from(unavailable())),
        converted!(UpgradeFailure::from(PrimitiveError::from(unavailable()))),
    ];
    for (before, error) in errors {
        assert_eq!(before, seen(&error));
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, true));
        assert!(matches!(error, PrimitiveError::Backend(Error::Unavailable { .. })), "{error}");
    }
}

/// The error of a recipe that has a session, and the loss before and after its conversion.
#[test]
fn losses_of_recipes_convert_into_losses() {
    macro_rules! losses {
        ($($error:ident),+) => {
            [$({
                let error = $error::from(PrimitiveError::from(LossReason::Revoked));
                (error.loss(), PrimitiveError::from(error))
            }),+]
        };
    }
    let losses = losses![
        DoubleBarrierError,
        MessageQueueError,
        RateLimiterError,
        SemaphoreError,
        ShardAssignmentError,
        UpgradeFailure
    ];
    for (before, error) in losses {
        assert_eq!(before, Some(LossReason::Revoked));
        assert!(matches!(error, PrimitiveError::Lost(LossReason::Revoked)), "{error}");
    }
}
