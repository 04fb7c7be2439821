//! All small cases: every pair of programs with few operations on two keys.
//!
//! Programs that differ only in operations without a request of their own are one program: a read
//! of a key that was read before, and the order of writes, which are sent together. So a program is
//! some reads, then one write or none for each key:
//!
//! ```text
//! reads                 writes                     operations
//! r(x)                  (none), w(x), d(x), ...    1 to 3
//! r(x) r(y)             (none), w(x), ...          2 or 3
//! r(p/x) range(p/)      ...                        ...
//! ```
//!
//! Pairs that differ only in the names of the keys, or in the order of the programs, are one pair.

use coord_core::stm::Isolation;

use super::case::Case;
use super::program::{Program, ProgramOperation};

/// The two keys, and the prefix of both.
const KEYS: [&str; 2] = ["p/x", "p/y"];
const PREFIX: &str = "p/";

/// Which cases [`pairs`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options, created with `..Alphabet::default()`")]
pub struct Alphabet {
    /// The largest number of operations of a program.
    pub operations_max: usize,
    /// Whether programs delete keys.
    pub deletes: bool,
    /// Whether programs read the range of both keys.
    pub ranges: bool,
}

impl Default for Alphabet {
    /// Programs with deletes and ranges. A program has up to three operations.
    fn default() -> Self {
        Self { operations_max: 3, deletes: true, ranges: true }
    }
}

/// All pairs of small programs at one level. They use the same two keys, and each pair starts both
/// with the keys absent and with the keys present.
///
/// ```
/// use coord_core::stm::Isolation;
/// use coord_testkit::programs::{Alphabet, pairs};
///
/// let small = Alphabet { operations_max: 1, deletes: false, ranges: false };
/// let cases = pairs(Isolation::Serializable, small);
/// // r(x) with r(x), r(y), w(x), w(y); w(x) with w(x), w(y); each from two states.
/// assert_eq!(cases.len(), 2 * 6);
/// ```
#[must_use]
pub fn pairs(isolation: Isolation, alphabet: Alphabet) -> Vec<Case> {
    let programs = programs(alphabet);
    let mut cases = Vec::new();
    for (i, first) in programs.iter().enumerate() {
        for (j, second) in programs.iter().enumerate().skip(i) {
            if mirrored_index(&programs, i, j) < (i, j) {
                continue;
            }
            for initial in [&[][..], &KEYS[..]] {
                let both = [first, second].map(|ops| Program::new(isolation, ops.iter().cloned()));
                cases.push(Case {
                    initial: initial.iter().map(|key| (*key).to_owned()).collect(),
                    programs: both.into(),
                });
            }
        }
    }
    cases
}

/// The pair that results when both keys are swapped, in the order of programs.
fn mirrored_index(programs: &[Vec<ProgramOperation>], i: usize, j: usize) -> (usize, usize) {
    let index = |of: usize| {
        let mirrored = mirrored(&programs[of]);
        programs.iter().position(|program| *program == mirrored).unwrap_or(of)
    };
    let (a, b) = (index(i), index(j));
    (a.min(b), a.max(b))
}

/// The program with both keys swapped. Writes stay in key order.
fn mirrored(program: &[ProgramOperation]) -> Vec<ProgramOperation> {
    let swap = |operation: &ProgramOperation| match operation.key().map(String::as_str) {
        Some(key) if key == KEYS[0] => operation.on(KEYS[1]),
        Some(key) if key == KEYS[1] => operation.on(KEYS[0]),
        _ => operation.clone(),
    };
    let (mut reads, mut writes): (Vec<_>, Vec<_>) =
        program.iter().map(swap).partition(|operation| !is_write(operation));
    writes.sort_by(|a, b| a.key().cmp(&b.key()));
    reads.append(&mut writes);
    reads
}

const fn is_write(operation: &ProgramOperation) -> bool {
    matches!(
        operation,
        ProgramOperation::Put(_) | ProgramOperation::Delete(_) | ProgramOperation::Append(_)
    )
}

/// All programs with at least one operation.
fn programs(alphabet: Alphabet) -> Vec<Vec<ProgramOperation>> {
    let mut reads: Vec<ProgramOperation> =
        KEYS.iter().map(|key| ProgramOperation::Get((*key).to_owned())).collect();
    if alphabet.ranges {
        reads.push(ProgramOperation::Range(PREFIX.to_owned()));
    }
    let mut programs = Vec::new();
    for reads in sequences(&reads, alphabet.operations_max) {
        for writes in writes(alphabet) {
            let program = [reads.clone(), writes].concat();
            if (1..=alphabet.operations_max).contains(&program.len()) {
                programs.push(program);
            }
        }
    }
    programs
}

/// All sequences of different reads, up to a length. After a range, a read of one of its keys sends
/// a request only if the key was absent, and is left out.
fn sequences(reads: &[ProgramOperation], length_max: usize) -> Vec<Vec<ProgramOperation>> {
    let mut all = vec![Vec::new()];
    let mut longest = vec![Vec::new()];
    for _ in 0..length_max {
        let mut longer: Vec<Vec<ProgramOperation>> = Vec::new();
        for sequence in &longest {
            let has_range = sequence.iter().any(|read| matches!(read, ProgramOperation::Range(_)));
            let next = reads.iter().filter(|read| !has_range && !sequence.contains(read));
            longer.extend(next.map(|read| [sequence.clone(), vec![read.clone()]].concat()));
        }
        all.extend(longer.iter().cloned());
        longest = longer;
    }
    all
}

/// One write or none for each key.
fn writes(alphabet: Alphabet) -> Vec<Vec<ProgramOperation>> {
    let mut all = vec![Vec::new()];
    for key in KEYS {
        let mut more = Vec::new();
        for writes in &all {
            let with = |write| [&writes[..], &[write]].concat();
            more.push(writes.clone());
            more.push(with(ProgramOperation::Put(key.to_owned())));
            if alphabet.deletes {
                more.push(with(ProgramOperation::Delete(key.to_owned())));
            }
        }
        all = more;
    }
    all
}
