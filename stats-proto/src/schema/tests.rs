use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{BENCH, EVENT, SLOW, STATS};
use crate::bench::{
    BenchError, BenchErrorSchema, BenchJob, BenchLine, BenchProgress, BenchProgressSchema, Pattern, Phase,
};
use crate::event::{Event, EventLine, EventSchema};
use crate::slow::{CommandStatus, MissedIn, SlowCommand, SlowKind, SlowSchema};
use crate::stats::StatsDocument;
use crate::{Version, sample};

fn schema(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn validator(text: &str) -> Validator {
    jsonschema::draft202012::new(&schema(text)).unwrap()
}

fn value(document: &impl serde::Serialize) -> Value {
    serde_json::to_value(document).unwrap()
}

fn assert_valid(validator: &Validator, document: &Value) {
    let errors: Vec<_> = validator
        .iter_errors(document)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn progress() -> BenchProgress {
    BenchProgress {
        schema: BenchProgressSchema::default(),
        version: Version::CURRENT,
        phase: Phase::Running,
        elapsed_ns: 1_000,
        total_ns: None,
        ios_done: 5,
        read_iops: 1.5,
        write_iops: 0.0,
        read_bytes_per_s: 4096.0,
        write_bytes_per_s: 0.0,
        errors: 0,
    }
}

fn error() -> BenchError {
    BenchError {
        schema: BenchErrorSchema::default(),
        version: Version::CURRENT,
        error: "the serial number is another device's".to_owned(),
        errno: 1,
    }
}

fn shortest_job() -> Value {
    json!({
        "schema": "nvme-bench-job", "version": "1.1", "pattern": "read", "block_bytes": 4096, "queue_depth": 8, "ios": 1,
    })
}

fn bench_documents() -> [Value; 4] {
    [
        value(&BenchJob::default()),
        value(&progress()),
        value(&sample::bench_result()),
        value(&error()),
    ]
}

/// Calls `visit` with the pointer of every value.
fn walk(value: &Value, pointer: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(pointer, value);
    let mut child = |key: &str, value: &Value| {
        // RFC 6901, section 3.
        let key = key.replace('~', "~0").replace('/', "~1");
        walk(value, &format!("{pointer}/{key}"), visit);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| child(key, value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, value)| child(&index.to_string(), value)),
        _ => {}
    }
}

fn object_mut<'a>(document: &'a mut Value, pointer: &str) -> &'a mut Map<String, Value> {
    document.pointer_mut(pointer).unwrap().as_object_mut().unwrap()
}

/// Objects whose keys are data: a key less is another valid document.
fn is_map(pointer: &str) -> bool {
    ["ops", "errors_by_status", "aer_by_type", "percentiles_ns"]
        .iter()
        .any(|name| pointer.ends_with(&format!("/{name}")))
}

/// Every member left out, every member added, and every unit and name made up, at every place of a valid
/// document.
fn assert_strict(validator: &Validator, document: &Value) {
    assert_valid(validator, document);
    let mut tried = 0;
    walk(document, "", &mut |pointer, value| {
        let Value::Object(members) = value else { return };
        let refuse = |change: &str, changed: &Value| {
            assert!(!validator.is_valid(changed), "{change} at {pointer:?} passes");
        };
        let mut more = document.clone();
        object_mut(&mut more, pointer).insert("extra_member".to_owned(), json!("x"));
        refuse("an extra member", &more);
        for key in members.keys() {
            if !is_map(pointer) {
                let mut less = document.clone();
                object_mut(&mut less, pointer).remove(key);
                refuse(&format!("leaving out {key}"), &less);
            }
            let mut wrong = document.clone();
            object_mut(&mut wrong, pointer).insert(key.clone(), json!({ "no such": ["thing"] }));
            refuse(&format!("nonsense as {key}"), &wrong);
            tried += 1;
        }
    });
    assert!(tried > 0);
}

#[test]
fn schemas_are_of_draft_2020_12_and_themselves_valid() {
    for text in [STATS, BENCH, SLOW, EVENT] {
        let schema = schema(text);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        jsonschema::draft202012::meta::validate(&schema).unwrap();
    }
}

