use std::cell::RefCell;
use std::rc::Rc;

use nvme_spec::{AdminOpcode, CompletionEntry};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::style::Style;
use crate::tree::fake::FakeTree;
use crate::tree::{Access, Errno, Operation, TreeError, TreeFile};
use crate::units::Units;

/// A controller of this test's own behind `controller/admin`: what is sent is kept, and answered from a table.
#[derive(Default)]
struct FakeController {
    /// ONCS bit 4.
    save_select: bool,
    /// Dword 0 of Get Features and the data, by identifier and select.
    values: Vec<(u8, u8, u32, Vec<u8>)>,
    /// The status of every Set Features.
    set_status: Status,
    sent: Rc<RefCell<Vec<SubmissionEntry>>>,
}

struct FakeAdmin {
    answer: Vec<u8>,
    controller: FakeController,
}

impl FakeController {
    fn new() -> Self {
        Self {
            save_select: true,
            values: vec![
                (0x08, SEL_CURRENT, 0x0207, vec![]),
                (0x08, SEL_DEFAULT, 0, vec![]),
                (0x08, SEL_SUPPORTED_CAPABILITIES, 0b101, vec![]),
                (0x06, SEL_CURRENT, 1, vec![]),
                (0x06, SEL_SUPPORTED_CAPABILITIES, 0b100, vec![]),
                (0x0E, SEL_CURRENT, 0, vec![0xE8, 3, 0, 0, 0, 0, 2, 0]),
            ],
            set_status: Status::SUCCESS,
            sent: Rc::default(),
        }
    }

    fn copy(&self) -> Self {
        Self {
            save_select: self.save_select,
            values: self.values.clone(),
            set_status: self.set_status,
            sent: Rc::clone(&self.sent),
        }
    }
}

impl Tree for FakeController {
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        match path {
            admin::PATH => Ok(Box::new(FakeAdmin {
                answer: Vec::new(),
                controller: self.copy(),
            })),
            _ => {
                let mut identify = [0; 4096];
                identify[520] = u8::from(self.save_select) << 4;
                FakeTree::new().file(IDENTIFY, &identify).open(path, access)
            }
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        Err(TreeError::new(Operation::List, path, Errno::ENOENT))
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        Err(TreeError::new(Operation::Stat, path, Errno::ENOENT))
    }
}

impl TreeFile for FakeAdmin {
    fn write_at(&mut self, from: &[u8], _: u64) -> Result<usize, TreeError> {
        let entry = SubmissionEntry::read_from_bytes(from).unwrap();
        self.controller.sent.borrow_mut().push(entry);
        let fid = entry.cdw10 as u8;
        let (status, dw0, data) = match AdminOpcode(entry.opcode) {
            AdminOpcode::GET_FEATURES => {
                let sel = (entry.cdw10 >> 8) as u8 & 7;
                let known = self
                    .controller
                    .values
                    .iter()
                    .find(|known| (known.0, known.1) == (fid, sel));
                match known {
                    Some((_, _, dw0, data)) => (Status::SUCCESS, *dw0, data.clone()),
                    None => (Status::INVALID_FIELD.with_dnr(true), 0, vec![]),
                }
            }
            _ => (self.controller.set_status, 0, vec![]),
        };
        self.answer = CompletionEntry::new(dw0, 0, 0, 0, 0, status, true)
            .as_bytes()
            .to_vec();
        self.answer.extend(data);
        Ok(from.len())
    }

