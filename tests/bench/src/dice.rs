//! Chance that repeats itself, and the shapes it takes: skewed ranks, long-tailed times.

/// Splitmix64: small, fast, and good enough to draw samples from.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to just below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to just below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        let scaled = (u128::from(self.roll()) * u128::from(n)) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A rank below `n` under Zipf's law: rank r comes about as often as 1/(r+1).
    pub fn zipf(&mut self, n: usize) -> usize {
        let most = to_f64(n.saturating_add(1));
        to_usize(most.powf(self.unit())).saturating_sub(1).min(n.saturating_sub(1))
    }

    /// Half of the values lie below `median`; `sigma` says how far the tail reaches.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller: two even chances make one normal deviate. 1 - unit() is never 0.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let deviate = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * deviate).exp()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn to_f64(n: usize) -> f64 {
    n as f64
}

/// Whatever lies outside becomes the nearest value.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
pub fn to_usize(x: f64) -> usize {
    x as usize
}

/// Whatever lies outside becomes the nearest value.
pub fn to_i64(x: f64) -> i64 {
    i64::try_from(to_usize(x)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 100_000;

    #[test]
    fn the_first_rank_comes_as_often_as_the_law_says() {
        let mut dice = Dice::new(1);
        let mut seen = vec![0_usize; 1000];
        (0..DRAWS).for_each(|_| seen[dice.zipf(1000)] += 1);
        // ln 2 / ln 1001 of all draws, and ten times as many as rank 9 has (ln 1.1 / ln 2 of it).
        let share = to_f64(seen[0]) / to_f64(DRAWS);
        assert!((0.095..0.106).contains(&share), "{share}");
        let ratio = to_f64(seen[0]) / to_f64(seen[9]);
        assert!((6.0..9.0).contains(&ratio), "{ratio}");
        assert!(seen[999] < 100 && seen[990..].iter().sum::<usize>() > 0);
    }

    #[test]
    fn half_of_the_times_lie_below_the_median_and_the_tail_is_long() {
        let mut dice = Dice::new(2);
        let mut times: Vec<f64> = (0..DRAWS).map(|_| dice.log_normal(100.0, 1.0)).collect();
        times.sort_by(f64::total_cmp);
        assert!((97.0..103.0).contains(&times[DRAWS / 2]), "{}", times[DRAWS / 2]);
        // exp(2.326) times the median.
        assert!((950.0..1100.0).contains(&times[DRAWS / 100 * 99]), "{}", times[DRAWS / 100 * 99]);
    }
}