#[test]
fn schemas_describe_every_member_and_close_every_object() {
    for text in [STATS, BENCH, SLOW, EVENT] {
        let mut objects = 0;
        walk(&schema(text), "", &mut |pointer, value| {
            if value["type"] != "object" {
                return;
            }
            objects += 1;
            assert!(value["description"].is_string(), "{pointer} has no description");
            let Some(properties) = value["properties"].as_object() else {
                assert!(
                    value["additionalProperties"].is_object(),
                    "{pointer} is a map of anything"
                );
                assert!(
                    value["propertyNames"].is_object(),
                    "{pointer} is a map with any key"
                );
                return;
            };
            assert_eq!(value["additionalProperties"], json!(false), "{pointer} is open");
            let required: Vec<&str> = value["required"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(Value::as_str)
                .collect();
            for (name, property) in properties {
                assert!(
                    property["description"].is_string(),
                    "{pointer}: {name} has no description"
                );
                let has_default = property.get("default").is_some();
                assert_eq!(
                    required.contains(&name.as_str()),
                    !has_default,
                    "{pointer}: {name}"
                );
            }
        });
        assert!(objects > 1);
    }
}

#[test]
fn all_schemas_mean_the_same_by_what_they_share() {
    let (stats, bench) = (schema(STATS), schema(BENCH));
    let (slow, event) = (schema(SLOW), schema(EVENT));
    assert_eq!(stats["$defs"]["u64"], slow["$defs"]["u64"]);
    for name in ["u64", "status"] {
        assert_eq!(event["$defs"][name], slow["$defs"][name], "{name}");
    }
    for name in ["u64", "histogram", "histogram_ns"] {
        assert!(stats["$defs"][name].is_object());
        assert_eq!(stats["$defs"][name], bench["$defs"][name], "{name}");
    }
}

#[test]
fn statistics_pass_in_every_form() {
    let validator = validator(STATS);
    for document in [
        sample::document(),
        sample::light_document(),
        sample::bare_document(),
    ] {
        assert_valid(&validator, &value(&document));
    }
}

#[test]
fn statistics_are_read_back_as_they_were() {
    for document in [
        sample::document(),
        sample::light_document(),
        sample::bare_document(),
    ] {
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<StatsDocument>(&text).unwrap(), document);
    }
}

#[test]
fn statistics_with_a_member_missing_added_or_of_another_kind_fail() {
    let validator = validator(STATS);
    assert_strict(&validator, &value(&sample::document()));
    assert_strict(&validator, &value(&sample::bare_document()));
}

#[test]
fn statistics_with_a_wrong_value_fail() {
    let validator = validator(STATS);
    let document = value(&sample::document());
    let read = "/queues/1/ops/read";
    let changes = [
        ("/schema".to_owned(), json!("nvme-statistics")),
        ("/version".to_owned(), json!("2.0")),
        (format!("{read}/latency_device/unit"), json!("us")),
        (format!("{read}/latency_device/unit"), json!("count")),
        ("/queues/1/completions_per_wakeup/unit".to_owned(), json!("ns")),
        (format!("{read}/latency_device/encoding"), json!("dense")),
        (format!("{read}/latency_device/sub_bucket_bits"), json!(7)),
        (format!("{read}/latency_device/buckets/0/0"), json!(3840)),
        (format!("{read}/latency_device/buckets/0/1"), json!(0)),
        (format!("{read}/latency_device/buckets/0"), json!([1])),
        (format!("{read}/latency_device/buckets/0"), json!([1, 2, 3])),
        (format!("{read}/count"), json!(-1)),
        (format!("{read}/count"), json!(1.5)),
        (format!("{read}/count"), json!("12")),
        (format!("{read}/count"), json!(9_007_199_254_740_994_u64)),
        (format!("{read}/count"), Value::Null),
        ("/queues/1/submitted".to_owned(), Value::Null),
        ("/queues/1/ops".to_owned(), Value::Null),
        ("/queues/1/kind".to_owned(), json!("both")),
        ("/queues/1/mode".to_owned(), json!("sometimes")),
        ("/queues/1/qid".to_owned(), json!(65_536)),
        ("/health/temperature_sensors_kelvin".to_owned(), json!([300])),
        ("/instance_id".to_owned(), json!("")),
        ("/namespaces/0/nsid".to_owned(), json!(0)),
    ];
    for (pointer, wrong) in changes {
        let mut changed = document.clone();
        *changed
            .pointer_mut(&pointer)
            .unwrap_or_else(|| panic!("{pointer} is not there")) = wrong.clone();
        assert!(!validator.is_valid(&changed), "{wrong} at {pointer} passes");
    }
    let mut unknown_op = document.clone();
    let ops = object_mut(&mut unknown_op, "/queues/1/ops");
    let read = ops["read"].clone();
    ops.insert("peruse".to_owned(), read);
    assert!(!validator.is_valid(&unknown_op));
}

