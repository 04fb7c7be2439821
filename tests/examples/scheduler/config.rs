//! The configuration: the keys below `config/`, in memory.

use std::str::FromStr;

use coord_core::Client;
use coord_core::recipes::PrefixCache;

use super::jobs::Result;

const PREFIX: &str = "config/";

/// A typed view of a prefix cache.
pub(crate) struct Config(PrefixCache);

impl Config {
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        Ok(Self(PrefixCache::open(client, PREFIX).await?))
    }

    /// The number of an entry, or `default` without a valid entry. It sends no request.
    pub(crate) fn number<N: FromStr>(&self, name: &str, default: N) -> N {
        let text: Option<String> = self.0.get_as(format!("{PREFIX}{name}")).unwrap_or_default();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    }
}
