use std::collections::BTreeSet;
use std::format;
use std::string::ToString;

use super::*;

#[test]
fn names_and_numbers() {
    assert_eq!(AdminOpcode::IDENTIFY.to_string(), "Identify");
    assert_eq!(AdminOpcode(0x02).to_string(), "Get Log Page");
    assert_eq!(NvmOpcode(0x02).to_string(), "Read");
    assert_eq!(NvmOpcode(0x7F).to_string(), "opcode 7Fh");
    assert_eq!(NvmOpcode(0x03).name(), None);
    assert_eq!(format!("{:>6}|", NvmOpcode::READ), "  Read|");
}

#[test]
fn lists_are_ascending_and_named() {
    assert!(AdminOpcode::ALL.is_sorted() && NvmOpcode::ALL.is_sorted());
    assert!(AdminOpcode::ALL.iter().all(|opcode| opcode.name().is_some()));
    assert!(NvmOpcode::ALL.iter().all(|opcode| opcode.name().is_some()));
    let named: BTreeSet<_> = (0..=255)
        .map(AdminOpcode)
        .filter(|opcode| opcode.name().is_some())
        .collect();
    assert!(named.iter().eq(AdminOpcode::ALL));
}

#[test]
fn data_direction_is_what_each_command_does() {
    use Direction::*;
    let admin = [
        (AdminOpcode::DELETE_IO_SQ, None),
        (AdminOpcode::CREATE_IO_SQ, ToDevice),
        (AdminOpcode::CREATE_IO_CQ, ToDevice),
        (AdminOpcode::GET_LOG_PAGE, FromDevice),
        (AdminOpcode::IDENTIFY, FromDevice),
        (AdminOpcode::ABORT, None),
        (AdminOpcode::SET_FEATURES, ToDevice),
        (AdminOpcode::GET_FEATURES, FromDevice),
        (AdminOpcode::ASYNC_EVENT_REQUEST, None),
        (AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD, ToDevice),
        (AdminOpcode::DOORBELL_BUFFER_CONFIG, None),
        (AdminOpcode::FORMAT_NVM, None),
        (AdminOpcode::SECURITY_RECEIVE, FromDevice),
    ];
    for (opcode, direction) in admin {
        assert_eq!(opcode.transfers(), direction, "{opcode}");
    }
    let nvm = [
        (NvmOpcode::FLUSH, None),
        (NvmOpcode::WRITE, ToDevice),
        (NvmOpcode::READ, FromDevice),
        (NvmOpcode::WRITE_UNCORRECTABLE, None),
        (NvmOpcode::COMPARE, ToDevice),
        (NvmOpcode::WRITE_ZEROES, None),
        (NvmOpcode::DATASET_MANAGEMENT, ToDevice),
        (NvmOpcode::VERIFY, None),
        (NvmOpcode::COPY, ToDevice),
        (NvmOpcode(0xC3), Bidirectional),
    ];
    for (opcode, direction) in nvm {
        assert_eq!(opcode.transfers(), direction, "{opcode}");
    }
}
