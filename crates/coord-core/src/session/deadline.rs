//! The lease deadline of a session: a state machine without clocks and tasks.
//!
//! A session must end locally before the store can end its lease. The store counts a lease's time
//! from the arrival of the last keep-alive. The session counts from the moment at which the last
//! confirmed keep-alive was *sent*, which is earlier. It subtracts a clock-drift margin of a tenth
//! of the time to live (TTL), and the time for which the machine was suspended:
//!
//! ```text
//! a lease of 30 s, whose last confirmed keep-alive was sent at 0 s
//! never suspended          deadline at 27 s
//! suspended for 10 s       deadline at 17 s of the runtime's clock, which stood still meanwhile
//! suspended for an hour    deadline passed
//! ```
//!
//! The session task reports each event, and reads the state, the deadline and the time of the next
//! keep-alive:
//!
//! ```text
//! event                       state              next keep-alive
//! lease granted or adopted    alive              TTL/3 after that request was sent
//! keep-alive sent             unchanged          none while one is in flight
//! keep-alive confirmed        alive              TTL/3 after it was sent
//! keep-alive failed           suspect            TTL/20 from now
//! lease not found             lost: revoked      none
//! check requested             unchanged          now
//! machine was suspended       unchanged          now; none while one is in flight
//! deadline passed             lost: see below    none
//! ```
//!
//! A session that passes its deadline is `DeadlineUnconfirmed` while the store may still have the
//! lease, and `Expired` after the whole TTL of the lease. A lost session stays lost: no later event
//! changes it.
//!
//! A session with a *lock-delay* has a lease that lives longer than the session by at least that
//! delay. All other times above count the TTL of the session, which is shorter than the TTL of the
//! lease: see [`LeaseTtl`].

use std::time::Duration;

use tokio::time::Instant;

use super::SessionState;
use crate::error::LossReason;

/// The shortest suspension that triggers a keep-alive: shorter than any suspension of a machine,
/// and longer than it takes to read two clocks.
const SUSPENSION_MIN: Duration = Duration::from_millis(100);

/// The TTL of a lease, and the part of it that is kept for the lock-delay.
///
/// The store may count time faster than the session, by the clock-drift margin of a tenth at most.
/// So the part is a ninth longer than the lock-delay, in whole seconds:
///
/// ```text
/// TTL of the session 10 s, lock-delay 45 s        lease of 10 s + 50 s
///   0 s   last confirmed keep-alive
///   9     deadline of the session
///  54     a store that counts 60 s in 54 s ends the lease: 45 s after the deadline
///  60     a store whose clock is exact ends it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseTtl {
    /// The TTL of the session.
    pub(super) session: Duration,
    /// How much longer the lease lives.
    pub(super) reserved: Duration,
}

impl LeaseTtl {
    /// How much longer than its session a lease must live for a lock-delay.
    pub(super) const fn reserved_for(lock_delay: Duration) -> Duration {
        let secs = lock_delay.as_secs();
        Duration::from_secs(secs.saturating_add(secs.div_ceil(9)))
    }

    /// The TTL of the lease.
    pub(super) const fn lease(self) -> Duration {
        self.session.saturating_add(self.reserved)
    }
}

/// A moment by the runtime's clock, and the total suspension of the machine until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) asleep: Duration,
}

impl Moment {
    /// The time from this moment until `now`, asleep or awake.
    fn elapsed_until(self, now: Self) -> Duration {
        let awake = now.at.saturating_duration_since(self.at);
        awake.saturating_add(now.asleep.saturating_sub(self.asleep))
    }
}

/// The state of a lease, as far as its session can know it.
#[derive(Debug)]
pub(super) struct LeaseDeadline {
    /// The TTL of the session.
    ttl: Duration,
    /// The TTL of the lease: longer by the lock-delay and its margin.
    lease_ttl: Duration,
    /// When the last confirmed keep-alive was sent.
    confirmed: Moment,
    /// The total suspension of the machine at the last event.
    asleep: Duration,
    /// The total suspension of the machine when [`advance`](Self::advance) last reported one.
    asleep_noted: Duration,
    state: SessionState,
    /// `None` while a keep-alive is in flight, and when the session is lost.
    next_attempt: Option<Instant>,
}

impl LeaseDeadline {
    /// The deadline of a lease that was granted or adopted by a request sent at `sent`.
    pub(super) fn new(ttl: LeaseTtl, sent: Moment) -> Self {
        let (ttl, lease_ttl) = (ttl.session, ttl.lease());
        Self {
            ttl,
            lease_ttl,
            confirmed: sent,
            asleep: sent.asleep,
            asleep_noted: sent.asleep,
            state: SessionState::Alive,
            next_attempt: Some(sent.at + ttl / 3),
        }
    }

