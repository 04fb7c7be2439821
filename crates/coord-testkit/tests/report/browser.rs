//! The script of the page, in a headless browser: `tests/run` installs Chromium if there is none.
//!
//! Without a browser on `PATH` the test prints that it was skipped.

use std::process::Command;

use coord_testkit::isolation::Level;
use coord_testkit::report::Report;

use super::checked;

/// The names of browsers that print the elements of a page after its script has run.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// The browser that is installed.
fn browser() -> Option<&'static str> {
    let has = |name: &&str| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    BROWSERS.into_iter().find(has)
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn script_shows_the_state_at_the_revision_of_the_address() {
    let Some(browser) = browser() else {
        eprintln!("SKIPPED: no Chromium on PATH; tests/run installs it");
        return;
    };
    let (history, verdict) = checked("write-skew");
    let page = Report::new(&history, &verdict).level(Level::Serializable).html();
    let folder = tempfile::tempdir().expect("a folder can be created");
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).expect("the page can be written");
    // The page is our own: in a container Chromium has no sandbox.
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}#rev=4", file.display()))
        .output()
        .expect("the browser can be started");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("<h3 id=\"place-title\">At revision 4</h3>"), "{page}");
    let state = "<tr class=\"changed\"><td>on_call/ada</td><td>no</td><td>4</td></tr>\
                 <tr class=\"\"><td>on_call/bob</td><td>yes</td><td>3</td></tr>";
    let plain = page.replace("<tr>", "<tr class=\"\">");
    assert!(plain.contains(state), "{page}");
    assert!(!page.contains("class=\"controls\" hidden"), "the buttons are shown");
}
