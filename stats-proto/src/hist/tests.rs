use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sample;

/// HdrHistogram with the parameters that the index is meant to agree with.
fn hdr() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(1, MAX_VALUE, 2).unwrap()
}

/// Values of every magnitude alike.
fn any_value() -> impl Strategy<Value = u64> {
    (0_u32..36, any::<u64>()).prop_map(|(bits, noise)| noise & ((2 << bits) - 1))
}

fn values() -> impl Strategy<Value = Vec<u64>> {
    vec(any_value(), 0..200)
}

fn recorded(values: &[u64]) -> Histogram {
    sample::histogram(Unit::Ns, values)
}

#[test]
fn every_bucket_is_the_one_of_hdrhistogram() {
    let hdr = hdr();
    assert_eq!(hdr.distinct_values(), BUCKETS);
    for index in 0..BUCKETS {
        let (low, high) = (lowest_value(index), highest_value(index));
        assert_eq!((index_of(low), index_of(high)), (index, index));
        assert_eq!(
            (hdr.lowest_equivalent(low), hdr.highest_equivalent(low)),
            (low, high),
            "bucket {index}"
        );
        assert_eq!(hdr.median_equivalent(low), middle_value(index), "bucket {index}");
    }
}

#[test]
fn buckets_follow_each_other_without_gaps_up_to_the_largest_value() {
    assert_eq!(lowest_value(0), 0);
    for index in 1..BUCKETS {
        assert_eq!(
            highest_value(index - 1) + 1,
            lowest_value(index),
            "bucket {index}"
        );
    }
    assert_eq!(highest_value(BUCKETS - 1), MAX_VALUE);
}

#[test]
fn what_is_too_large_falls_into_the_last_bucket() {
    for value in [MAX_VALUE, MAX_VALUE + 1, 1 << 40, u64::MAX] {
        assert_eq!(index_of(value), BUCKETS - 1);
    }
    assert_eq!(lowest_value(usize::MAX), lowest_value(BUCKETS - 1));
    assert_eq!(highest_value(BUCKETS), MAX_VALUE);
}

/// The index is usable where constants are made, and the bound of its error is exactly what the docs state: a
/// bucket's edges differ by less than 1/128 of the lower one, and no smaller power of two would do.
#[test]
fn the_error_is_below_one_128th_and_nearly_reaches_it() {
    const LAST: usize = index_of(u64::MAX);
    assert_eq!(LAST, BUCKETS - 1);
    let mut worst = 0.0_f64;
    for index in 0..BUCKETS {
        let (low, high) = (lowest_value(index), highest_value(index));
        assert!((high - low) * 128 < low.max(1), "bucket {index}");
        if low > 0 {
            worst = worst.max((high - low) as f64 / low as f64);
        }
    }
    assert!((0.0078..1.0 / 128.0).contains(&worst), "{worst}");
}

