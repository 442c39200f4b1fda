//! How long the medium takes: latency per command, how many commands it works on at once, and its bandwidth.
//!
//! The time is an argument and chance is seeded, so a run repeats. A command waits for a free channel, works there for
//! its latency, and its data then crosses one shared link: throughput is bounded by channels / latency and by the
//! bandwidth, whichever is less, as on a flash drive.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::config::{Config, Latency};

/// No sample is longer than this, however far out in the tail.
const MAX_SAMPLE_NS: f64 = 600e9;

/// The medium's clockwork. Belongs to one shard of the device; see [`LatencyModel::for_shard`].
#[derive(Debug, Clone)]
pub struct LatencyModel {
    read: Latency,
    write: Latency,
    /// When each channel becomes free, the first to become free on top. Empty = any number of channels.
    channels_free_ns: BinaryHeap<Reverse<u64>>,
    bandwidth_bytes_per_s: Option<u64>,
    link_free_ns: u64,
    /// The second half of the last pair of normal variates.
    spare: Option<f64>,
    chance: fastrand::Rng,
    instant: bool,
}

impl LatencyModel {
    /// The whole medium.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::for_shard(config, 0, 1)
    }

    /// One of `shards` equal parts of the medium: the channels and the bandwidth are shared out (each part has one
    /// channel at the least), and each part has its own sequence of chance.
    #[must_use]
    pub fn for_shard(config: &Config, shard: u16, shards: u16) -> Self {
        let shards = shards.max(1);
        let write = config.write_latency.unwrap_or(config.latency);
        let bandwidth = config
            .bandwidth_bytes_per_s
            .map(|bytes| (bytes / u64::from(shards)).max(1));
        let channels = match config.channels {
            0 => 0,
            total => {
                let (each, rest) = (total / u32::from(shards), total % u32::from(shards));
                (each + u32::from(u32::from(shard) < rest)).max(1)
            }
        };
        Self {
            read: config.latency,
            write,
            channels_free_ns: (0..channels).map(|_| Reverse(0)).collect(),
            bandwidth_bytes_per_s: bandwidth,
            link_free_ns: 0,
            spare: None,
            chance: fastrand::Rng::with_seed(
                config.seed ^ (u64::from(shard) + 1).wrapping_mul(0xD1B5_4A32_D192_ED03),
            ),
            instant: config.latency == Latency::None && write == Latency::None && bandwidth.is_none(),
        }
    }

    /// Whether everything is due at once, so that there is no need to ask.
    #[inline]
    #[must_use]
    pub fn is_instant(&self) -> bool {
        self.instant
    }

    /// When a command that moves `bytes` and starts at `now_ns` is done. Never before `now_ns`.
    #[inline]
    pub fn due_ns(&mut self, now_ns: u64, is_write: bool, bytes: u64) -> u64 {
        if self.instant {
            now_ns
        } else {
            self.media_due_ns(now_ns, is_write, bytes)
        }
    }

    fn media_due_ns(&mut self, now_ns: u64, is_write: bool, bytes: u64) -> u64 {
        let service_ns = self.sample_ns(if is_write { self.write } else { self.read });
        let mut due_ns = match self.channels_free_ns.peek_mut() {
            Some(mut first_free) => {
                let due_ns = first_free.0.max(now_ns).saturating_add(service_ns);
                *first_free = Reverse(due_ns);
                due_ns
            }
            None => now_ns.saturating_add(service_ns),
        };
        if let Some(bandwidth) = self.bandwidth_bytes_per_s
            && bytes > 0
        {
            let transfer_ns = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth);
            let transfer_ns = u64::try_from(transfer_ns).unwrap_or(u64::MAX);
            // The link is taken in the order of arrival: what it is busy with now, then this.
            self.link_free_ns = self.link_free_ns.max(now_ns).saturating_add(transfer_ns);
            due_ns = due_ns.max(self.link_free_ns);
        }
        due_ns
    }

    fn sample_ns(&mut self, latency: Latency) -> u64 {
        match latency {
            Latency::None => 0,
            Latency::Fixed { ns } => ns,
            Latency::LogNormal { median_ns, sigma } => {
                let factor = (sigma * self.normal()).exp();
                // The cast saturates; there is no NaN, as both factors are finite and positive.
                (median_ns as f64 * factor).min(MAX_SAMPLE_NS) as u64
            }
        }
    }

    /// A standard normal variate (Box and Muller: two at a time from two uniform ones).
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 - x is in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.chance.f64()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.chance.f64()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(spec: &str) -> LatencyModel {
        LatencyModel::new(&spec.parse().unwrap())
    }

    #[test]
    fn without_a_model_everything_is_due_at_once() {
        let mut model = model("channels=4");
        assert!(model.is_instant());
        assert_eq!(model.due_ns(7, false, 1 << 20), 7);
    }

    #[test]
    fn unlimited_channels_do_not_wait_for_each_other() {
        let mut model = model("latency=80us,write-latency=10us");
        assert!(!model.is_instant());
        assert_eq!(model.due_ns(5, false, 4096), 80_005);
        assert_eq!(model.due_ns(5, false, 4096), 80_005);
        assert_eq!(model.due_ns(5, true, 4096), 10_005);
    }

    #[test]
    fn throughput_is_channels_over_latency() {
        let mut model = model("latency=100us,channels=8");
        let last = (0..800).map(|_| model.due_ns(0, false, 4096)).max();
        assert_eq!(last, Some(100 * 100_000));
        // An idle medium has no memory of it.
        assert_eq!(model.due_ns(1_000_000_000, false, 4096), 1_000_100_000);
    }

    #[test]
    fn the_link_is_shared() {
        let mut model = model("bandwidth=1000000000/s,latency=1us");
        assert_eq!(model.due_ns(0, false, 500), 1_000);
        assert_eq!(model.due_ns(0, false, 4096), 4_596);
        assert_eq!(model.due_ns(0, true, 0), 1_000);
    }

    #[test]
    fn lognormal_has_its_median_and_its_spread() {
        let mut model = model("latency=lognormal:80us:0.3,seed=7");
        let mut samples: Vec<u64> = (0..20_001).map(|_| model.due_ns(0, false, 0)).collect();
        samples.sort_unstable();
        let at = |quantile: f64| samples[(quantile * 20_000.0) as usize] as f64 / 80_000.0;
        assert!((at(0.5) - 1.0).abs() < 0.02, "{}", at(0.5));
        // exp(0.3 * 1.0) and exp(0.3 * 2.326): one standard deviation, and the 99th percentile.
        assert!((at(0.8413) - 1.350).abs() < 0.04, "{}", at(0.8413));
        assert!((at(0.99) - 2.010).abs() < 0.12, "{}", at(0.99));
    }

    #[test]
    fn shards_share_the_channels_out() {
        let config: Config = "latency=100us,channels=5".parse().unwrap();
        let channels: Vec<usize> = (0..3)
            .map(|shard| LatencyModel::for_shard(&config, shard, 3).channels_free_ns.len())
            .collect();
        assert_eq!(channels, [2, 2, 1]);
        let one: Config = "latency=100us,channels=1".parse().unwrap();
        assert_eq!(LatencyModel::for_shard(&one, 2, 3).channels_free_ns.len(), 1);
    }

    proptest! {
        #[test]
        fn never_in_the_past_and_the_same_again(
            seed: u64,
            channels in 0u32..5,
            sigma in 0.0..=3.0f64,
            arrivals in proptest::collection::vec((any::<u64>(), any::<bool>(), any::<u64>()), 1..50),
        ) {
            let config = Config {
                seed,
                channels,
                latency: Latency::LogNormal { median_ns: 80_000, sigma },
                bandwidth_bytes_per_s: Some(1),
                ..Config::default()
            };
            let (mut one, mut other) = (LatencyModel::new(&config), LatencyModel::new(&config));
            for (now_ns, is_write, bytes) in arrivals {
                let due_ns = one.due_ns(now_ns, is_write, bytes);
                prop_assert!(due_ns >= now_ns);
                prop_assert_eq!(other.due_ns(now_ns, is_write, bytes), due_ns);
            }
        }
    }
}