    /// Alive, suspect or lost, as of the last event.
    pub(super) const fn state(&self) -> SessionState {
        self.state
    }

    /// When the session is lost, by the runtime's clock, unless a keep-alive is confirmed or the
    /// machine is suspended before then.
    pub(super) fn at(&self) -> Instant {
        let clock_drift_margin = self.ttl / 10;
        let suspended = self.asleep.saturating_sub(self.confirmed.asleep);
        self.confirmed.at + (self.ttl - clock_drift_margin).saturating_sub(suspended)
    }

    /// When to send the next keep-alive; `None` while one is in flight.
    pub(super) const fn next_attempt(&self) -> Option<Instant> {
        self.next_attempt
    }

    /// A keep-alive was sent: the next one waits for its response.
    pub(super) const fn note_sent(&mut self) {
        self.next_attempt = None;
    }

    /// The store confirmed the keep-alive that was sent at `sent`.
    pub(super) fn note_confirmed(&mut self, sent: Moment) {
        if self.state.is_lost() {
            return;
        }
        self.confirmed = sent;
        self.state = SessionState::Alive;
        // A suspension while the request was in flight counts against the lease, so it also brings
        // the next keep-alive forward.
        let suspended = self.asleep.saturating_sub(sent.asleep);
        self.next_attempt = Some(sent.at + (self.ttl / 3).saturating_sub(suspended));
    }

    /// A keep-alive failed at `now`, with an error that does not show whether the lease exists.
    pub(super) fn note_failure(&mut self, now: Instant) {
        if self.state.is_lost() {
            return;
        }
        self.state = SessionState::Suspect;
        self.next_attempt = Some(now + self.ttl / 20);
    }

    /// The store does not have the lease.
    pub(super) const fn note_not_found(&mut self) {
        self.lose(LossReason::Revoked);
    }

    /// Another request indicates that the lease is gone: the next keep-alive is due at `now`.
    pub(super) const fn request_check(&mut self, now: Instant) {
        if !self.state.is_lost() {
            self.next_attempt = Some(now);
        }
    }

    /// Time has passed until `now`. Returns whether the machine was suspended since the last
    /// suspension was reported, which moves the deadline.
    pub(super) fn advance(&mut self, now: Moment) -> bool {
        if self.state.is_lost() {
            return false;
        }
        self.asleep = now.asleep;
        let was_suspended = now.asleep.saturating_sub(self.asleep_noted) >= SUSPENSION_MIN;
        if was_suspended {
            self.asleep_noted = now.asleep;
            self.next_attempt = self.next_attempt.map(|_| now.at);
        }
        if now.at >= self.at() {
            self.lose(if self.confirmed.elapsed_until(now) >= self.lease_ttl {
                LossReason::Expired
            } else {
                LossReason::DeadlineUnconfirmed
            });
        }
        was_suspended
    }

