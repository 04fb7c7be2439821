//! A bar for whoever watches a run at a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

/// How often the bar moves: seldom enough not to be measured.
const PERIOD: Duration = Duration::from_millis(250);

/// The bar is as fine as this.
const STEPS: u64 = 1000;

/// Moves a bar on standard error as the work goes on, from 0 to 1, and takes it away at the end. If
/// standard error is no terminal there is none, and nobody wakes for it.
pub(crate) async fn shown<T>(
    what: &str,
    how_far: impl Fn() -> f64 + Send + Sync,
    work: impl Future<Output = T>,
) -> T {
    let bar = ProgressBar::new(STEPS).with_message(what.to_owned());
    if bar.is_hidden() {
        return work.await;
    }
    let style = ProgressStyle::with_template("{msg:>9} [{bar:50}] {percent:>3} %");
    bar.set_style(style.expect("it is well-formed").progress_chars("=> "));
    let moving = async {
        loop {
            bar.set_position((how_far() * STEPS as f64) as u64);
            sleep(PERIOD).await;
        }
    };
    let done = tokio::select! {
        biased;
        done = work => done,
        never = moving => never,
    };
    bar.finish_and_clear();
    done
}
