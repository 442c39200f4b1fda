use proptest::prelude::*;
use std::string::ToString;

use super::*;

#[test]
fn display() {
    assert_eq!(
        Status::INVALID_FIELD.with_dnr(true).to_string(),
        "Invalid Field in Command (SCT 0h SC 02h, DNR)"
    );
    assert_eq!(Status::new(7, 0x12).to_string(), "status SCT 7h SC 12h");
    assert_eq!(
        Status::new(7, 0x12).with_dnr(true).to_string(),
        "status SCT 7h SC 12h, DNR"
    );
    assert_eq!(
        Status::COMPARE_FAILURE.to_string(),
        "Compare Failure (SCT 2h SC 85h)"
    );
    assert_eq!(
        Status::NAMESPACE_NOT_READY
            .with_crd(2)
            .with_more(true)
            .to_string(),
        "Namespace Not Ready (SCT 0h SC 82h, CRD 2, More)"
    );
    assert_eq!(
        Status::SUCCESS.to_string(),
        "Successful Completion (SCT 0h SC 00h)"
    );
}

/// Bit positions of Base 2.0, Figure "Completion Queue Entry: Status Field", less the phase bit.
#[test]
fn fields() {
    let status = Status(1 << 14 | 1 << 13 | 0b10 << 11 | 0b101 << 8 | 0xC3);
    assert!(status.dnr() && status.more());
    assert_eq!((status.crd(), status.sct(), status.sc()), (2, 5, 0xC3));
    assert_eq!(status.code(), 0x5C3);
    assert_eq!(Status::default(), Status::SUCCESS);
}

#[test]
fn constants_have_the_specified_codes() {
    let table = [
        (Status::SUCCESS, 0x000),
        (Status::DATA_TRANSFER_ERROR, 0x004),
        (Status::ABORT_REQUESTED, 0x007),
        (Status::ABORTED_SQ_DELETION, 0x008),
        (Status::INVALID_NAMESPACE_OR_FORMAT, 0x00B),
        (Status::COMMAND_SEQUENCE_ERROR, 0x00C),
        (Status::INVALID_PRP_OFFSET, 0x013),
        (Status::NAMESPACE_WRITE_PROTECTED, 0x020),
        (Status::LBA_OUT_OF_RANGE, 0x080),
        (Status::FORMAT_IN_PROGRESS, 0x084),
        (Status::COMPLETION_QUEUE_INVALID, 0x100),
        (Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED, 0x105),
        (Status::INVALID_LOG_PAGE, 0x109),
        (Status::INVALID_QUEUE_DELETION, 0x10C),
        (Status::FEATURE_NOT_NAMESPACE_SPECIFIC, 0x10F),
        (Status::NAMESPACE_NOT_ATTACHED, 0x11A),
        (Status::CONFLICTING_ATTRIBUTES, 0x180),
        (Status::ATTEMPTED_WRITE_TO_READ_ONLY_RANGE, 0x182),
        (Status::WRITE_FAULT, 0x280),
        (Status::UNRECOVERED_READ_ERROR, 0x281),
        (Status::COMPARE_FAILURE, 0x285),
        (Status::DEALLOCATED_OR_UNWRITTEN_LOGICAL_BLOCK, 0x287),
        (Status::ABORTED_BY_HOST, 0x371),
    ];
    for (status, code) in table {
        assert_eq!(status.code(), code, "{status}");
    }
}

#[test]
fn the_list_is_complete_ascending_and_without_doubles() {
    assert!(Status::ALL.is_sorted_by(|one, other| one.code() < other.code()));
    let named = (0..0x800).map(Status).filter(|status| status.name().is_some());
    assert!(named.eq(Status::ALL.iter().copied()));
}

proptest! {
    #[test]
    fn any_status_is_the_sum_of_its_parts(raw: u16) {
        let status = Status(raw);
        let rebuilt = Status::new(status.sct(), status.sc())
            .with_crd(status.crd())
            .with_more(status.more())
            .with_dnr(status.dnr());
        prop_assert_eq!(rebuilt.0, raw & 0x7FFF);
        prop_assert_eq!(status.is_success(), raw & 0x7FF == 0);
        prop_assert!(status.is(Status(status.code())));
        prop_assert!(status.to_string().contains("SC "));
    }

    #[test]
    fn bits_can_be_put_and_taken(raw: u16, dnr: bool, more: bool, crd in 0_u8..4) {
        let status = Status(raw).with_dnr(dnr).with_more(more).with_crd(crd);
        prop_assert_eq!((status.dnr(), status.more(), status.crd()), (dnr, more, crd));
        prop_assert_eq!(status.code(), Status(raw).code());
    }
}
