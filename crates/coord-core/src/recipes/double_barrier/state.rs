//! The state of a double barrier: the value of its one persistent key.
//!
//! ```text
//! 7 entered 3 a1-0-7,b2-0-7,c3-0-7 -          round 7 was entered by three participants
//! 7 finished 3 a1-0-7,b2-0-7,c3-0-7 -         all of them have left it
//! 8 finished 3 a1-0-8,b2-0-8,c3-0-8 b2-0-8    round 8 is over, and b2-0-8 was lost in it
//! ```
//!
//! The fields are the last round that was entered, whether it is finished, the number of parties,
//! the participants of the round, and the participants that were lost. A participant is the last
//! part of its key. A dash is an empty list.

use std::fmt;
use std::str::FromStr;

/// The state as of one read. By default no round was entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The last round that was entered; zero before the first.
    pub(super) round: u64,
    pub(super) is_finished: bool,
    /// The number of parties that the barrier was created with; zero before a participant has
    /// written the state.
    pub(super) parties: usize,
    /// The participants of the round.
    pub(super) participants: Vec<String>,
    /// The participants that were lost: in this round, or in all rounds if the barrier shrinks.
    pub(super) lost: Vec<String>,
}

impl State {
    /// Notes that participants were lost. Each party is listed once, by its last attempt, so the
    /// list has at most one entry for each party.
    pub(super) fn add_lost(&mut self, lost: impl IntoIterator<Item = String>) {
        for participant in lost {
            let (party, _) = party_and_attempt(&participant);
            self.lost.retain(|known| party_and_attempt(known).0 != party);
            self.lost.push(participant);
        }
    }

    /// Whether the party of a participant was lost, in any of its attempts.
    pub(super) fn has_lost_party_of(&self, participant: &str) -> bool {
        let (party, _) = party_and_attempt(participant);
        self.lost.iter().any(|known| party_and_attempt(known).0 == party)
    }

    /// Whether the round is over.
    pub(super) const fn is_over(&self, round: u64) -> bool {
        round < self.round || (round == self.round && self.is_finished)
    }
}

/// The party of a participant, and the number of its attempt.
pub(super) fn party_and_attempt(participant: &str) -> (&str, u64) {
    let parts = participant.rsplit_once('-');
    let parsed = parts.and_then(|(party, attempt)| Some((party, attempt.parse().ok()?)));
    parsed.unwrap_or((participant, 0))
}

/// The value of the state key is not that of a double barrier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no state of a double barrier: another program has written the key")]
pub(super) struct InvalidState(String);

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        let invalid = || InvalidState(text.to_owned());
        let fields: Vec<_> = text.split(' ').collect();
        let [round, phase @ ("entered" | "finished"), parties, participants, lost] = fields[..]
        else {
            return Err(invalid());
        };
        Ok(Self {
            round: round.parse().map_err(|_| invalid())?,
            is_finished: phase == "finished",
            parties: parties.parse().map_err(|_| invalid())?,
            participants: parse_list(participants),
            lost: parse_list(lost),
        })
    }
}

fn parse_list(list: &str) -> Vec<String> {
    if list == "-" { Vec::new() } else { list.split(',').map(str::to_owned).collect() }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |list: &[String]| match list {
            [] => "-".to_owned(),
            list => list.join(","),
        };
        let phase = if self.is_finished { "finished" } else { "entered" };
        let (participants, lost) = (list(&self.participants), list(&self.lost));
        write!(f, "{} {phase} {} {participants} {lost}", self.round, self.parties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_parsed_as_it_is_written() {
        for text in ["0 finished 3 - a1-0", "7 entered 3 a1-0,b2-0,-c3-0 -"] {
            let state: State = text.parse().expect("valid");
            assert_eq!(state.to_string(), text);
        }
        for text in ["", "7", "7 left 3 a1-0 -", "x entered 3 a1-0 -", "7 entered 3 a1-0 - -"] {
            text.parse::<State>().expect_err(text);
        }
    }

    #[test]
    fn lost_party_is_listed_once_by_its_last_attempt() {
        let mut state: State = "7 finished 3 - a1-0-1,b2-0-4".parse().expect("valid");
        state.add_lost(["a1-0-2", "a1-1-1"].map(str::to_owned));
        assert_eq!(state.lost, ["b2-0-4", "a1-0-2", "a1-1-1"]);
        assert!(state.has_lost_party_of("a1-0-3") && !state.has_lost_party_of("b2-1-4"));
    }

    #[test]
    fn round_is_over_when_finished_or_followed_by_another() {
        let state: State = "7 entered 1 a1-0 -".parse().expect("valid");
        assert!(state.is_over(6) && !state.is_over(7) && !state.is_over(8));
        let finished = State { is_finished: true, ..state };
        assert!(finished.is_over(7) && !finished.is_over(8));
    }
}
