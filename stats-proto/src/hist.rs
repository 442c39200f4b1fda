//! Log-linear histograms: the index that the driver's hot path computes, and the sparse form that documents
//! carry.
//!
//! The buckets are those of HdrHistogram with two significant digits and a lowest discernible value of 1:
//! every value below 256 has a bucket of its own; above that each power of two is cut into 128 buckets of
//! equal width. A bucket is thus never wider than 1/128 (0.79%) of its lowest value, from 1 ns to 2^36 ns
//! (68.7 s), in [`BUCKETS`] buckets.
//!
//! ```
//! use stats_proto::hist::{BUCKETS, Histogram, Unit, index_of};
//!
//! let mut counts = vec![0_u64; BUCKETS]; // what a queue keeps
//! for latency_ns in [80_000, 81_000, 82_000, 950_000] {
//!     counts[index_of(latency_ns)] += 1;
//! }
//! let histogram = Histogram::from_counts(Unit::Ns, counts, 0)?;
//! assert_eq!(histogram.count(), 4);
//! assert_eq!(histogram.quantile(0.5), Some(81_407)); // the upper edge of the bucket that holds 81,000
//! # Ok::<(), stats_proto::hist::HistError>(())
//! ```

mod wire;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// log2 of the number of sub-buckets: two significant digits need 200 distinct values, so 2^8.
pub const SUB_BUCKET_BITS: u32 = 8;

/// The number of buckets: 28 powers of two above 255 at 128 buckets each, and 256 buckets of width 1 below.
pub const BUCKETS: usize = 3840;

/// The largest value that has a bucket of its own: 2^36 - 1. Larger ones are counted in the last bucket.
pub const MAX_VALUE: u64 = (1 << 36) - 1;

/// log2 of the number of buckets per power of two.
const HALF_BITS: u32 = SUB_BUCKET_BITS - 1;

/// The bucket that counts `value`; always below [`BUCKETS`]. Values above [`MAX_VALUE`] fall into the last
/// bucket.
///
/// A recorder calls this for every command: no branch, no table, no division, and an array of [`BUCKETS`]
/// counters can be indexed with the result without a bounds check, since the bound is the last thing that is
/// applied.
#[inline(always)]
#[must_use]
pub const fn index_of(value: u64) -> usize {
    // Setting the low bits makes every value below 256 look like 255, whose shift is 0.
    let shift = (value | 0xff).ilog2() - HALF_BITS;
    // The leading bit of `value >> shift` is 1 (128..=255) once the shift is above 0. Adding it to the
    // shift's 128 buckets carries on where the power of two below ended, so no half has to be subtracted.
    let index = ((shift as usize) << HALF_BITS) + (value >> shift) as usize;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The lowest value that bucket `index` counts. An index past the end is taken as the last bucket.
#[inline]
#[must_use]
pub const fn lowest_value(index: usize) -> u64 {
    let (shift, mantissa) = parts(index);
    mantissa << shift
}

/// The highest value that bucket `index` counts (inclusive). An index past the end is taken as the last
/// bucket, whose edge is [`MAX_VALUE`] though it also counts everything above.
#[inline]
#[must_use]
pub const fn highest_value(index: usize) -> u64 {
    let (shift, mantissa) = parts(index);
    (mantissa << shift) + ((1 << shift) - 1)
}

/// The inverse of [`index_of`]: the shift and the shifted value.
const fn parts(index: usize) -> (u32, u64) {
    let index = if index < BUCKETS { index } else { BUCKETS - 1 };
    let shift = (index >> HALF_BITS).saturating_sub(1);
    (shift as u32, (index - (shift << HALF_BITS)) as u64)
}

/// The value that stands for a bucket in means: its middle, as HdrHistogram has it.
const fn middle_value(index: usize) -> u64 {
    let (shift, mantissa) = parts(index);
    (mantissa << shift) + ((1_u64 << shift) >> 1)
}

/// What a histogram's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// A number of things, such as completions.
    Count,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ns => "ns",
            Self::Count => "count",
        })
    }
}

