//! The progress bar of a phase, shown at a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

/// How often the bar is updated: seldom enough not to affect the measurement.
const UPDATE_INTERVAL: Duration = Duration::from_millis(250);

/// The resolution of the bar.
const BAR_STEPS: u64 = 1000;

/// Runs `work` and shows its progress, from 0 to 1, as a bar on standard error. The bar is erased
/// at the end. If standard error is no terminal, there is no bar and no timer.
pub(crate) async fn with_bar<T>(
    label: &str,
    progress: impl Fn() -> f64 + Send + Sync,
    work: impl Future<Output = T>,
) -> T {
    let bar = ProgressBar::new(BAR_STEPS).with_message(label.to_owned());
    if bar.is_hidden() {
        return work.await;
    }
    let style = ProgressStyle::with_template("{msg:>9} [{bar:50}] {percent:>3} %");
    bar.set_style(style.expect("it is well-formed").progress_chars("=> "));
    let update = async {
        loop {
            bar.set_position((progress() * BAR_STEPS as f64) as u64);
            sleep(UPDATE_INTERVAL).await;
        }
    };
    let output = tokio::select! {
        biased;
        output = work => output,
        never = update => never,
    };
    bar.finish_and_clear();
    output
}
