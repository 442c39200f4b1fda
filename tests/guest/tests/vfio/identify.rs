//! What a controller says of itself, as this driver shows it and as nvme-cli reads it by the kernel's driver: the bytes
//! whole, and the fields that both decode.

use nvme_guest::Guest;
use serde_json::Value;

use crate::rig::{self, slot};

/// A number, which both programs write as text where it is large.
fn number(value: &Value) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn json(guest: &Guest, command: &str) -> Value {
    let text = guest.check(command).expect(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// That each field of ours is what theirs says.
fn same(ours: &Value, theirs: &Value, fields: &[(&str, &str)]) {
    for (our_name, their_name) in fields {
        let (our, their) = (&ours[*our_name], &theirs[*their_name]);
        let is_same = match (number(our), number(their)) {
            (Some(our), Some(their)) => our == their,
            _ => our.as_str().map(str::trim) == their.as_str().map(str::trim) && our.is_string(),
        };
        assert!(
            is_same,
            "{our_name} is {our}, {their_name} is {their}\n{ours:#}\n{theirs:#}"
        );
    }
}

/// What a bit of a field of theirs says, in one of ours.
fn bits(ours: &Value, theirs: &Value, field: &str, bits: &[(u32, &str)]) {
    let field = number(&theirs[field]).unwrap_or_else(|| panic!("{field} in {theirs}"));
    for (bit, name) in bits {
        assert_eq!(
            ours[*name].as_bool(),
            Some(field >> bit & 1 == 1),
            "{name}, bit {bit}: {ours}"
        );
    }
}

/// As nvme-cli reads it, and then ours.
struct Both {
    controller: [Vec<u8>; 2],
    namespaces: Vec<[Vec<u8>; 2]>,
    smart: [Vec<u8>; 2],
    controller_json: [Value; 2],
    namespaces_json: Vec<[Value; 2]>,
    smart_json: [Value; 2],
}

fn read(guest: &Guest, slot: u8, nsids: &[u32]) -> Both {
    let function = rig::function(guest, slot);
    let kernel = function
        .bind_kernel(nsids.len())
        .expect("the kernel's driver takes it");
    let controller = kernel.controller();
    let theirs = |command: &str| {
        guest.check(&format!("{command} > /tmp/theirs")).expect(command);
        guest.get("/tmp/theirs").expect("what it says")
    };
    let their_controller = theirs(&format!("nvme id-ctrl {controller} -o binary"));
    let their_controller_json = json(guest, &format!("nvme id-ctrl {controller} -o json"));
    let their_namespaces: Vec<_> = nsids
        .iter()
        .map(|nsid| {
            (
                theirs(&format!("nvme id-ns {controller} -n {nsid} -o binary")),
                json(guest, &format!("nvme id-ns {controller} -n {nsid} -o json")),
            )
        })
        .collect();
    // Nothing reads or writes from here on: ours looks at no partition table until somebody asks for one.
    let their_smart_json = json(guest, &format!("nvme smart-log {controller} -o json"));
    let their_smart = theirs(&format!("nvme smart-log {controller} -o binary"));

    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    let node = |name: &str| guest.get(&daemon.path(name)).expect(name);
    let smart = [their_smart, node("controller/log/smart")];
    let smart_json = [
        their_smart_json,
        json(guest, &daemon.nvmectl("-d controller smart --json")),
    ];
    let controller = [their_controller, node("controller/identify")];
    let controller_json = [
        their_controller_json,
        json(guest, &daemon.nvmectl("-d controller identify --json")),
    ];
    let mut namespaces = Vec::new();
    let mut namespaces_json = Vec::new();
    for (nsid, (bytes, decoded)) in nsids.iter().zip(their_namespaces) {
        namespaces.push([bytes, node(&format!("{nsid}/identify"))]);
        namespaces_json.push([
            decoded,
            json(
                guest,
                &daemon.nvmectl(&format!("-d nvme:{nsid} identify --ns {nsid} --json")),
            ),
        ]);
    }
    daemon.stop().expect("it ends");
    Both {
        controller,
        namespaces,
        smart,
        controller_json,
        namespaces_json,
        smart_json,
    }
}

/// The first place at which two structures are not the same.
fn difference([theirs, ours]: &[Vec<u8>; 2]) -> Option<String> {
    if theirs.len() != ours.len() {
        return Some(format!("{} bytes and {}", theirs.len(), ours.len()));
    }
    let at = theirs.iter().zip(ours).position(|(their, our)| their != our)?;
    Some(format!("byte {at} is {:#04x} and {:#04x}", theirs[at], ours[at]))
}

#[test]
fn identify_and_smart_are_what_nvme_cli_reads() {
    let Some(guest) = rig::guest() else { return };
    let nsids = [1, 2, 7];
    let both = read(guest, slot::NAMESPACES, &nsids);
    assert_eq!(difference(&both.controller), None, "Identify Controller");
    assert_eq!(both.controller[0].len(), 4096);
    for (nsid, bytes) in nsids.iter().zip(&both.namespaces) {
        assert_eq!(difference(bytes), None, "Identify Namespace {nsid}");
    }
    assert_eq!(difference(&both.smart), None, "SMART / Health Information");

    let [theirs, ours] = &both.controller_json;
    same(
        ours,
        theirs,
        &[
            ("model", "mn"),
            ("serial", "sn"),
            ("firmware", "fr"),
            ("vendor_id", "vid"),
            ("subsystem_vendor_id", "ssvid"),
            ("controller_id", "cntlid"),
            ("subsystem_nqn", "subnqn"),
            ("namespaces_max", "nn"),
            ("mdts", "mdts"),
        ],
    );
    let oncs = [
        (0, "compare"),
        (1, "write_uncorrectable"),
        (2, "dataset_management"),
        (3, "write_zeroes"),
        (4, "save_select"),
        (5, "reservations"),
        (6, "timestamp"),
        (7, "verify"),
        (8, "copy"),
    ];
    bits(&ours["nvm_commands"], theirs, "oncs", &oncs);
    let oacs = [
        (0, "security"),
        (1, "format_nvm"),
        (2, "firmware"),
        (3, "namespace_management"),
        (4, "self_test"),
        (5, "directives"),
        (7, "virtualization_management"),
        (8, "doorbell_buffer_config"),
    ];
    bits(&ours["admin_commands"], theirs, "oacs", &oacs);
    bits(ours, theirs, "vwc", &[(0, "volatile_write_cache")]);
    let version = number(&theirs["ver"]).expect("a version");
    let version = format!("{}.{}.{}", version >> 16, version >> 8 & 0xFF, version & 0xFF);
    assert_eq!(ours["nvme_version"], version.as_str());
    let limits = &ours["limits"];
    for (name, their) in [
        ("aborts_outstanding", "acl"),
        ("async_event_requests", "aerl"),
        ("error_log_entries", "elpe"),
    ] {
        // Theirs are 0's-based.
        assert_eq!(
            number(&limits[name]),
            number(&theirs[their]).map(|value| value + 1),
            "{name}"
        );
    }

    for [theirs, ours] in &both.namespaces_json {
        same(
            ours,
            theirs,
            &[
                ("size_blocks", "nsze"),
                ("capacity_blocks", "ncap"),
                ("used_blocks", "nuse"),
            ],
        );
        let in_use = number(&theirs["flbas"]).expect("flbas") & 0xF;
        let format = &theirs["lbafs"][usize::try_from(in_use).expect("small")];
        assert_eq!(
            number(&ours["lba_bytes"]),
            number(&format["ds"]).map(|shift| 1 << shift)
        );
        assert_eq!(number(&ours["metadata_bytes"]), number(&format["ms"]));
        bits(ours, theirs, "nmic", &[(0, "shared")]);
    }

    let [theirs, ours] = &both.smart_json;
    same(
        ours,
        theirs,
        &[
            ("critical_warning", "critical_warning"),
            ("temperature_kelvin", "temperature"),
            ("available_spare_percent", "avail_spare"),
            ("available_spare_threshold_percent", "spare_thresh"),
            ("used_percent", "percent_used"),
            ("data_units_read", "data_units_read"),
            ("data_units_written", "data_units_written"),
            ("host_read_commands", "host_read_commands"),
            ("host_write_commands", "host_write_commands"),
            ("controller_busy_minutes", "controller_busy_time"),
            ("power_on_hours", "power_on_hours"),
            ("power_cycles", "power_cycles"),
            ("unsafe_shutdowns", "unsafe_shutdowns"),
            ("media_errors", "media_errors"),
            ("error_log_entries", "num_err_log_entries"),
        ],
    );
}

#[test]
fn a_tool_that_is_told_to_bind_does_so() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::NO_SHADOW_DOORBELLS);
    let kernel = function.bind_kernel(1).expect("the kernel's driver takes it");
    let address = function.address();
    // Not while somebody has it.
    let disk = kernel.namespace(1).expect("it has it");
    let held = guest
        .run(&format!("exec 3<{disk}; nvmectl bind {address}"))
        .expect("it ends");
    assert_eq!(held.status(), Some(8), "{}", guest.complain("bind", &held));
    assert_eq!(function.driver().expect("asked").as_deref(), Some("nvme"));
    guest.check(&format!("nvmectl bind {address}")).expect("bound");
    assert_eq!(function.driver().expect("asked").as_deref(), Some("vfio-pci"));
    guest
        .check(&format!("nvmectl bind {address}"))
        .expect("bound already");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    daemon.stop().expect("it ends");
    guest
        .check(&format!("nvmectl unbind {address}"))
        .expect("unbound");
    assert_eq!(function.driver().expect("asked").as_deref(), Some("nvme"));
}

#[test]
fn a_function_of_the_kernels_is_not_taken_away_from_it() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::MEMORY_BUFFER);
    function.bind_kernel(1).expect("the kernel's driver takes it");
    let error = guest
        .daemon(&rig::device(&function), "")
        .expect_err("not bound")
        .to_string();
    assert!(
        error.contains("Exited(4)") && error.contains("nvmectl bind 0000:00:13.0"),
        "{error}"
    );
    let error = guest
        .daemon("vfio:0000:00:1d.0", "")
        .expect_err("not there")
        .to_string();
    assert!(error.contains("Exited(4)"), "{error}");
}
