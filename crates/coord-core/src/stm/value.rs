//! Typed values of keys.

use std::error::Error as StdError;
use std::string::FromUtf8Error;

use bytes::Bytes;

/// Encodes a type as a value of the store, and decodes it.
///
/// ```
/// use bytes::Bytes;
/// use coord_core::stm::Value;
///
/// struct Celsius(i16);
///
/// impl Value for Celsius {
///     type Error = std::array::TryFromSliceError;
///
///     fn encode(&self) -> Result<Bytes, Self::Error> {
///         Ok(Bytes::copy_from_slice(&self.0.to_be_bytes()))
///     }
///
///     fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
///         Ok(Self(i16::from_be_bytes(bytes[..].try_into()?)))
///     }
/// }
///
/// assert_eq!(Celsius::decode(Celsius(-7).encode().unwrap()).unwrap().0, -7);
/// ```
pub trait Value: Sized {
    /// Why a value cannot be encoded, or bytes cannot be decoded.
    type Error: StdError + Send + Sync + 'static;

    /// Encodes the value.
    ///
    /// # Errors
    /// If the value cannot be encoded.
    fn encode(&self) -> Result<Bytes, Self::Error>;

    /// Decodes the value.
    ///
    /// # Errors
    /// If the bytes are no such value.
    fn decode(bytes: Bytes) -> Result<Self, Self::Error>;
}

impl Value for Bytes {
    type Error = std::convert::Infallible;

    fn encode(&self) -> Result<Bytes, Self::Error> {
        Ok(self.clone())
    }

    fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
        Ok(bytes)
    }
}

impl Value for String {
    type Error = FromUtf8Error;

    fn encode(&self) -> Result<Bytes, Self::Error> {
        Ok(Bytes::copy_from_slice(self.as_bytes()))
    }

    fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
        Self::from_utf8(bytes.into())
    }
}

/// A type that implements serde's traits, encoded as JSON.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a wrapper, to be taken apart")]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Value for Json<T> {
    type Error = serde_json::Error;

    fn encode(&self) -> Result<Bytes, Self::Error> {
        serde_json::to_vec(&self.0).map(Bytes::from)
    }

    fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
        serde_json::from_slice(&bytes).map(Self)
    }
}
