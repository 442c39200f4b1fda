//! The same job for QEMU's controller and for the emulator: a few thousand commands, legal and illegal, whose answers are
//! compared one by one.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Duration;

use nvme_guest::{Machine, Shared};

static GUEST: Shared = Shared::new(|| {
    Machine::new()
        .disk("one", 16 << 20)
        .disk("two", 16 << 20)
        .disk("three", 16 << 20)
        .device("nvme,id=three,serial=three,drive=three,addr=6,max_ioqpairs=4,msix_qsize=5")
        .device("nvme,id=one,serial=one,drive=one,addr=4,max_ioqpairs=4,msix_qsize=5")
        .device("nvme,id=two,serial=two,drive=two,addr=5,max_ioqpairs=4,msix_qsize=5,logical_block_size=4096,physical_block_size=4096")
        .modules(&["vfio-pci", "vfio_iommu_type1"])
});

const COMMANDS: u32 = 2000;

/// A difference that may be, and why.
struct Rule {
    /// What was asked: one of these begins it.
    asked: &'static [&'static str],
    /// And it has one of these, if there are any.
    with: &'static [&'static str],
    /// How the emulator ended it (type/code), and how QEMU did: also [`ANY_ERROR`] and [`ANY_END`].
    emulator: &'static str,
    qemu: &'static str,
    why: &'static str,
}

const ANY: &[&str] = &[""];
const ANY_ERROR: &str = "an error";
const ANY_END: &str = "anything";

/// All differences that were met. The first rule that fits counts.
const RULES: [Rule; 21] = [
    Rule {
        asked: ANY,
        with: &["nsid 0x2", "nsid 0x3"],
        emulator: "0/0b",
        qemu: "0/02",
        why: "QEMU's controller has numbers up to 256 (NN), of which these are inactive: Invalid Field in Command. The \
              emulator's end at 1, and these are beyond: Invalid Namespace or Format (Base 2.0, section 3.2.1.3).",
    },
    Rule {
        asked: &["Identify"],
        with: &["nsid 0x2", "nsid 0x3"],
        emulator: "0/0b",
        qemu: "0/00",
        why: "As above: an inactive namespace is identified by zeroes, one beyond NN is an error (section 5.17.2.1).",
    },
    Rule {
        asked: &["Identify"],
        with: &[],
        emulator: "0/02",
        qemu: "0/00",
        why: "A data structure that is optional here (namespace management, endurance groups, domains); the emulator has \
              none of it.",
    },
    Rule {
        asked: &["Identify"],
        with: &[],
        emulator: ANY_ERROR,
        qemu: ANY_ERROR,
        why: "The structure is not known and the namespace is wrong too: either may be told.",
    },
    Rule {
        asked: &["Delete CQ"],
        with: &[],
        emulator: "1/01",
        qemu: "1/00",
        why: "Of a queue that does not exist the command's own status is Invalid Queue Identifier (section 5.6.1); QEMU \
              takes that of Create I/O Submission Queue.",
    },
    Rule {
        asked: &["Create"],
        with: &[],
        emulator: ANY_ERROR,
        qemu: ANY_ERROR,
        why: "More than one thing is wrong, and no order is specified.",
    },
    Rule {
        asked: &["Dataset Management"],
        with: &["range 0x7fff", "range 0xfff"],
        emulator: "0/80",
        qemu: "0/00",
        why: "A range beyond the end: QEMU passes over it; the specification has LBA Out of Range for it (NVM Command Set \
              1.0, section 2.1.1).",
    },
    Rule {
        asked: &["Dataset Management", "Flush"],
        with: &["spoilt"],
        emulator: ANY_ERROR,
        qemu: "0/00",
        why: "QEMU does not look at the pointers or the flags of a command whose data it does not use.",
    },
    Rule {
        asked: &["Abort"],
        with: &[],
        emulator: "0/00",
        qemu: "0/02",
        why: "There is no such queue. The command says by dword 0 that nothing was aborted (section 5.1); QEMU refuses it.",
    },
    Rule {
        asked: ANY,
        with: &["spoilt 0", "spoilt 1"],
        emulator: "0/13",
        qemu: ANY_END,
        why: "Data pointers that are not at a multiple of 4: a controller need not check \
              that (section 4.1.1), and QEMU does not.",
    },
    Rule {
        asked: &["Compare"],
        with: &["spoilt 0", "spoilt 1"],
        emulator: "0/13",
        qemu: "2/85",
        why: "As above: QEMU goes on and compares.",
    },
    Rule {
        asked: &[
            "Get Log Page lid 0x0 ",
            "Get Log Page lid 0x1 ",
            "Get Log Page lid 0x2 ",
            "Get Log Page lid 0x3 ",
        ],
        with: &[],
        emulator: "0/00",
        qemu: "0/02",
        why: "Supported Log Pages is optional; QEMU's error log has fewer entries (ELPE); and an offset that is just the \
              length of a page is not greater than it (section 5.16.1).",
    },
    Rule {
        asked: &["Get Log Page lid 0x2 "],
        with: &[],
        emulator: "0/02",
        qemu: "0/00",
        why: "QEMU keeps SMART by namespace too (LPA bit 0), the emulator does not.",
    },
    Rule {
        asked: &["Get Log Page lid 0x2 "],
        with: &[],
        emulator: "0/00",
        qemu: "0/0b",
        why: "Namespace 0 stands for the controller here (section 5.16.1.3), which QEMU does not take.",
    },
    Rule {
        asked: &["Get Log Page"],
        with: &[],
        emulator: ANY_ERROR,
        qemu: ANY_ERROR,
        why: "A page that is not known has its own status, Invalid Log Page (section 5.16.2), QEMU has Invalid Field.",
    },
    Rule {
        asked: &["Get Features"],
        with: &["select 4", "select 5", "select 6", "select 7"],
        emulator: "0/02",
        qemu: "0/00",
        why: "A reserved value of Select, which QEMU takes for the current value (section 5.15).",
    },
    Rule {
        asked: &["Get Features"],
        with: &["select 3"],
        emulator: "0/00",
        qemu: ANY_ERROR,
        why: "What can be done with a feature (Select 3) is asked of a namespace that is inactive, or of all; the emulator answers for \
              the feature, whatever the namespace.",
    },
    Rule {
        asked: &["opcode 12h", "opcode 1Dh", "Security"],
        with: &[],
        emulator: "0/01",
        qemu: ANY_END,
        why: "Commands that are optional, and that QEMU has: I/O Management Receive and Send, Security Receive and Send.",
    },
    Rule {
        asked: &["Set Features"],
        with: &[],
        emulator: ANY_ERROR,
        qemu: ANY_ERROR,
        why: "The feature is not known or not one of a namespace, and cannot be saved either: any may be told.",
    },
    Rule {
        asked: &[
            "Set Features Arbitration",
            "Set Features Interrupt Coalescing",
            "Set Features Temperature Threshold",
            "Set Features Volatile Write Cache",
        ],
        with: &[],
        emulator: ANY_END,
        qemu: ANY_END,
        why: "QEMU does not let arbitration and coalescing be changed, saves nothing, and takes thresholds with reserved bits.",
    },
    Rule {
        asked: &[
            "opcode",
            "Reservation",
            "Write Uncorrectable",
            "Copy",
            "I/O",
            "Keep",
            "Directive",
            "NVMe-MI",
        ],
        with: &[],
        emulator: ANY_ERROR,
        qemu: ANY_ERROR,
        why: "An opcode that is not supported, of a namespace that is wrong too: either may be told.",
    },
];

