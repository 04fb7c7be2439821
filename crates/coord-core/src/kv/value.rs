//! Typed values: encoding and decoding of the values of keys.

use std::error::Error as StdError;
use std::string::FromUtf8Error;

use bytes::Bytes;

/// A type that can be encoded as the value of a key, and decoded from it.
///
/// [`Transaction::get_as`](crate::stm::Transaction::get_as) and
/// [`put_as`](crate::stm::Transaction::put_as) use it, and so do the
/// [recipes](crate::recipes). `Bytes`, `String`, `i64` as decimal text, and with the feature `json`
/// `Json<T>`, implement it.
///
/// ```
/// use bytes::Bytes;
/// use coord_core::kv::Value;
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
    /// The error of encoding or decoding.
    type Error: StdError + Send + Sync + 'static;

    /// Encodes the value.
    ///
    /// # Errors
    /// The value cannot be encoded.
    fn encode(&self) -> Result<Bytes, Self::Error>;

    /// Decodes the value.
    ///
    /// # Errors
    /// The bytes are not a value of this type.
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

/// The error of decoding an `i64`: the bytes are not a decimal number of 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not a decimal number from -2^63 to 2^63 - 1", found.escape_ascii())]
#[non_exhaustive]
pub struct InvalidNumber {
    /// The bytes.
    pub found: Bytes,
}

/// A number as decimal text, which every client can read.
impl Value for i64 {
    type Error = InvalidNumber;

    fn encode(&self) -> Result<Bytes, Self::Error> {
        Ok(self.to_string().into())
    }

    fn decode(bytes: Bytes) -> Result<Self, Self::Error> {
        let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
        number.ok_or(InvalidNumber { found: bytes })
    }
}

/// A type that implements serde's traits, encoded as JSON.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a wrapper that callers destructure")]
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
