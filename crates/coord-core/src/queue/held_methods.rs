//! The methods that the guards of queue keys have in common: what they hold, and until when.
//!
//! Macros, and no trait: users call these methods without an import, and each page of the docs
//! lists them with its own words. The fencing token is not among them, because its meaning differs.
//! `$held` names what the guard holds, for the docs: "the lock".
//!
//! | macro | for guards with |
//! |---|---|
//! | `held_methods` | the method `ownership`, which one of the other two defines |
//! | `contender_methods` | the fields `contender`, and `span`, open as long as the guard exists |
//! | `key_guard_methods` | the field `guard`, a `KeyGuard` |

/// Implements the methods of every guard, inside its `impl` block.
macro_rules! held_methods {
    ($held:literal) => {
        #[doc = concat!("Returns the session that holds ", $held, ".")]
        #[must_use]
        pub fn session(&self) -> &$crate::session::Session {
            self.ownership().session()
        }

        #[doc = concat!(
            "Returns a compare, for a transaction, that holds as long as this guard holds ", $held,
            "."
        )]
        #[must_use]
        pub fn held_condition(&self) -> $crate::kv::Compare {
            self.ownership().held_condition()
        }

        #[doc = concat!(
            "Applies `txn` if this guard still holds ", $held, ". The store evaluates that ",
            "condition in the same transaction."
        )]
        ///
        /// `txn` may have one operation less than the limit of the backend.
        ///
        /// # Errors
        #[doc = concat!("- `Lost` if this guard has lost ", $held, ": nothing was applied.")]
        /// - The error of the backend, with its own outcome.
        ///
        /// # Cancel safety
        /// If the future is dropped, it is unknown whether the transaction was applied.
        pub async fn txn(
            &self,
            txn: $crate::kv::Txn,
        ) -> Result<$crate::kv::TxnResponse, $crate::error::PrimitiveError> {
            self.ownership().txn(txn).await
        }

        #[doc = concat!("Waits until this guard has lost ", $held, ", and returns the reason.")]
        /// A watch that has fallen silent delays the report by the TTL of the session at most.
        ///
        /// # Cancel safety
        /// Safe: call it again.
        pub async fn lost(&self) -> $crate::error::LossReason {
            self.ownership().lost().await
        }
    };
}

/// Implements the methods of the guard of a contender, inside its `impl` block.
macro_rules! contender_methods {
    ($held:literal) => {
        const fn ownership(&self) -> &$crate::queue::Ownership {
            self.contender.ownership()
        }

        /// Returns the key of this guard in the queue.
        #[must_use]
        pub fn key(&self) -> &::bytes::Bytes {
            self.contender.key()
        }

        #[doc = concat!("Returns the header of the response that confirmed ", $held, ".")]
        #[must_use]
        pub const fn header(&self) -> $crate::kv::Header {
            self.contender.header()
        }

        #[doc = concat!(
            "Returns a token that is cancelled when this guard has lost ", $held, ", and when it ",
            "is released or dropped. Each call returns a new token; cancelling it does not affect ",
            "the guard."
        )]
        #[must_use]
        pub fn cancellation_token(&self) -> ::tokio_util::sync::CancellationToken {
            self.contender.cancellation_token()
        }

        #[doc = concat!(
            "Runs `future` while this guard holds ", $held, ". After a loss, `future` is dropped."
        )]
        ///
        /// # Errors
        /// The reason of the loss. The side effects of `future` until then remain.
        ///
        /// # Cancel safety
        /// Dropping this future drops `future`.
        pub async fn run_while_held<F: Future + Send>(
            &self,
            future: F,
        ) -> Result<F::Output, $crate::error::LossReason> {
            let future = ::tracing::Instrument::instrument(future, self.span.clone());
            self.contender.run_while_held(future).await
        }
    };
}

/// Implements the methods of a guard whose key is in no queue, inside its `impl` block.
macro_rules! key_guard_methods {
    ($held:literal) => {
        const fn ownership(&self) -> &$crate::queue::Ownership {
            self.guard.ownership()
        }

        #[doc = concat!(
            "Runs `future` while this guard holds ", $held, ". After a loss, `future` is dropped."
        )]
        ///
        /// # Errors
        /// The reason of the loss. The side effects of `future` until then remain.
        ///
        /// # Cancel safety
        /// Dropping this future drops `future`.
        pub async fn run_while_held<F: Future + Send>(
            &self,
            future: F,
        ) -> Result<F::Output, $crate::error::LossReason> {
            $crate::queue::run_until_lost(self.lost(), future).await
        }
    };
}

/// Implements [`Held`](super::Held) for guards with the field `contender`.
macro_rules! impl_held {
    ($($guard:ty),*) => {$(
        impl $crate::queue::Held for $guard {
            fn contender(&self) -> &$crate::queue::Contender {
                &self.contender
            }

            fn into_contender(self) -> $crate::queue::Contender {
                self.contender
            }
        }
    )*};
}

pub(crate) use {contender_methods, held_methods, impl_held, key_guard_methods};