    fn read_at(&mut self, into: &mut [u8], offset: u64) -> Result<usize, TreeError> {
        let rest = &self.answer[(offset as usize).min(self.answer.len())..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fn done(tree: &dyn Tree, command: FeatureCommand, dry_run: bool, format: Format) -> Result<String, Error> {
    let mut out = Vec::new();
    let mut output = Output::new(&mut out, format, Style::plain(Units::Iec));
    run(tree, &FeatureArgs { command }, None, dry_run, &mut output)?;
    Ok(String::from_utf8(out).unwrap())
}

fn get(name: FeatureName, select: Select) -> FeatureCommand {
    FeatureCommand::Get(GetArgs {
        name,
        select,
        which: Which::default(),
    })
}

fn set(name: FeatureName, value: Option<&str>, save: bool) -> FeatureCommand {
    let threshold = (name == FeatureName::InterruptCoalescing && value.is_none()).then_some(4);
    FeatureCommand::Set(SetArgs {
        name,
        value: value.map(str::to_owned),
        parts: Parts {
            threshold,
            ..Parts::default()
        },
        which: Which::default(),
        save,
    })
}

#[test]
fn a_feature_is_shown_with_its_value_in_words() {
    let tree = FakeController::new();
    let text = done(
        &tree,
        get(FeatureName::InterruptCoalescing, Select::Current),
        false,
        Format::Table,
    )
    .unwrap();
    for part in [
        "name        Interrupt Coalescing\n",
        "threshold completions  8\n",
        "time                   200 us\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let document = |select| -> Value {
        let text = done(
            &tree,
            get(FeatureName::InterruptCoalescing, select),
            false,
            Format::Json,
        )
        .unwrap();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(document(Select::Default)["settings"]["time_us"], 0);
    let supported = document(Select::Supported);
    assert_eq!(
        supported["settings"],
        json!({"saveable": true, "namespace_specific": false, "changeable": true})
    );
    assert_eq!(
        (&supported["select"], &supported["feature_id"]),
        (&json!("supported"), &json!(8))
    );
    let sent = tree.sent.borrow();
    assert!(
        sent.iter().all(|entry| entry.prp1 == 4096),
        "there is room for data"
    );
}

#[test]
fn a_list_has_what_the_controller_has() {
    let tree = FakeController::new();
    let text = done(&tree, FeatureCommand::List, false, Format::Table);
    // The namespace that error recovery is asked of comes from the statistics, which this tree does not have.
    assert!(text.is_err());
    let text = done_list_with_stats(&tree, Format::Table);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["FEATURE", "ID", "CHANGE", "SAVE", "CURRENT"]);
    assert_eq!(lines[1], ["volatile-write-cache", "06h", "yes", "no", "enabled"]);
    assert_eq!(
        lines[2].join(" "),
        "interrupt-coalescing 08h yes yes threshold completions 8, time 200 us"
    );
    assert_eq!(lines[3][..4], ["timestamp", "0Eh", "-", "-"]);
    assert_eq!(lines.len(), 4, "{text}");
    let document: Value = serde_json::from_str(&done_list_with_stats(&tree, Format::Json)).unwrap();
    assert_eq!(document["features"][2]["settings"]["timestamp_ms"], 1000);
    assert_eq!(document["features"][2]["saveable"], json!(null));
}

/// The same tree, and the statistics of a controller with namespace 1.
struct WithStats<'t>(&'t FakeController);

impl Tree for WithStats<'_> {
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        match path {
            "controller/stats?light" => {
                let stats = crate::samples::stats_of(&[1]);
                FakeTree::new().file(path, &stats).open(path, access)
            }
            _ => self.0.open(path, access),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        self.0.list(path)
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        self.0.size_bytes(path)
    }
}

fn done_list_with_stats(tree: &FakeController, format: Format) -> String {
    done(&WithStats(tree), FeatureCommand::List, false, format).unwrap()
}

#[test]
fn what_is_set_is_sent_in_the_specifications_units_and_read_back() {
    let tree = FakeController::new();
    let text = done(
        &tree,
        set(FeatureName::InterruptCoalescing, None, true),
        false,
        Format::Table,
    )
    .unwrap();
    assert!(text.contains("time                   200 us\n"), "{text}");
    let sent = tree.sent.borrow();
    // The value now, the new one (threshold 4, the time stays), the value afterwards.
    let wanted = SubmissionEntry {
        opcode: 0x09,
        cdw10: 1 << 31 | 0x08,
        cdw11: 0x0203,
        ..Default::default()
    };
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[1], wanted);
}

#[test]
fn a_dry_run_says_what_it_would_set_and_sets_nothing() {
    let tree = FakeController::new();
    let command = || set(FeatureName::InterruptCoalescing, None, false);
    let text = done(&tree, command(), true, Format::Table).unwrap();
    assert_eq!(
        text,
        "would set interrupt-coalescing (08h) of nvme:controller to 0x203: threshold completions 4, time 200 us\n"
    );
    let json: Value = serde_json::from_str(&done(&tree, command(), true, Format::Json).unwrap()).unwrap();
    assert_eq!(json["would_set"]["value"], 0x203);
    let is_get = |entry: &SubmissionEntry| AdminOpcode(entry.opcode) == AdminOpcode::GET_FEATURES;
    assert!(tree.sent.borrow().iter().all(is_get));
}

#[test]
fn what_the_driver_relies_on_is_refused_before_anything_is_sent() {
    let tree = FakeController::new();
    for (name, exit_code, words) in [
        (
            FeatureName::NumberOfQueues,
            8,
            "refused: number-of-queues is the driver's own",
        ),
        (
            FeatureName::AsyncEventConfig,
            8,
            "refused: async-event-config is the driver's own",
        ),
        (
            FeatureName::HostMemoryBuffer,
            8,
            "refused: host-memory-buffer is the driver's own",
        ),
        (FeatureName::KeepAlive, 2, "keep-alive can be read, not set"),
        (
            FeatureName::VolatileWriteCache,
            2,
            "1 is no value of volatile-write-cache",
        ),
    ] {
        let error = done(&tree, set(name, Some("1"), false), false, Format::Table).unwrap_err();
        assert_eq!(error.exit_code(), exit_code, "{error}");
        assert!(
            error.text().contains(words) && error.hint().is_some(),
            "{}",
            error.text()
        );
    }
    assert!(tree.sent.borrow().is_empty());
}

