//! Requests in the drawing of a run: lines from a process to the store and back.
//!
//! ```text
//! store       ●              ●    ✕            ✕
//! process  ●     ●        ●          ✕      ●     ✕          ●···
//!          received       response lost     request lost     nothing received
//! ```
//!
//! If the process received nothing, the message was lost or dropped by a crash, or is on its way at
//! the end. A request that was rejected without an `Applied` event is drawn as lost.

use super::scene::{Group, Shape};

/// A request, by the places of its events.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) name: &'static str,
    /// The number of the process, for its colour.
    pub(super) process: usize,
    /// Where it was sent.
    pub(super) sent: (i32, i32),
    /// The middle of the lane of the store.
    pub(super) store: i32,
    /// Where the store processed it, and whether without an error.
    pub(super) applied: Option<(i32, bool)>,
    /// Where the process received the response, and whether without an error.
    pub(super) received: Option<(i32, bool)>,
    pub(super) lines: Vec<String>,
}

/// Draws a request. Columns are `step` apart.
pub(super) fn draw(request: &Request, step: i32) -> Group {
    let Request { sent, store, received, .. } = *request;
    let (from, y) = sent;
    let class = format!("request participant-{}", request.process % 6);
    let mut group = Group::new(class, request.lines.join("; "));
    let half = |x: i32| (x + step / 2, i32::midpoint(y, store));
    group.shapes.push(Shape::Circle { x: from, y, radius: 4, class: "commit" });
    if step >= 24 {
        let text = request.name.to_owned();
        group.shapes.push(Shape::Text { x: from + 3, y: y + 18, text, class: "note" });
    }
    let Some((applied, is_applied)) = request.applied else {
        match received {
            None => push_line(&mut group, sent, half(from), "message pending"),
            Some((end, _)) => {
                push_line(&mut group, sent, half(from), "message failed");
                push_cross(&mut group, half(from));
                push_cross(&mut group, (end, y));
            }
        }
        return group;
    };
    let at_store = (applied, store);
    push_line(&mut group, sent, at_store, "message");
    group.shapes.push(Shape::Circle { x: applied, y: store, radius: 4, class: "commit" });
    match received {
        None => push_line(&mut group, at_store, half(applied), "message pending"),
        // The store has returned no error: the response was lost.
        Some((end, false)) if is_applied => {
            push_line(&mut group, at_store, half(applied), "message failed");
            push_cross(&mut group, half(applied));
            push_cross(&mut group, (end, y));
        }
        Some((end, is_ok)) => {
            let class = if is_ok { "message" } else { "message failed" };
            push_line(&mut group, at_store, (end, y), class);
            group.shapes.push(Shape::Circle { x: end, y, radius: 3, class: "commit" });
        }
    }
    group
}

fn push_line(group: &mut Group, from: (i32, i32), to: (i32, i32), class: &'static str) {
    let path = format!("M{} {}L{} {}", from.0, from.1, to.0, to.1);
    group.shapes.push(Shape::Path { path, class });
}

fn push_cross(group: &mut Group, (x, y): (i32, i32)) {
    let path = format!("M{} {}l8 8m0 -8l-8 8", x - 4, y - 4);
    group.shapes.push(Shape::Path { path, class: "cross" });
}