/// Why a histogram could not be made, read, added, subtracted or converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistError {
    /// Two histograms of different units.
    #[error("a histogram in {left} cannot be combined with one in {right}")]
    Units {
        /// The unit of the first.
        left: Unit,
        /// The unit of the other.
        right: Unit,
    },
    /// The sum of the counts is above 2^64 - 1.
    #[error("the counts of the buckets add up to more than 2^64 - 1")]
    TooMany,
    /// An index at or above [`BUCKETS`].
    #[error("bucket {index} does not exist: there are {BUCKETS}")]
    Index {
        /// The index that was given.
        index: u64,
    },
    /// The buckets of a sparse histogram are not in ascending order, or one comes twice.
    #[error("bucket {index} comes after a bucket of an equal or higher index")]
    Order {
        /// The index that is out of order.
        index: u32,
    },
    /// A sparse histogram lists a bucket that counts nothing.
    #[error("bucket {index} is listed though its count is 0")]
    Empty {
        /// The bucket that should have been left out.
        index: u32,
    },
    /// `count` is not the sum of the buckets.
    #[error("count is {count} but the buckets add up to {sum}")]
    Count {
        /// What was claimed.
        count: u64,
        /// What the buckets say.
        sum: u64,
    },
    /// More values above [`MAX_VALUE`] than the last bucket counts in all.
    #[error("overflow is {overflow} but the last bucket, which counts those too, has only {last}")]
    Overflow {
        /// What was claimed.
        overflow: u64,
        /// The last bucket's count.
        last: u64,
    },
    /// Not `hdr-sparse`.
    #[error("encoding {0:?} is not understood, only \"hdr-sparse\"")]
    Encoding(String),
    /// Another resolution than this crate's.
    #[error("sub_bucket_bits {0} is not understood, only {SUB_BUCKET_BITS}")]
    Resolution(u64),
    /// A bucket of the later snapshot counts less than in the earlier one.
    #[error(
        "bucket {index} went back from {earlier} to {later}: these are not two snapshots of one histogram in order"
    )]
    WentBack {
        /// The bucket.
        index: u32,
        /// Its count before.
        earlier: u64,
        /// Its count after.
        later: u64,
    },
    /// The later snapshot's overflow is lower than the earlier one's.
    #[error(
        "overflow went back from {earlier} to {later}: these are not two snapshots of one histogram in order"
    )]
    OverflowWentBack {
        /// Before.
        earlier: u64,
        /// After.
        later: u64,
    },
    /// The crate hdrhistogram refused.
    #[error("hdrhistogram: {0}")]
    Hdr(String),
}

/// A histogram as documents carry it: only the buckets that counted something, in ascending order.
///
/// In JSON:
/// `{"encoding":"hdr-sparse","unit":"ns","sub_bucket_bits":8,"count":4,"overflow":0,"buckets":[[index,count],...]}`.
/// Whatever way a value of this type came to be, also by reading JSON, its buckets are ascending, exist, are
/// not empty and add up to `count`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "wire::HistogramIn")]
pub struct Histogram {
    unit: Unit,
    count: u64,
    overflow: u64,
    buckets: Vec<(u32, u64)>,
}

impl Histogram {
    /// A histogram that has counted nothing.
    #[must_use]
    pub const fn empty(unit: Unit) -> Self {
        Self {
            unit,
            count: 0,
            overflow: 0,
            buckets: Vec::new(),
        }
    }

    /// From the counts of all buckets in order of index, as a queue keeps them (fewer than [`BUCKETS`] is
    /// fine, the rest are 0). `overflow` says how many of those in the last bucket were above [`MAX_VALUE`].
    ///
    /// # Errors
    /// More than [`BUCKETS`] counts, a sum above 2^64 - 1, or an `overflow` above the last bucket's count.
    pub fn from_counts<I>(unit: Unit, counts: I, overflow: u64) -> Result<Self, HistError>
    where
        I: IntoIterator<Item = u64>,
    {
        let used = (0_u64..).zip(counts).filter(|&(_, count)| count != 0);
        Self::from_buckets(unit, used, overflow)
    }

