//! The assignment of shards to members: a function of the two lists alone.
//!
//! Each member evaluates the function by itself, and members with the same lists have the same
//! result, without a coordinator. It is rendezvous hashing with a bound: a hash of shard and member
//! is the *weight* of the pair, and a shard is assigned to the member with the largest weight that
//! has fewer shards than the bound, five quarters of the mean.
//!
//! ```text
//! 3 shards, bound 2      a     b     c        assigned to
//! shard 0               41    87    12        b
//! shard 1               66    70     5        b
//! shard 2               23    91    64        c, because b has 2
//!          d joins: a shard moves to d if no other member below the bound has a larger weight
//! ```
//!
//! Without the bound, a member that joins or leaves moves no shard between two others. With it, few
//! move: `docs/decisions/0034-shard-assignment.md` has figures.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// The most shards of a member, in terms of the mean: 5/4, rounded up.
const BOUND: (usize, usize) = (5, 4);

/// Returns the index of the member that each shard is assigned to. Without members it is empty.
///
/// The result depends on the names alone: not on the order of the members, on the version of the
/// program, or on the platform. A member gets five quarters of the mean at most, rounded up. The
/// shards are assigned in the order in which they are given, which decides about shards whose first
/// member has as many as the bound: [`ShardAssignment`](super::ShardAssignment) sorts them. Names
/// must be different.
///
/// ```
/// use coord_core::recipes::shard_assignment::assign;
///
/// let shards: Vec<_> = (0..100).map(|n| n.to_string()).collect();
/// let three = ["ada", "bob", "eve"];
/// let assigned = assign(&three, &shards);
/// let count = |member| assigned.iter().filter(|owner| **owner == member).count();
/// assert!((0..3).all(|member| count(member) <= 42));
///
/// // Most shards stay when a member joins.
/// let four = ["ada", "bob", "dan", "eve"];
/// let moved = assign(&four, &shards).iter().zip(&assigned)
///     .filter(|(after, before)| four[**after] != three[**before])
///     .count();
/// assert!(moved < 40, "{moved} of 100");
/// ```
///
/// Cost: one hash for each pair of a shard and a member.
///
/// Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
/// Transactions on Networking 1998; the bound is that of Mirrokni, Thorup and Zadimoghaddam,
/// "Consistent Hashing with Bounded Loads", SODA 2018.
#[must_use]
pub fn assign<M: AsRef<[u8]>, S: AsRef<[u8]>>(members: &[M], shards: &[S]) -> Vec<usize> {
    let bound = (shards.len() * BOUND.0).div_ceil(members.len().max(1) * BOUND.1);
    let mut counts = vec![0; members.len()];
    let mut best = |shard: &S| {
        let free = members.iter().enumerate().filter(|(index, _)| counts[*index] < bound);
        let weighted = free.map(|(index, member)| {
            let member = member.as_ref();
            (weight(member, shard.as_ref()), member, index)
        });
        let (_, _, index) = weighted.max()?;
        counts[index] += 1;
        Some(index)
    };
    shards.iter().filter_map(&mut best).collect()
}

/// The weight of a member for a shard.
fn weight(member: &[u8], shard: &[u8]) -> u64 {
    hash([member, shard])
}

/// A hash of a list of names: of each its length, as eight bytes, and its bytes.
pub(super) fn hash<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = SipHasher24::new();
    for name in names {
        hasher.write(&(name.len() as u64).to_le_bytes());
        hasher.write(name);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}-{n}")).collect()
    }

    /// How many shards each member has.
    fn counts(assigned: &[usize], members: usize) -> Vec<usize> {
        let count = |member| assigned.iter().filter(|owner| **owner == member).count();
        (0..members).map(count).collect()
    }

    /// Members of another version of coord, or on another platform, must have the same result.
    #[test]
    fn assignment_is_the_same_on_every_platform() {
        // SipHash-2-4 of no bytes, with a key of zeros.
        assert_eq!(SipHasher24::new().hash(b""), 0x1e92_4b9d_7377_00d7);
        let members = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        let assigned = assign(&members, &names("shard", 12));
        assert_eq!(assigned, [0, 1, 0, 1, 2, 0, 2, 1, 0, 0, 2, 2]);
    }

    #[test]
    fn every_shard_is_assigned_and_no_member_exceeds_the_bound() {
        for shards in [1, 2, 7, 16, 100, 257] {
            for members in [1, 2, 3, 5, 20, 300] {
                let assigned = assign(&names("m", members), &names("s", shards));
                assert_eq!(assigned.len(), shards);
                let bound = (5 * shards).div_ceil(4 * members);
                let most = counts(&assigned, members).into_iter().max();
                assert!(most <= Some(bound), "{shards} shards, {members} members: {most:?}");
            }
        }
        assert!(assign(&names("m", 0), &names("s", 5)).is_empty());
        assert!(assign(&names("m", 5), &names("s", 0)).is_empty());
    }

    #[test]
    fn order_of_the_members_does_not_matter() {
        let (mut members, shards) = (names("m", 9), names("s", 50));
        let owners = |members: &[String]| -> Vec<String> {
            assign(members, &shards).into_iter().map(|owner| members[owner].clone()).collect()
        };
        let before = owners(&members);
        members.reverse();
        assert_eq!(owners(&members), before);
        members.rotate_left(4);
        assert_eq!(owners(&members), before);
    }

    #[test]
    fn hash_separates_adjacent_names() {
        assert_ne!(hash([&b"ab"[..], b"c"]), hash([&b"a"[..], b"bc"]));
        assert_ne!(hash([&b"a"[..]]), hash([&b"a"[..], b""]));
    }

    /// How many shards move when a member joins, in the mean of some lists of members, and the
    /// largest share of a member before, both in terms of what is ideal.
    fn moves_of_a_join(members: usize, shards: usize) -> (f64, f64) {
        const ROUNDS: usize = 50;
        let (shards, mut moved, mut most) = (names("s", shards), 0, 0);
        for round in 0..ROUNDS {
            let names = |count| names(&format!("round-{round}"), count);
            let (before, after) =
                (assign(&names(members), &shards), assign(&names(members + 1), &shards));
            moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            most = counts(&before, members).into_iter().fold(most, usize::max);
        }
        let mean = |members: usize| shards.len() as f64 / members as f64;
        (moved as f64 / (ROUNDS as f64 * mean(members + 1)), most as f64 / mean(members))
    }

    /// A leave is a join in reverse.
    #[test]
    #[expect(clippy::print_stdout, reason = "the figures are in the decision page")]
    fn join_moves_little_more_than_a_fair_share() {
        let bounds = [(3, 16, 1.2), (5, 64, 1.2), (20, 256, 1.4), (10, 1_024, 1.1)];
        for (members, shards, at_most) in bounds {
            let (moved, most) = moves_of_a_join(members, shards);
            println!("{shards} shards, {members} members: moves {moved:.2}, most {most:.2}");
            assert!(moved <= at_most, "{shards} shards, {members} members: {moved}");
        }
    }

    #[test]
    fn member_that_leaves_and_joins_again_gets_its_shards_back() {
        let (mut members, shards) = (names("m", 5), names("s", 64));
        let before = assign(&members, &shards);
        let gone = members.remove(2);
        let without: BTreeSet<_> = assign(&members, &shards).into_iter().collect();
        assert_eq!(without.len(), 4);
        members.insert(2, gone);
        assert_eq!(assign(&members, &shards), before);
    }
}
