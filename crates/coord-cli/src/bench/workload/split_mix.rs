//! The random number generator of the Go programs that `coord bench` is compared with, so that
//! workers with the same seed make the same choices.

/// The generator of one worker.
///
/// Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA
/// 2014, figure 17.
#[derive(Debug)]
pub(super) struct SplitMix(u64);

impl SplitMix {
    /// The generator of the worker with this number.
    pub(super) const fn of_worker(seed: u64, number: usize) -> Self {
        Self(seed.wrapping_mul(1_000_003).wrapping_add(number as u64))
    }

    /// The next random number.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_matches_the_reference_implementation() {
        let mut rng = SplitMix(1_234_567);
        let numbers = [rng.next(), rng.next(), rng.next()];
        // From the authors' reference implementation.
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }
}