#[test]
fn a_queue_without_counters_has_all_of_them_null() {
    let validator = validator(STATS);
    let document = value(&sample::bare_document());
    let mut half = document.clone();
    object_mut(&mut half, "/queues/1").insert("timeouts".to_owned(), json!(0));
    assert!(!validator.is_valid(&half));
}

#[test]
fn bench_documents_pass() {
    let validator = validator(BENCH);
    for document in bench_documents() {
        assert_valid(&validator, &document);
    }
}

#[test]
fn bench_documents_with_a_member_missing_added_or_of_another_kind_fail() {
    let validator = validator(BENCH);
    let [_, progress, mut result, error] = bench_documents();
    // Only what a job must have: the rest may be left out.
    result["job"] = shortest_job();
    for document in [shortest_job(), progress, result, error] {
        assert_strict(&validator, &document);
    }
}

#[test]
fn a_job_without_its_optional_members_is_the_one_with_their_defaults() {
    let job: BenchJob = serde_json::from_value(shortest_job()).unwrap();
    let expected = BenchJob {
        pattern: Pattern::Read,
        queue_depth: 8,
        time_ns: None,
        ios: Some(1),
        ..BenchJob::default()
    };
    assert_eq!(job, expected);
    // What the schema calls the defaults is what they are.
    let properties = &schema(BENCH)["$defs"]["job"]["properties"];
    let whole = value(&BenchJob {
        time_ns: None,
        ..BenchJob::default()
    });
    for (name, property) in properties.as_object().unwrap() {
        if let Some(default) = property.get("default") {
            // What an older driver does not know is left out where it says nothing.
            assert!(whole.get(name).is_none_or(|value| value == default), "{name}");
        }
    }
}

#[test]
fn bench_documents_with_a_wrong_value_fail() {
    let validator = validator(BENCH);
    let [job, progress, result, error] = bench_documents();
    let changes = [
        (&job, "/pattern", json!("randread")),
        (&job, "/block_bytes", json!(1000)),
        (&job, "/block_bytes", json!(0)),
        (&job, "/queue_depth", json!(0)),
        (&job, "/jobs", json!(0)),
        (&job, "/read_percent", json!(101)),
        (&job, "/time_ns", Value::Null),
        (&job, "/time_ns", json!(0)),
        (&job, "/schema", json!("nvme-bench-result")),
        (&progress, "/phase", json!("resting")),
        (&progress, "/read_iops", json!(-1.0)),
        (
            &result,
            "/total/read/latency_total/histogram/unit",
            json!("count"),
        ),
        (
            &result,
            "/total/read/latency_total/percentiles_ns",
            json!({ "99": 5 }),
        ),
        (&result, "/jobs", json!([])),
        (&error, "/errno", json!(0)),
        (&error, "/error", json!("")),
    ];
    for (document, pointer, wrong) in changes {
        let mut changed = document.clone();
        *changed
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer} is not there")) = wrong.clone();
        assert!(!validator.is_valid(&changed), "{wrong} at {pointer} passes");
    }
}

#[test]
fn each_line_is_read_as_what_it_says_it_is() {
    let [job, ..] = bench_documents();
    let result = Box::new(sample::bench_result());
    for line in [
        BenchLine::Progress(progress()),
        BenchLine::Result(result),
        BenchLine::Error(error()),
    ] {
        let text = match &line {
            BenchLine::Progress(document) => serde_json::to_string(document),
            BenchLine::Result(document) => serde_json::to_string(document),
            BenchLine::Error(document) => serde_json::to_string(document),
        };
        assert_eq!(BenchLine::parse(&text.unwrap()).unwrap(), line);
    }
    for no_line in [
        "",
        "{}",
        "null",
        "[]",
        "{\"schema\":\"nvme-bench-progress\"}",
        &job.to_string(),
    ] {
        assert!(BenchLine::parse(no_line).is_err(), "{no_line}");
    }
}

fn slow() -> SlowCommand {
    SlowCommand {
        schema: SlowSchema::default(),
        version: Version::CURRENT,
        sequence: 7,
        kind: SlowKind::Failed,
        qid: 1,
        cid: 0x0105,
        opcode: 2,
        opcode_name: Some("Read".to_owned()),
        nsid: 1,
        slba: Some(1 << 60),
        blocks: Some(8),
        accepted_monotonic_ns: 1_000,
        doorbell_monotonic_ns: 1_500,
        completed_monotonic_ns: Some(90_000),
        latency_host_ns: 500,
        latency_device_ns: 88_500,
        latency_total_ns: 89_000,
        deadline_monotonic_ns: Some(50_000),
        deadline_missed_in: Some(MissedIn::Device),
        status: Some(CommandStatus {
            name: Some("Unrecovered Read Error".to_owned()),
            sct: 2,
            sc: 0x81,
            crd: 0,
            more: false,
            dnr: true,
        }),
    }
}