    /// From `(index, count)` pairs in ascending order of index.
    ///
    /// # Errors
    /// As the variants of [`HistError`] say: an index that does not exist or is out of order, a count of 0, a
    /// sum above 2^64 - 1, or an `overflow` above the last bucket's count.
    pub fn from_buckets<I>(unit: Unit, buckets: I, overflow: u64) -> Result<Self, HistError>
    where
        I: IntoIterator<Item = (u64, u64)>,
    {
        let mut histogram = Self {
            unit,
            count: 0,
            overflow,
            buckets: Vec::new(),
        };
        for (index, count) in buckets {
            let index = match u32::try_from(index) {
                Ok(index) if (index as usize) < BUCKETS => index,
                _ => return Err(HistError::Index { index }),
            };
            if histogram
                .buckets
                .last()
                .is_some_and(|&(before, _)| before >= index)
            {
                return Err(HistError::Order { index });
            }
            if count == 0 {
                return Err(HistError::Empty { index });
            }
            histogram.count = histogram.count.checked_add(count).ok_or(HistError::TooMany)?;
            histogram.buckets.push((index, count));
        }
        let last = histogram.last_bucket();
        if overflow > last {
            Err(HistError::Overflow { overflow, last })
        } else {
            Ok(histogram)
        }
    }

    /// What the values are.
    #[must_use]
    pub const fn unit(&self) -> Unit {
        self.unit
    }

    /// How many values were recorded: the sum of all buckets.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How many of them were above [`MAX_VALUE`]. They are in the last bucket too.
    #[must_use]
    pub const fn overflow(&self) -> u64 {
        self.overflow
    }

    /// The buckets that counted something, as `(index, count)` in ascending order of index.
    #[must_use]
    pub fn buckets(&self) -> &[(u32, u64)] {
        &self.buckets
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The lower edge of the lowest bucket that counted something; `None` if nothing was recorded.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.buckets
            .first()
            .map(|&(index, _)| lowest_value(index as usize))
    }