    const fn lose(&mut self, reason: LossReason) {
        if !self.state.is_lost() {
            self.state = SessionState::Lost(reason);
            self.next_attempt = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const THIRTY_SECONDS: LeaseTtl =
        LeaseTtl { session: Duration::from_secs(30), reserved: Duration::ZERO };

    /// A timeline, and a lease of 30 s that was granted at its start.
    struct Timeline(Instant);

    impl Timeline {
        fn new() -> (Self, LeaseDeadline) {
            let timeline = Self(Instant::now());
            let granted = timeline.moment(0, 0);
            (timeline, LeaseDeadline::new(THIRTY_SECONDS, granted))
        }

        fn at(&self, awake: u32) -> Instant {
            self.0 + SECOND * awake
        }

        fn moment(&self, awake: u32, asleep: u32) -> Moment {
            Moment { at: self.at(awake), asleep: SECOND * (100 + asleep) }
        }
    }

    #[test]
    fn deadline_counts_from_when_the_keep_alive_was_sent() {
        let (time, mut lease) = Timeline::new();
        assert_eq!(lease.at(), time.at(27));
        assert_eq!(lease.next_attempt(), Some(time.at(10)));
        lease.note_sent();
        assert_eq!(lease.next_attempt(), None);
        assert!(!lease.advance(time.moment(12, 0)));
        assert_eq!(lease.at(), time.at(27), "sent, and not yet confirmed");
        lease.note_confirmed(time.moment(10, 0));
        assert_eq!((lease.state(), lease.at()), (SessionState::Alive, time.at(10 + 27)));
        assert_eq!(lease.next_attempt(), Some(time.at(20)));
    }

    #[test]
    fn failed_keep_alive_makes_the_session_suspect() {
        let (time, mut lease) = Timeline::new();
        lease.note_sent();
        lease.note_failure(time.at(18));
        assert_eq!((lease.state(), lease.at()), (SessionState::Suspect, time.at(27)));
        assert_eq!(lease.next_attempt(), Some(time.at(18) + SECOND * 3 / 2));
        lease.note_sent();
        lease.note_confirmed(time.moment(20, 0));
        assert_eq!((lease.state(), lease.at()), (SessionState::Alive, time.at(20 + 27)));
    }

    #[test]
    fn session_is_lost_at_its_deadline_and_stays_lost() {
        for (now, reason) in [
            (27, LossReason::DeadlineUnconfirmed),
            (29, LossReason::DeadlineUnconfirmed),
            (30, LossReason::Expired),
        ] {
            let (time, mut lease) = Timeline::new();
            lease.note_sent();
            lease.advance(time.moment(26, 0));
            assert_eq!(lease.state(), SessionState::Alive);
            lease.advance(time.moment(now, 0));
            let lost = SessionState::Lost(reason);
            assert_eq!((lease.state(), lease.next_attempt()), (lost, None), "at {now} s");

            lease.note_confirmed(time.moment(20, 0));
            lease.note_failure(time.at(now));
            lease.note_not_found();
            lease.request_check(time.at(now));
            assert_eq!((lease.state(), lease.next_attempt()), (lost, None), "final");
        }
    }

    #[test]
    fn unknown_lease_is_revoked_before_its_deadline() {
        let (time, mut lease) = Timeline::new();
        lease.request_check(time.at(1));
        assert_eq!(lease.next_attempt(), Some(time.at(1)), "a check is due at once");
        lease.note_sent();
        lease.note_not_found();
        assert_eq!(lease.state(), SessionState::Lost(LossReason::Revoked));
    }

    #[test]
    fn suspension_counts_against_the_lease() {
        let (time, mut lease) = Timeline::new();
        assert!(lease.advance(time.moment(1, 10)));
        assert_eq!((lease.state(), lease.at()), (SessionState::Alive, time.at(17)));
        assert_eq!(lease.next_attempt(), Some(time.at(1)), "refreshed at once");
        assert!(!lease.advance(time.moment(2, 10)), "reported once");

        for (awake, asleep, reason) in [
            (17, 10, LossReason::DeadlineUnconfirmed),
            (1, 29, LossReason::Expired),
            (1, 3_600, LossReason::Expired),
        ] {
            let (time, mut lease) = Timeline::new();
            lease.advance(time.moment(awake, asleep));
            assert_eq!(lease.state(), SessionState::Lost(reason), "asleep for {asleep} s");
        }
    }

    #[test]
    fn short_suspension_moves_only_the_deadline() {
        let (time, mut lease) = Timeline::new();
        let short = Duration::from_millis(99);
        let Moment { at, asleep } = time.moment(1, 0);
        assert!(!lease.advance(Moment { at, asleep: asleep + short }));
        assert_eq!(lease.at(), time.at(27) - short);
        assert_eq!(lease.next_attempt(), Some(time.at(10)));
    }

    /// Regression test: the next keep-alive was scheduled after the deadline, so the session was
    /// lost although the store responded.
    #[test]
    fn suspension_in_flight_brings_the_next_keep_alive_forward() {
        let (time, mut lease) = Timeline::new();
        lease.note_sent();
        assert!(lease.advance(time.moment(10, 15)));
        assert_eq!(lease.next_attempt(), None, "one is in flight");
        lease.note_confirmed(time.moment(10, 0));
        assert_eq!(lease.at(), time.at(10 + 27 - 15));
        assert_eq!(lease.next_attempt(), Some(time.at(10)));
    }

    #[test]
    fn lock_delay_lengthens_the_lease_and_not_the_session() {
        let time = Timeline(Instant::now());
        let ttl = LeaseTtl { reserved: SECOND * 20, ..THIRTY_SECONDS };
        for (now, reason) in [
            (27, LossReason::DeadlineUnconfirmed),
            (49, LossReason::DeadlineUnconfirmed),
            (50, LossReason::Expired),
        ] {
            let mut lease = LeaseDeadline::new(ttl, time.moment(0, 0));
            assert_eq!((lease.at(), lease.next_attempt()), (time.at(27), Some(time.at(10))));
            lease.advance(time.moment(now, 0));
            assert_eq!(lease.state(), SessionState::Lost(reason), "at {now} s");
        }
    }

    #[test]
    fn reserve_covers_the_delay_if_a_lease_ends_a_tenth_early() {
        for delay in [0, 1, 8, 9, 10, 15, 45, 1_000_000_007] {
            let reserved = LeaseTtl::reserved_for(SECOND * delay);
            assert!(reserved * 9 / 10 >= SECOND * delay, "{delay} s: {reserved:?}");
            assert!(reserved * 9 / 10 < SECOND * (delay + 1), "{delay} s: {reserved:?}");
        }
        assert_eq!(LeaseTtl::reserved_for(Duration::MAX), Duration::from_secs(u64::MAX));
    }
}
