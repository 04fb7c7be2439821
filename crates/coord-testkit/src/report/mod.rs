//! Reports: what a history shows about isolation, for a reader.
//!
//! A report has three forms:
//!
//! - text, from its `Display`: the levels, the coverage, and for each anomaly its lanes, the edges
//!   of its cycle, the serial orders that were tried, and the compare that would have prevented it;
//! - [`Report::dot`]: the cycles as a graph for Graphviz;
//! - `Report::html`, with the feature `html`: one page without any other file, for a browser.
//!
//! ```text
//! VIOLATION of serializable: write skew (G2-item)
//! ...
//!   rev  1        2      3
//!   T1   r(x,y)───w(x)
//!   T2   r(x,y)──────────w(y)
//! ```
//!
//! T2 read x in the version of revision 1 and commits at revision 3, after T1 has overwritten x.

mod dot;
mod lanes;
mod orders;
#[cfg(feature = "html")]
mod page;
mod participants;
mod text;
mod words;

use crate::history::History;
use crate::isolation::{Level, Status, Verdict};

/// A report about a history.
///
/// ```
/// use coord_testkit::history::formats::json_lines;
/// use coord_testkit::isolation::{self, Level, Status};
/// use coord_testkit::report::Report;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two transactions have read n@1, and each has put a value of its own.
/// let file = r#"{"format":"coord-history","version":1}
/// {"at":9,"attempt":{"transaction":1,"number":1,"isolation":"read-committed","began":0,
///   "reads":[{"key":"n","revision":1,"value":"5"}],"writes":[{"key":"n","value":"6"}],
///   "end":"committed","revision":2}}
/// {"at":9,"attempt":{"transaction":2,"number":1,"isolation":"read-committed","began":0,
///   "reads":[{"key":"n","revision":1,"value":"5"}],"writes":[{"key":"n","value":"7"}],
///   "end":"committed","revision":3}}"#;
/// // Each event is one line of the file.
/// let history = json_lines::read(file.replace("\n  ", "").as_bytes())?;
/// let verdict = isolation::check(&history);
/// let report = Report::new(&history, &verdict).level(Level::Serializable);
/// assert!(report.status().is_refuted());
/// let text = report.to_string();
/// assert!(text.starts_with("VIOLATION of serializable: lost update (G-single-item)\n"));
/// assert!(text.contains("    T1, T2: T2 must read n @2 = \"6\", read @1 = \"5\"\n"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "print it, or write one of its other forms"]
pub struct Report<'a> {
    history: &'a History,
    verdict: Option<&'a Verdict>,
    level: Option<Level>,
}

impl<'a> Report<'a> {
    /// A report about the verdict of a history. The verdict must be about this history.
    pub const fn new(history: &'a History, verdict: &'a Verdict) -> Self {
        Self { history, verdict: Some(verdict), level: None }
    }

    /// A report without a verdict: the events of a run, such as one of the simulator. Its text is
    /// that of the history.
    pub const fn timeline(history: &'a History) -> Self {
        Self { history, verdict: None, level: None }
    }

    /// The level that the first line of the report is about, as if every transaction had been run
    /// with it. Without this call it is about the level that each transaction was run with.
    pub const fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Whether the history has the level of the report; `Unknown` for a timeline.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.verdict, self.level) {
            (Some(verdict), Some(level)) => verdict.status(level),
            (Some(verdict), None) => verdict.declared(),
            (None, _) => Status::Unknown,
        }
    }

    /// The anomalies as a graph in the language of Graphviz: one cluster for each anomaly, with its
    /// transactions and the edges of its cycle. Without an anomaly the graph is empty.
    #[must_use]
    pub fn dot(&self) -> String {
        dot::graph(self.history, self.verdict)
    }

    /// The report as one page for a browser, which needs no other file and no network. It has at
    /// most 300 kB, unless an anomaly has hundreds of transactions.
    ///
    /// With a verdict, the transactions are drawn over an axis of revisions: those of the anomaly
    /// with the validity of what they have read, others in grey, and those beyond a limit are
    /// counted. Without one, the events of the run are drawn, the last ones if there are many. The
    /// page shows the state of the store at each place of the axis, and `#rev=4` at the end of its
    /// address leads to revision 4.
    ///
    /// ```
    /// use coord_testkit::history::{Event, EventKind, History};
    /// use coord_testkit::report::Report;
    /// use std::time::Duration;
    ///
    /// let kind = EventKind::Fault("partitioned from <the store>".to_owned());
    /// let process = Some("a".into());
    /// let history = History(vec![Event { at: Duration::from_secs(2), process, kind }]);
    /// let page = Report::timeline(&history).html();
    /// assert!(page.contains("partitioned from &#60;the store&#62;"));
    /// ```
    #[cfg(feature = "html")]
    #[must_use]
    pub fn html(&self) -> String {
        page::page(self)
    }
}