#[test]
fn what_the_controller_refuses_is_said_with_its_reason() {
    let refused = |status, save| {
        let tree = FakeController {
            set_status: status,
            ..FakeController::new()
        };
        done(
            &tree,
            set(FeatureName::InterruptCoalescing, None, save),
            false,
            Format::Table,
        )
        .unwrap_err()
    };
    for (status, exit_code, words) in [
        (Status::FEATURE_IDENTIFIER_NOT_SAVEABLE, 6, "hint: without --save"),
        (Status::FEATURE_NOT_CHANGEABLE, 6, "Feature Not Changeable"),
        (Status::INVALID_FIELD, 1, "does not take this value"),
        (Status::INTERNAL_ERROR, 1, "Internal Error"),
    ] {
        let error = refused(status, true);
        assert_eq!(error.exit_code(), exit_code, "{error}");
        assert!(error.text().contains(words), "{}", error.text());
    }
    let tree = FakeController::new();
    let missing = done(
        &tree,
        get(FeatureName::HostMemoryBuffer, Select::Current),
        false,
        Format::Table,
    )
    .unwrap_err();
    assert_eq!(missing.exit_code(), 6);
    assert!(
        missing.to_string().contains("does not have host-memory-buffer"),
        "{missing}"
    );
    let old = FakeController {
        save_select: false,
        ..FakeController::new()
    };
    let error = done(
        &old,
        get(FeatureName::InterruptCoalescing, Select::Saved),
        false,
        Format::Table,
    )
    .unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().contains("ONCS bit 4")),
        (6, true)
    );
    assert!(
        done(
            &old,
            get(FeatureName::InterruptCoalescing, Select::Current),
            false,
            Format::Table
        )
        .is_ok()
    );
}

fn with_scheduler(text: &[u8]) -> FakeTree {
    FakeTree::new().file(scheduler::PATH, text)
}

#[test]
fn the_scheduler_is_a_file_of_the_driver() {
    let tree = with_scheduler(b"roundrobin\n");
    let text = done(
        &tree,
        get(FeatureName::Scheduler, Select::Current),
        false,
        Format::Table,
    )
    .unwrap();
    assert_eq!(text, "scheduler  roundrobin\n");
    let json = done(
        &tree,
        get(FeatureName::Scheduler, Select::Current),
        false,
        Format::Json,
    )
    .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap()["scheduler"],
        "roundrobin"
    );

    let command = || set(FeatureName::Scheduler, Some("deadline"), false);
    let text = done(&tree, command(), true, Format::Table).unwrap();
    assert_eq!(
        text,
        "would set scheduler of nvme:controller to deadline, which is roundrobin now\n"
    );
    assert_eq!(tree.written(scheduler::PATH), b"");
    done(&tree, command(), false, Format::Table).unwrap();
    assert_eq!(tree.written(scheduler::PATH), b"deadline");
}

#[test]
fn a_scheduler_that_there_is_not_is_refused() {
    let tree = with_scheduler(b"none");
    for (command, words) in [
        (
            set(FeatureName::Scheduler, None, false),
            "which scheduler is not said",
        ),
        (
            set(FeatureName::Scheduler, Some("Round Robin"), false),
            "no name of a scheduler",
        ),
        (
            set(FeatureName::Scheduler, Some("none"), true),
            "not saved in the controller",
        ),
        (get(FeatureName::Scheduler, Select::Saved), "only a current value"),
    ] {
        let error = done(&tree, command, false, Format::Table).unwrap_err();
        assert_eq!(
            (error.exit_code(), error.to_string().contains(words)),
            (2, true),
            "{error}"
        );
    }
    assert_eq!(tree.written(scheduler::PATH), b"");
    let without = done(
        &FakeTree::new(),
        get(FeatureName::Scheduler, Select::Current),
        false,
        Format::Table,
    );
    assert_eq!(without.unwrap_err().exit_code(), 6);
    for text in [&b"\xff"[..], b"", b"two words"] {
        let error = done(
            &with_scheduler(text),
            get(FeatureName::Scheduler, Select::Current),
            false,
            Format::Table,
        );
        assert_eq!(error.unwrap_err().exit_code(), 1);
    }
}
