//! `coord lock --slots`: commands that run beside each other, up to a number.

use coord_core::Session;
use coord_core::recipes::Semaphore;
use rustix::process::Signal;
use serde_json::Value;

use crate::lock::RUN_UNTIL_EOF;
use crate::program::{AVAILABLE, Program, Server};

crate::tests![
    slots_run_that_many_commands_at_the_same_time,
    taken_slots_end_try_and_timeout_with_a_message,
    other_number_of_slots_is_refused_with_a_remedy,
    raised_number_of_slots_starts_a_waiter,
    program_and_command_line_share_the_slots,
    who_and_list_show_every_holder_of_a_slot,
];

/// The key of the number of slots, which stays in the store.
const LIMIT_KEY: &str = "coord/limit/jobs";

/// A `coord lock --slots 2` whose command runs until its input ends.
fn slot(server: &Server) -> Program {
    server.coord(&["lock", "jobs", "--slots", "2", "--", "sh", "-c", RUN_UNTIL_EOF])
}

async fn holder(server: &Server) -> Program {
    let mut holder = slot(server);
    assert_eq!(holder.line().await, "runs");
    holder
}

async fn end(mut holder: Program) {
    holder.close_input();
    assert_eq!(holder.end().await, (Some(0), String::new(), String::new()));
}

/// Asserts that only the number of slots was left behind.
async fn assert_released(server: &Server) {
    assert_eq!(server.keys("").await, [LIMIT_KEY]);
    server.client.delete(LIMIT_KEY).await.expect(AVAILABLE);
    server.assert_empty().await;
}

async fn slots_run_that_many_commands_at_the_same_time(server: Server) {
    let (first, second) = (holder(&server).await, holder(&server).await);
    let mut third = slot(&server);
    server.wait_for_queue_length("jobs/permits", 3).await;
    third.assert_silent().await;
    let plain = server.coord(&["lock", "jobs", "--try", "--", "echo", "runs"]).end().await;
    assert_eq!(plain, (Some(0), "runs\n".to_owned(), String::new()), "the lock is independent");
    end(first).await;
    assert_eq!(third.line().await, "runs");
    end(second).await;
    end(third).await;
    assert_released(&server).await;
}

async fn taken_slots_end_try_and_timeout_with_a_message(server: Server) {
    let holders = [holder(&server).await, holder(&server).await];
    let taken = "its 2 slots are taken, or contenders wait for them\n";
    let tried = ["lock", "jobs", "--slots", "2", "--try", "--", "echo", "runs"];
    let expected = format!("coord lock: jobs is taken: {taken}");
    assert_eq!(server.coord(&tried).end().await, (Some(123), String::new(), expected));
    let timed = ["lock", "jobs", "--slots", "2", "--timeout", "200ms", "--", "echo", "runs"];
    let expected = format!("coord lock: timed out after 200ms waiting for jobs: {taken}");
    assert_eq!(server.coord(&timed).end().await, (Some(124), String::new(), expected));
    let waiter = slot(&server);
    server.wait_for_queue_length("jobs/permits", 3).await;
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.end().await, (Some(143), String::new(), String::new()));
    assert_eq!(server.keys("jobs/permits/").await.len(), 2);
    for holder in holders {
        end(holder).await;
    }
    assert_released(&server).await;
}

async fn other_number_of_slots_is_refused_with_a_remedy(server: Server) {
    let holder = holder(&server).await;
    let other = ["lock", "jobs", "--slots", "3", "--", "echo", "runs"];
    let expected = "coord lock: jobs has 2 slots, not 3: give --slots 2, or put 3 as the value of \
        the key coord/limit/jobs\n";
    let refused = server.coord(&other).end().await;
    assert_eq!(refused, (Some(125), String::new(), expected.to_owned()));
    let none = server.coord(&["lock", "jobs", "--slots", "0", "--", "true"]).end().await;
    assert_eq!(none.0, Some(2), "{}", none.2);
    end(holder).await;
    assert_released(&server).await;
}

async fn raised_number_of_slots_starts_a_waiter(server: Server) {
    let holders = [holder(&server).await, holder(&server).await];
    let mut waiter = slot(&server);
    server.wait_for_queue_length("jobs/permits", 3).await;
    server.client.put(LIMIT_KEY, "3").await.expect(AVAILABLE);
    assert_eq!(waiter.line().await, "runs");
    end(waiter).await;
    for holder in holders {
        end(holder).await;
    }
    assert_released(&server).await;
}

async fn program_and_command_line_share_the_slots(server: Server) {
    let session = Session::builder(&server.client).open().await.expect(AVAILABLE);
    let semaphore = Semaphore::new(&session, "jobs", 2);
    let both = semaphore.acquire(2).await.expect(AVAILABLE);
    let mut waiter = slot(&server);
    server.wait_for_queue_length("jobs/permits", 2).await;
    waiter.assert_silent().await;
    both.release().await.expect(AVAILABLE);
    assert_eq!(waiter.line().await, "runs");
    assert_eq!(semaphore.available().await.expect(AVAILABLE), 1);
    end(waiter).await;
    session.close().await.expect(AVAILABLE);
    assert_released(&server).await;
}

async fn who_and_list_show_every_holder_of_a_slot(server: Server) {
    let holders = [holder(&server).await, holder(&server).await];
    let waiters = [slot(&server), slot(&server)];
    server.wait_for_queue_length("jobs/permits", 4).await;
    let (status, stdout, _) = server.coord(&["who", "jobs/permits"]).end().await;
    let rows: Vec<Vec<_>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    let positions: Vec<_> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!((status, positions), (Some(0), vec!["holds", "holds", "1", "2"]), "{stdout}");
    assert!(rows[1..].iter().all(|row| row.ends_with(&["1"])), "one permit each: {stdout}");
    let (_, stdout, _) = server.coord(&["list", "--json"]).end().await;
    let listed: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!(listed["queues"].as_array().expect("a list").len(), 1, "{stdout}");
    let queue = &listed["queues"][0];
    assert_eq!((&queue["name"], &queue["waiters"]), (&"jobs/permits".into(), &2.into()));
    assert_eq!(queue["holder"]["key"], server.keys("jobs/permits/").await[0]);
    for program in waiters.into_iter().chain(holders) {
        program.signal(Signal::TERM);
        program.status().await;
    }
    assert_released(&server).await;
}