impl Rule {
    fn fits(&self, asked: &str, emulator: &str, qemu: &str) -> bool {
        let is = |pattern: &str, code: &str| match pattern {
            ANY_ERROR => code != "0/00",
            ANY_END => true,
            exact => exact == code,
        };
        self.asked.iter().any(|start| asked.starts_with(start))
            && (self.with.is_empty() || self.with.iter().any(|part| asked.contains(part)))
            && is(self.emulator, emulator)
            && is(self.qemu, qemu)
    }
}

/// Number, what was asked, type and code, and what was read.
fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = line.split_once(' ')?;
    let (asked, end) = rest.rsplit_once(": ")?;
    let (code, rest) = end.split_at_checked(4)?;
    // Do Not Retry is the controller's own judgement of what the same command would come to (section 3.3.3.2.1).
    Some((asked, code, rest.trim_start_matches(" DNR")))
}

/// Each job begins on a disk that is empty.
fn compare(address: &str, block_bytes: u32, seed: u32) {
    let Some(guest) = GUEST.get() else { return };
    let function = guest.pci(address);
    if function.driver().expect("asked").as_deref() != Some("vfio-pci") {
        function.bind("vfio-pci").expect("it is taken");
    }
    let text = format!("nvme-guest-job vfio:{address} {seed} {COMMANDS}");
    let qemu = guest
        .check_for(&text, Duration::from_secs(300))
        .expect("the job is done");
    let spec = format!("emulated:size=16MiB,lba={block_bytes},queues=4,vectors=5,depth=2048,mdts=512KiB");
    let output = Command::new(env!("CARGO_BIN_EXE_nvme-guest-job"))
        .args([&spec, &seed.to_string(), &COMMANDS.to_string()])
        .output()
        .expect("it runs here");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let emulator = String::from_utf8(output.stdout).expect("text");
    assert_eq!(qemu.lines().count(), COMMANDS as usize + 1);
    assert_eq!(qemu.lines().next(), emulator.lines().next(), "the same namespace");
    let (mut met, mut unexplained, mut same) = ([0; RULES.len()], Vec::new(), 0);
    for (theirs, ours) in qemu.lines().zip(emulator.lines()).skip(1) {
        let (Some(qemu), Some(emulator)) = (parts(theirs), parts(ours)) else {
            panic!("{theirs:?} and {ours:?}")
        };
        assert_eq!(qemu.0, emulator.0, "both were asked the same");
        if (qemu.1, qemu.2) == (emulator.1, emulator.2) {
            same += 1;
            continue;
        }
        match RULES
            .iter()
            .position(|rule| rule.fits(qemu.0, emulator.1, qemu.1))
        {
            Some(rule) => met[rule] += 1,
            None => unexplained.push(format!(
                "{}: QEMU {}{}, emulator {}{}",
                qemu.0, qemu.1, qemu.2, emulator.1, emulator.2
            )),
        }
    }
    println!("{same} of {COMMANDS} ended alike");
    for (rule, count) in RULES.iter().zip(met) {
        println!(
            "{count:5} {} {}: {}",
            rule.asked.join(", "),
            rule.with.join(", "),
            rule.why
        );
    }
    assert!(
        unexplained.is_empty(),
        "{} differences without a reason:\n{}",
        unexplained.len(),
        unexplained.join("\n")
    );
    assert!(same > COMMANDS / 2, "most of what is asked has one answer");
}

#[test]
fn blocks_of_512_bytes_first_seed() {
    compare("0000:00:04.0", 512, 1);
}

#[test]
fn blocks_of_512_bytes_second_seed() {
    compare("0000:00:06.0", 512, 2);
}

#[test]
fn blocks_of_4096_bytes() {
    compare("0000:00:05.0", 4096, 3);
}