proptest! {
    #[test]
    fn the_index_agrees_with_hdrhistogram(value in any_value()) {
        let hdr = hdr();
        let index = index_of(value);
        prop_assert_eq!(lowest_value(index), hdr.lowest_equivalent(value));
        prop_assert_eq!(highest_value(index), hdr.highest_equivalent(value));
    }

    #[test]
    fn a_reported_value_is_at_most_one_128th_above_the_recorded_one(value in any_value()) {
        let reported = recorded(&[value]).quantile(0.5).unwrap();
        prop_assert!(reported >= value && (reported - value) * 128 <= value);
    }

    #[test]
    fn figures_are_those_of_hdrhistogram(values in values(), q in 0.0..=1.0_f64) {
        let histogram = recorded(&values);
        let mut hdr = hdr();
        for &value in &values {
            hdr.record(value).unwrap();
        }
        prop_assert_eq!(histogram.count(), hdr.len());
        if values.is_empty() {
            prop_assert_eq!((histogram.min(), histogram.max(), histogram.quantile(q)), (None, None, None));
            prop_assert_eq!((histogram.mean(), histogram.stddev()), (None, None));
        } else {
            prop_assert_eq!(histogram.min(), Some(hdr.lowest_equivalent(hdr.min())));
            prop_assert_eq!(histogram.max(), Some(hdr.max()));
            for q in [q, 0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
                prop_assert_eq!(histogram.quantile(q), Some(hdr.value_at_quantile(q)), "q = {}", q);
            }
            let close = |ours: Option<f64>, theirs: f64| (ours.unwrap() - theirs).abs() <= theirs.abs() * 1e-9 + 1e-6;
            prop_assert!(close(histogram.mean(), hdr.mean()));
            prop_assert!(close(histogram.stddev(), hdr.stdev()));
        }
    }

    #[test]
    fn conversion_to_hdrhistogram_keeps_every_bucket(values in values()) {
        let mut hdr = hdr();
        for &value in &values {
            hdr.record(value).unwrap();
        }
        let converted = recorded(&values).to_hdr().unwrap();
        prop_assert_eq!(converted.len(), hdr.len());
        for &value in &values {
            prop_assert_eq!(converted.count_at(value), hdr.count_at(value));
        }
    }

    #[test]
    fn adding_is_recording_both(left in values(), right in values()) {
        let mut sum = recorded(&left);
        sum.add(&recorded(&right)).unwrap();
        prop_assert_eq!(sum, recorded(&[left, right].concat()));
    }

    #[test]
    fn subtracting_leaves_what_was_recorded_since(before in values(), since in values()) {
        let earlier = recorded(&before);
        let later = recorded(&[before, since.clone()].concat());
        prop_assert_eq!(later.subtract(&earlier).unwrap(), recorded(&since));
        if !since.is_empty() {
            prop_assert!(earlier.subtract(&later).is_err());
        }
    }

    #[test]
    fn json_is_read_back_as_it_was(values in values(), huge in (1_u64 << 53)..u64::MAX / 2) {
        let mut histogram = recorded(&values);
        histogram.add(&Histogram::from_buckets(Unit::Ns, [(7, huge)], 0).unwrap()).unwrap();
        let text = serde_json::to_string(&histogram).unwrap();
        prop_assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
    }

    /// Whatever was read holds what the type promises, so that nothing later can fail on it.
    #[test]
    fn what_is_accepted_holds_the_invariants(
        buckets in vec((0_u64..5000, prop_oneof![0_u64..4, any::<u64>()]), 0..6),
        count in any::<u64>(),
        overflow in 0_u64..3,
    ) {
        let sum = buckets.iter().fold(0_u64, |sum, bucket| sum.wrapping_add(bucket.1));
        for count in [sum, count] {
            let text = json!({
                "encoding": "hdr-sparse", "unit": "ns", "sub_bucket_bits": 8, "count": count, "overflow": overflow,
                "buckets": buckets,
            });
            if let Ok(histogram) = serde_json::from_value::<Histogram>(text) {
                let sum: u128 = histogram.buckets().iter().map(|&(_, count)| u128::from(count)).sum();
                prop_assert_eq!(u128::from(histogram.count()), sum);
                prop_assert!(histogram.buckets().iter().all(|&(index, count)| (index as usize) < BUCKETS && count > 0));
                prop_assert!(histogram.buckets().is_sorted_by(|left, right| left.0 < right.0));
                prop_assert_eq!(histogram.to_hdr().unwrap().len(), histogram.count());
            }
        }
    }
}

#[test]
fn the_json_form_is_the_documented_one() {
    let histogram = sample::histogram(Unit::Ns, &[3, 256, 257, MAX_VALUE + 1]);
    let expected = json!({
        "encoding": "hdr-sparse", "unit": "ns", "sub_bucket_bits": 8, "count": 4, "overflow": 1,
        "buckets": [[3, 1], [256, 2], [3839, 1]],
    });
    assert_eq!(serde_json::to_value(&histogram).unwrap(), expected);
}

#[test]
fn json_that_is_no_histogram_is_refused_with_the_reason() {
    let read = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::to_value(recorded(&[3, 3, 5])).unwrap();
        change(&mut json);
        serde_json::from_value::<Histogram>(json).map_err(|error| error.to_string())
    };
    assert!(read(&|_| {}).is_ok());
    let cases: [(&str, serde_json::Value, HistError); 8] = [
        (
            "encoding",
            json!("dense"),
            HistError::Encoding("dense".to_owned()),
        ),
        ("sub_bucket_bits", json!(7), HistError::Resolution(7)),
        ("count", json!(4), HistError::Count { count: 4, sum: 3 }),
        ("overflow", json!(1), HistError::Overflow { overflow: 1, last: 0 }),
        ("buckets", json!([[3840, 3]]), HistError::Index { index: 3840 }),
        ("buckets", json!([[5, 1], [3, 2]]), HistError::Order { index: 3 }),
        ("buckets", json!([[3, 3], [5, 0]]), HistError::Empty { index: 5 }),
        (
            "buckets",
            json!([[3, "18446744073709551615"], [5, 1]]),
            HistError::TooMany,
        ),
    ];
    for (member, wrong, error) in cases {
        let message = read(&|json| json[member] = wrong.clone()).unwrap_err();
        assert!(message.contains(&error.to_string()), "{member}: {message}");
    }
    for (member, wrong) in [
        ("unit", json!("us")),
        ("buckets", json!([[1]])),
        ("buckets", json!([[-1, 3]])),
    ] {
        assert!(
            read(&|json| json[member] = wrong.clone()).is_err(),
            "{member}: {wrong}"
        );
    }
}