    /// The upper edge of the highest bucket that counted something; `None` if nothing was recorded.
    ///
    /// [`MAX_VALUE`] means "that or more" when [`overflow`](Self::overflow) is not 0.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.buckets
            .last()
            .map(|&(index, _)| highest_value(index as usize))
    }

    /// The smallest upper edge of a bucket such that at least the share `q` of all values is at or below it;
    /// for `q` = 0 the lower edge of the lowest bucket. `q` is clamped to 0..=1. `None` if nothing was
    /// recorded or `q` is NaN.
    ///
    /// This is HdrHistogram's definition, so that both give the same answers. The value that was recorded is
    /// at most 0.79% lower.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if q.is_nan() {
            return None;
        }
        let q = q.clamp(0.0, 1.0);
        if q == 0.0 {
            return self.min();
        }
        let wanted = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0_u64;
        let bucket = self.buckets.iter().find(|&&(_, count)| {
            seen += count;
            seen >= wanted
        });
        bucket.map(|&(index, _)| highest_value(index as usize))
    }

    /// The arithmetic mean, each value taken as the middle of its bucket; `None` if nothing was recorded.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.weighted(|middle| middle) / self.count as f64)
    }

    /// The standard deviation (of the population, divisor n), each value taken as the middle of its bucket;
    /// `None` if nothing was recorded.
    #[must_use]
    pub fn stddev(&self) -> Option<f64> {
        let mean = self.mean()?;
        Some((self.weighted(|middle| (middle - mean).powi(2)) / self.count as f64).sqrt())
    }

    /// The sum over all values of `f(middle of the value's bucket)`.
    fn weighted(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.buckets
            .iter()
            .map(|&(index, count)| f(middle_value(index as usize) as f64) * count as f64)
            .sum()
    }

    /// Adds what `other` counted to this one, as if both had recorded into it: how percentiles over several
    /// queues are made. On an error this histogram is unchanged.
    ///
    /// # Errors
    /// Different units, or a sum above 2^64 - 1.
    pub fn add(&mut self, other: &Self) -> Result<(), HistError> {
        self.same_unit(other)?;
        let count = self.count.checked_add(other.count).ok_or(HistError::TooMany)?;
        let mut merged = Vec::with_capacity(self.buckets.len().max(other.buckets.len()));
        let (mut left, mut right) = (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        loop {
            // No sum below can pass the sum of all, which fits.
            merged.push(match (left.peek(), right.peek()) {
                (Some(&&(l, l_count)), Some(&&(r, r_count))) if l == r => {
                    left.next();
                    right.next();
                    (l, l_count + r_count)
                }
                (Some(&&(l, _)), Some(&&bucket)) if bucket.0 < l => {
                    right.next();
                    bucket
                }
                (Some(&&bucket), _) => {
                    left.next();
                    bucket
                }
                (None, Some(&&bucket)) => {
                    right.next();
                    bucket
                }
                (None, None) => break,
            });
        }
        // Each overflow is at most its last bucket, so their sum is at most the merged last bucket.
        self.overflow += other.overflow;
        self.count = count;
        self.buckets = merged;
        Ok(())
    }

    /// What was recorded between the snapshot `earlier` and this one, both of the same running histogram.
    ///
    /// # Errors
    /// Different units, or a bucket (or the overflow) that went back: then the two are not snapshots of one
    /// histogram in that order, because nothing ever resets a histogram.
    pub fn subtract(&self, earlier: &Self) -> Result<Self, HistError> {
        self.same_unit(earlier)?;
        let mut grown = Vec::with_capacity(self.buckets.len());
        let mut before = earlier.buckets.iter().peekable();
        for &(index, later) in &self.buckets {
            let mut past = 0;
            if let Some(&&(before_index, count)) = before.peek() {
                if before_index < index {
                    return Err(HistError::WentBack {
                        index: before_index,
                        earlier: count,
                        later: 0,
                    });
                }
                if before_index == index {
                    before.next();
                    past = count;
                }
            }
            match later.checked_sub(past) {
                Some(0) => {}
                Some(growth) => grown.push((u64::from(index), growth)),
                None => {
                    return Err(HistError::WentBack {
                        index,
                        earlier: past,
                        later,
                    });
                }
            }
        }
        if let Some(&(index, count)) = before.next() {
            return Err(HistError::WentBack {
                index,
                earlier: count,
                later: 0,
            });
        }
        let overflow = self
            .overflow
            .checked_sub(earlier.overflow)
            .ok_or(HistError::OverflowWentBack {
                earlier: earlier.overflow,
                later: self.overflow,
            })?;
        let mut grown = Self::from_buckets(self.unit, grown, 0)?;
        // In a snapshot that is not consistent the overflow may have been read a little later than its
        // bucket.
        grown.overflow = overflow.min(grown.last_bucket());
        Ok(grown)
    }

    /// The same counts in the type of the crate hdrhistogram (1 to [`MAX_VALUE`], two significant digits).
    ///
    /// # Errors
    /// [`HistError::Hdr`] if that crate refuses, which no histogram of this type makes it do.
    pub fn to_hdr(&self) -> Result<hdrhistogram::Histogram<u64>, HistError> {
        let mut hdr = hdrhistogram::Histogram::new_with_bounds(1, MAX_VALUE, 2)
            .map_err(|error| HistError::Hdr(error.to_string()))?;
        for &(index, count) in &self.buckets {
            hdr.record_n(lowest_value(index as usize), count)
                .map_err(|error| HistError::Hdr(error.to_string()))?;
        }
        Ok(hdr)
    }

    fn same_unit(&self, other: &Self) -> Result<(), HistError> {
        if self.unit == other.unit {
            Ok(())
        } else {
            Err(HistError::Units {
                left: self.unit,
                right: other.unit,
            })
        }
    }

    fn last_bucket(&self) -> u64 {
        match self.buckets.last() {
            Some(&(index, count)) if index as usize == BUCKETS - 1 => count,
            _ => 0,
        }
    }
}
