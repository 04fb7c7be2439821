//! What somebody who waits at a terminal is told: how many are before them.

use std::convert::Infallible;
use std::time::Duration;

use coord_core::{Session, kv::Range, queue::FencingToken};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::line::Line;

/// How long a wait goes without a word, and how old one may be.
const PERIOD: Duration = Duration::from_secs(1);

/// Keeps a line on standard error up to date, if that is a terminal; it is gone when this is
/// dropped. Elsewhere nothing is said, and nothing asked.
pub(super) async fn told(session: &Session, line: &Line, mine: FencingToken) -> Infallible {
    let told = ProgressBar::new_spinner();
    if told.is_hidden() {
        return std::future::pending().await;
    }
    told.set_style(ProgressStyle::with_template("{msg}").expect("it is well-formed"));
    loop {
        sleep(PERIOD).await;
        let before = Range::prefix(line.prefix()).max_create_revision(mine.0.previous());
        // A store that is away has its own ways to be told of.
        if let Ok(read) = session.backend().range(before.keys_only()).await {
            let before = read.kvs.iter().filter(|kv| line.owns(&kv.key)).count();
            told.set_message(format!("waiting: {before} before you"));
            told.tick();
        }
    }
}