#[test]
fn a_share_outside_0_to_1_is_the_nearest_one_inside() {
    let histogram = recorded(&[10, 20, 1000]);
    assert_eq!(histogram.quantile(-1.0), Some(10));
    assert_eq!(histogram.quantile(2.0), histogram.max());
    assert_eq!(histogram.quantile(f64::INFINITY), histogram.max());
    assert_eq!(histogram.quantile(f64::NAN), None);
}

/// Where the count has more digits than a double, the last bucket still answers.
#[test]
fn quantiles_of_counts_beyond_a_double_exist() {
    let histogram = Histogram::from_buckets(Unit::Ns, [(3, u64::MAX)], 0).unwrap();
    assert_eq!(histogram.quantile(1.0), Some(3));
}

#[test]
fn counts_are_taken_in_order_and_no_more_than_there_are_buckets() {
    let histogram = Histogram::from_counts(Unit::Count, [0, 2, 0, 1], 0).unwrap();
    assert_eq!(histogram.buckets(), [(1, 2), (3, 1)]);
    let too_many = std::iter::repeat_n(1, BUCKETS + 1);
    assert_eq!(
        Histogram::from_counts(Unit::Ns, too_many, 0),
        Err(HistError::Index {
            index: BUCKETS as u64
        })
    );
}

#[test]
fn a_failed_addition_changes_nothing() {
    let before = recorded(&[1, 2, 3]);
    let mut histogram = before.clone();
    let other = Histogram::from_buckets(Unit::Count, [(1, 1)], 0).unwrap();
    let units = HistError::Units {
        left: Unit::Ns,
        right: Unit::Count,
    };
    assert_eq!(histogram.add(&other), Err(units.clone()));
    assert_eq!(histogram.subtract(&other), Err(units));
    let full = Histogram::from_buckets(Unit::Ns, [(1, u64::MAX)], 0).unwrap();
    assert_eq!(histogram.add(&full), Err(HistError::TooMany));
    assert_eq!(histogram, before);
}

#[test]
fn subtraction_says_which_bucket_went_back() {
    let later = recorded(&[1, 5, 5]);
    let went_back = |index, earlier, later| {
        Err(HistError::WentBack {
            index,
            earlier,
            later,
        })
    };
    assert_eq!(later.subtract(&recorded(&[5, 5, 5])), went_back(5, 3, 2));
    assert_eq!(later.subtract(&recorded(&[3])), went_back(3, 1, 0));
    assert_eq!(later.subtract(&recorded(&[1, 9])), went_back(9, 1, 0));
}

#[test]
fn overflow_is_added_and_subtracted() {
    let over = recorded(&[MAX_VALUE + 1, 5]);
    let mut both = over.clone();
    both.add(&recorded(&[u64::MAX, MAX_VALUE])).unwrap();
    assert_eq!(
        (both.count(), both.overflow(), both.buckets().last()),
        (4, 2, Some(&(3839, 3)))
    );
    assert_eq!(both.subtract(&over).unwrap(), recorded(&[u64::MAX, MAX_VALUE]));
    let error = HistError::OverflowWentBack { earlier: 1, later: 0 };
    assert_eq!(recorded(&[MAX_VALUE, 5]).subtract(&over), Err(error));
}

/// A recorder that is read while it counts may show a value's overflow before its bucket.
#[test]
fn an_overflow_that_ran_ahead_of_its_bucket_is_no_error() {
    let earlier = Histogram::from_buckets(Unit::Ns, [(3839, 5)], 4).unwrap();
    let later = Histogram::from_buckets(Unit::Ns, [(3839, 6)], 6).unwrap();
    let grown = later.subtract(&earlier).unwrap();
    assert_eq!((grown.count(), grown.overflow()), (1, 1));
}
