//! The configuration: a cache of the keys below `config/`, which a watch keeps current.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{EventKind, KeyValue, Range, Watch};
use tokio::sync::watch;
use tokio::time::sleep;

use super::jobs::Result;

const PREFIX: &str = "config/";
/// The pause before the configuration is read again, after an error or the end of the watch.
const REREAD_AFTER: Duration = Duration::from_millis(200);

/// A cache of the configuration. Empty until [`follow`](Self::follow) has read it.
#[derive(Debug, Default)]
pub(crate) struct Config {
    values: watch::Sender<BTreeMap<String, String>>,
}

impl Config {
    /// The number of an entry, or `default` without a valid entry.
    pub(crate) fn number<N: FromStr>(&self, name: &str, default: N) -> N {
        let values = self.values.borrow();
        values.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// Keeps the cache current as long as the future is polled.
    pub(crate) async fn follow(&self, client: &Client) -> Infallible {
        loop {
            // Reading again is the remedy for every error: a broken watch, or compacted changes.
            let _ = self.read_and_watch(client).await;
            sleep(REREAD_AFTER).await;
        }
    }

    async fn read_and_watch(&self, client: &Client) -> Result<()> {
        let read = client.range(Range::prefix(PREFIX)).await?;
        let values = read.kvs.iter().map(|kv| (name(kv), value(kv))).collect();
        self.values.send_replace(values);
        // From the next revision on: no change is missed between the read and the watch.
        let changes = Watch::prefix(PREFIX).start_at(read.header.revision.next());
        let mut changes = client.watch(changes).await?;
        while let Some(batch) = changes.next().await {
            let events = batch?.events;
            self.values.send_modify(|values| {
                for event in &events {
                    match event.kind {
                        EventKind::Put => values.insert(name(&event.kv), value(&event.kv)),
                        EventKind::Delete => values.remove(&name(&event.kv)),
                    };
                }
            });
        }
        Ok(())
    }
}

fn name(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.key[PREFIX.len()..]).into_owned()
}

fn value(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.value).into_owned()
}
