//! `coord members`: prints the members of a group, or follows them.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use coord_core::kv::Revision;
use coord_core::recipes::{Gap, GapCause, Member, MemberEvent, Membership};
use serde_json::{Value, json};

use crate::exit::{ExitError, print, report, stdout_closed};
use crate::signals::Signals;
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::{positional, table, text};

/// Print the members of a group, in the order in which they joined.
///
/// The groups are those of coord's recipe `Membership`. Prints one line per member: its id, which
/// is the lease of its session and a key suffix; how many revisions the store has made since it
/// joined; and its metadata, such as an address. A member whose process has crashed stays in the
/// group until its lease ends.
///
/// With `--watch`, coord prints one line for each member that is in the group, and then for each
/// event: `joined`, `updated` or `left`, the id, and the metadata. It runs until INT, TERM, HUP or
/// QUIT is received or standard output is closed. If the store becomes unavailable after the
/// connection, it waits. If the store compacted events before they were delivered, or its history
/// was replaced, the next lines are the difference. Without `--json`, a line on standard error
/// names the revisions of the gap.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Members {
    /// Name of the group
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// Print the members, and then each event
    #[arg(long)]
    watch: bool,
    /// Print one JSON object: `name`, `revision`, and `members`, each with `id`, `key`, `metadata`,
    /// `create_revision`, `mod_revision`, and `lease`, which is null for a key without one; with
    /// `--watch` one per line: `event`, `member`, `revision`, and `gap` with `after`, `until` and
    /// `cause` if events before it are merged
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord members cache-nodes
      id                  revisions ago  metadata
      694d9b3a8c1e2f03.0             42  10.0.0.1:80
      694d9b3a8c1e2f11.0             36  10.0.0.2:80
  coord members cache-nodes --watch
      print the members that join, change and leave
  coord members cache-nodes --json | jq -r '.members[].metadata'
      print the metadata only

In JSON, metadata that is not UTF-8 is an array of its bytes. On a plain line, bytes that are not
UTF-8, control characters and invisible characters are escaped.";

const EXIT_STATUS: &str = "\
Exit status:
  0  the group has a member, or a signal or closed output ended coord (--watch)
  1  the store is unavailable, or refused a request
  2  usage error
  4  the group has no member (without --watch)";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, EXIT_STATUS].join("\n\n")
}

/// A member whose metadata is not decoded.
type RawMember = Member<Bytes>;

impl Members {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let mut signals = Signals::new().map_err(anyhow::Error::from)?;
        tokio::select! {
            biased;
            _ = signals.next() => Ok(()),
            () = stdout_closed(), if self.watch => Ok(()),
            shown = self.show() => shown,
        }
    }

    async fn show(&self) -> Result<(), ExitError> {
        let client = self.store.connect().await?;
        let group = Membership::<Bytes>::new(&client, self.name.clone());
        let members = group.members().await.with_context(|| self.operation())?;
        let mut events = members.events();
        if !self.watch {
            // Of one snapshot.
            return self.print_list(&events.members(), events.revision());
        }
        for member in events.members() {
            let joined = MemberEvent::Joined(member);
            if !print(self.line(&joined, events.revision(), None))? {
                return Ok(());
            }
        }
        let mut reported = None;
        while let Some(event) = events.next().await {
            let event = event.with_context(|| self.operation())?;
            let gap = events.gap();
            if let Some(gap) = gap.filter(|gap| !self.json && reported != Some(*gap)) {
                report("members", &format!("{}: {gap}", self.name));
            }
            reported = gap;
            if !print(self.line(&event, events.revision(), gap))? {
                break;
            }
        }
        Ok(())
    }

    /// The operation that an error names.
    fn operation(&self) -> String {
        format!("read the members of {}", self.name)
    }

    fn print_list(&self, list: &[RawMember], revision: Revision) -> Result<(), ExitError> {
        if self.json {
            print(text::json_line(&json!({
                "name": self.name,
                "revision": revision.0,
                "members": list.iter().map(as_json).collect::<Vec<_>>(),
            })))?;
        } else if !list.is_empty() {
            print(as_table(list, revision))?;
        }
        match (list.is_empty(), self.json) {
            (false, _) => Ok(()),
            (true, true) => Err(ExitError::silent(ExitError::NOT_HELD)),
            (true, false) => {
                let name = text::escape(self.name.as_bytes());
                Err(ExitError::new(ExitError::NOT_HELD, format!("{name} has no member")))
            }
        }
    }

    fn line(&self, event: &MemberEvent<Bytes>, revision: Revision, gap: Option<Gap>) -> String {
        let kind = match event {
            MemberEvent::Joined(_) => "joined",
            MemberEvent::Updated { .. } => "updated",
            MemberEvent::Left(_) => "left",
        };
        let member = event.member();
        if !self.json {
            let metadata = text::escape(&member.key_value().value);
            return format!("{kind} {} {metadata}", id(member));
        }
        let mut line = json!({ "event": kind, "member": as_json(member), "revision": revision.0 });
        if let Some(gap) = gap {
            let cause = match gap.cause {
                GapCause::Compacted => "compacted",
                GapCause::HistoryReplaced => "history_replaced",
                GapCause::OutOfOrder => "out_of_order",
                GapCause::Lagged => "lagged",
                _ => "unknown",
            };
            let (after, until) = (gap.after.0, gap.until.0);
            line["gap"] = json!({ "after": after, "until": until, "cause": cause });
        }
        text::json_line(&line)
    }
}

/// The id, escaped; the whole key if its id is no text.
fn id(member: &RawMember) -> String {
    let id = member.id();
    text::escape(if id.is_empty() { &member.key_value().key } else { id.as_bytes() })
}

fn as_json(member: &RawMember) -> Value {
    let kv = member.key_value();
    json!({
        "id": member.id(),
        "key": text::to_json(&kv.key),
        "metadata": text::to_json(&kv.value),
        "create_revision": kv.create_revision.0,
        "mod_revision": kv.mod_revision.0,
        "lease": kv.lease.map(|lease| lease.to_string()),
    })
}

fn as_table(members: &[RawMember], now: Revision) -> String {
    let mut rows = vec![["id", "revisions ago", "metadata"].map(str::to_owned)];
    rows.extend(members.iter().map(|member| {
        let ago = now.0 - member.create_revision().0;
        [id(member), ago.to_string(), text::escape(&member.key_value().value)]
    }));
    table::align(&rows, [false, true, false])
}
