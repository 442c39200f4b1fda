//! The counters of a queue are members of the queue's JSON object: all of them, or all `null`.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::QueueCounters;

/// Every member of [`QueueCounters`], to be written as `null` where there are no counters.
const KEYS: [&str; 25] = [
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
    "sq_doorbells",
    "cq_doorbells",
    "polls",
    "polls_empty",
    "interrupts",
    "spurious_interrupts",
    "bytes_copied",
    "bytes_zero_copy",
    "completions_per_wakeup",
];

pub(super) fn serialize<S: Serializer>(
    counters: &Option<QueueCounters>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match counters {
        Some(counters) => counters.serialize(serializer),
        None => {
            let mut map = serializer.serialize_map(Some(KEYS.len() + 1))?;
            for key in KEYS.iter().chain(&["ops"]) {
                map.serialize_entry(key, &())?;
            }
            map.end()
        }
    }
}

/// `None` if every counter is `null` or absent. A plain flattened `Option` would also turn a malformed counter into a
/// silent `None`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<QueueCounters>, D::Error> {
    let members = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let known = |key: &&str| members.get(*key).is_some_and(|value| !value.is_null());
    if KEYS.iter().chain(&["ops"]).any(known) {
        let object = members.into_iter().collect::<serde_json::Map<_, _>>();
        QueueCounters::deserialize(Value::Object(object))
            .map(Some)
            .map_err(de::Error::custom)
    } else {
        Ok(None)
    }
}
