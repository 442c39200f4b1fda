//! The counters of a queue are members of the queue's JSON object: all of them, or all `null`.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::QueueCounters;

/// Every member of [`QueueCounters`], to be written as `null` where there are no counters.
const KEYS: [&str; 34] = [
    "submitted",
    "completed",
    "completed_error",
    "timeouts",
    "aborts",
    "retries",
    "errors_by_status",
    "rejected",
    "inflight",
    "inflight_max",
    "inflight_age_max_ns",
    "qd_time_integral_ns",
    "active_ns",
    "full_ns",
    "host_queued",
    "host_queued_max",
    "class_urgent",
    "class_high",
    "class_medium",
    "class_low",
    "merged",
    "deadlines_met",
    "deadlines_missed_host",
    "deadlines_missed_device",
    "sq_doorbells",
    "cq_doorbells",
    "polls",
    "polls_empty",
    "interrupts",
    "spurious_interrupts",
    "bytes_copied",
    "bytes_zero_copy",
    "completions_per_wakeup",
    "ops",
];

pub(super) fn serialize<S: Serializer>(
    counters: &Option<QueueCounters>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match counters {
        Some(counters) => counters.serialize(serializer),
        None => {
            let mut map = serializer.serialize_map(Some(KEYS.len()))?;
            for key in KEYS {
                map.serialize_entry(key, &())?;
            }
            map.end()
        }
    }
}

/// `None` if every counter is `null` or absent. A plain flattened `Option` would also turn a malformed
/// counter into a silent `None`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<QueueCounters>, D::Error> {
    let members = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let known = |key: &&str| members.get(*key).is_some_and(|value| !value.is_null());
    if KEYS.iter().any(known) {
        let object = members.into_iter().collect::<serde_json::Map<_, _>>();
        QueueCounters::deserialize(Value::Object(object))
            .map(Some)
            .map_err(de::Error::custom)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample;
    use crate::stats::{QueueStats, StatsDocument};

    #[test]
    fn the_keys_are_the_members_of_the_counters() {
        let counters = serde_json::to_value(QueueCounters::default()).unwrap();
        let mut members: Vec<&str> = counters.as_object().unwrap().keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        members.sort_unstable();
        keys.sort_unstable();
        assert_eq!(members, keys);
    }

    #[test]
    fn counters_are_members_of_the_queue() {
        let queue = sample::queue(1, &[sample::command("read", 4096, 80_000, 300)], 2);
        let json = serde_json::to_value(&queue).unwrap();
        assert_eq!(
            (&json["qid"], &json["submitted"], &json["ops"]["read"]["count"]),
            (&json!(1), &json!(3), &json!(1))
        );
        assert_eq!(serde_json::from_value::<QueueStats>(json).unwrap(), queue);
    }

    #[test]
    fn absent_counters_are_written_as_null_and_read_as_none() {
        let document = sample::bare_document();
        let mut json = serde_json::to_value(&document).unwrap();
        assert!(
            KEYS.iter()
                .all(|key| json["queues"][1].get(key) == Some(&Value::Null))
        );
        for key in KEYS {
            json["queues"][1].as_object_mut().unwrap().remove(key);
        }
        assert_eq!(serde_json::from_value::<StatsDocument>(json).unwrap(), document);
    }

    #[test]
    fn one_malformed_counter_is_an_error_and_not_a_queue_without_counters() {
        let json = serde_json::to_value(sample::queue(1, &[], 0)).unwrap();
        for (key, wrong) in [
            ("timeouts", json!("many")),
            ("polls", json!(null)),
            ("rejected", json!(0)),
        ] {
            let mut changed = json.clone();
            changed[key] = wrong;
            assert!(serde_json::from_value::<QueueStats>(changed).is_err(), "{key}");
        }
        let mut missing = json.clone();
        missing.as_object_mut().unwrap().remove("submitted");
        let error = serde_json::from_value::<QueueStats>(missing)
            .unwrap_err()
            .to_string();
        assert!(error.contains("submitted"), "{error}");
    }

    #[test]
    fn members_of_a_later_minor_version_are_skipped() {
        let document = sample::document();
        let mut json = serde_json::to_value(&document).unwrap();
        json["version"] = json!("1.3");
        json["novelty"] = json!({});
        json["queues"][1]["novelty"] = json!(5);
        json["queues"][1]["ops"]["read"]["novelty"] = json!([]);
        let read = serde_json::from_value::<StatsDocument>(json).unwrap();
        assert_eq!(read.queues, document.queues);
    }
}