#[test]
fn slow_commands_pass_and_are_read_back_as_they_were() {
    let lost = SlowCommand {
        kind: SlowKind::Lost,
        opcode_name: None,
        slba: None,
        blocks: None,
        completed_monotonic_ns: None,
        status: None,
        ..slow()
    };
    for document in [slow(), lost] {
        assert_valid(&validator(SLOW), &value(&document));
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<SlowCommand>(&text).unwrap(), document);
    }
    // Such an address is beyond what a double holds.
    assert_eq!(value(&slow())["slba"], json!("1152921504606846976"));
}

#[test]
fn slow_commands_with_a_member_missing_added_or_wrong_fail() {
    let validator = validator(SLOW);
    let document = value(&slow());
    assert_strict(&validator, &document);
    for (pointer, wrong) in [
        ("/kind", json!("lost")),
        ("/kind", json!("late")),
        ("/status", Value::Null),
        ("/status/sct", json!(8)),
        ("/completed_monotonic_ns", Value::Null),
        ("/opcode", json!(256)),
        ("/sequence", json!(-1)),
        ("/opcode_name", json!("")),
    ] {
        let mut changed = document.clone();
        *changed.pointer_mut(pointer).unwrap() = wrong.clone();
        assert!(!validator.is_valid(&changed), "{wrong} at {pointer} passes");
    }
}

fn events() -> Vec<EventLine> {
    let text = |text: &str| text.to_owned();
    let admin_command = |opcode_name, status| Event::AdminCommand {
        opcode: 0x80,
        opcode_name,
        nsid: u32::MAX,
        cdw10: 0x200,
        uid: 0,
        status,
    };
    let events = [
        Event::DriverStarted {
            driver_version: text("0.1.0"),
            instance_id: text("1-2-3"),
            model: text("Some Disk"),
            serial: text("ABC"),
            firmware: text("1"),
            io_queues: 2,
            namespaces: 1,
        },
        Event::ControllerFailed {
            reason: text("it reports a fatal error"),
        },
        Event::ControllerGivenUp { disabled: true },
        admin_command(Some(text("Format NVM")), slow().status),
        admin_command(None, None),
        Event::RemovalAsked,
        Event::SchedulerChanged {
            before: text("none"),
            now: text("deadline"),
        },
        Event::AsynchronousEvent {
            event_type: 2,
            info: 0,
            log_page: 4,
            meaning: Some(text("namespaces have changed")),
        },
        Event::AsynchronousEvent {
            event_type: 7,
            info: 255,
            log_page: 0xC0,
            meaning: None,
        },
        Event::NamespaceAdded {
            nsid: 1,
            blocks: 1 << 60,
            block_bytes: 4096,
        },
        Event::NamespaceChanged {
            nsid: u32::MAX - 1,
            blocks: 0,
            block_bytes: 65536,
        },
        Event::NamespaceRemoved { nsid: 3 },
        Event::ShutdownBegun,
        Event::ShutdownDone {
            error: Some(text("it did not finish")),
        },
        Event::ShutdownDone { error: None },
        Event::EventsMissed { missed: 1 << 60 },
    ];
    let line = |(sequence, event)| EventLine {
        schema: EventSchema::default(),
        version: Version::EVENT,
        sequence,
        monotonic_ns: 5,
        wall_unix_ns: 1_700_000_000_000_000_000,
        event,
    };
    (0..).zip(events).map(line).collect()
}

#[test]
fn events_pass_are_read_back_as_they_were_and_nothing_else_passes() {
    let validator = validator(EVENT);
    for line in events() {
        assert_strict(&validator, &value(&line));
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<EventLine>(&text).unwrap(), line, "{text}");
    }
}

#[test]
fn an_event_of_a_later_minor_version_is_one_of_unknown_kind() {
    let mut line = value(&events()[5]);
    line["version"] = json!("1.9");
    line["event"] = json!("sun_rose");
    line["colour"] = json!("red");
    let read: EventLine = serde_json::from_value(line).unwrap();
    assert_eq!((read.sequence, read.event), (5, Event::Unknown));
    // But one of a known kind without what it must have is an error.
    let mut failed = value(&events()[1]);
    object_mut(&mut failed, "").remove("reason");
    assert!(serde_json::from_value::<EventLine>(failed).is_err());
}
