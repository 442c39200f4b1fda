//! Admin commands: what they return, and how they refuse.

mod common;

use common::{Host, PAGE};
use nvme_emulator::Config;
use nvme_spec::command::{
    self, CreateCqCdw11, CreateQueueCdw10, CreateSqCdw11, FormatCdw10, NSID_ALL, SEL_CURRENT,
};
use nvme_spec::feature::{FeatureId, NumberOfQueues};
use nvme_spec::identify::{
    Cns, ControllerList, IdentifyController, IdentifyControllerNvm, IdentifyNamespace,
    IdentifyNamespaceIndependent, IoCommandSetList, NamespaceDescriptors, NamespaceList, Nidt,
};
use nvme_spec::{AdminOpcode, Status, SubmissionEntry};

#[test]
fn identify_controller_says_what_is_so() {
    let mut host = Host::ready("mdts=256KiB,model=A B,firmware=1.2,vwc=off,sgl=off,dbbuf=off,namespaces=3");
    let identify: IdentifyController = host.identify(Cns::CONTROLLER, 0);
    assert_eq!(identify.max_transfer_bytes(4096), Some(256 << 10));
    assert_eq!(
        (identify.model().as_str(), identify.firmware().as_str()),
        ("A B", "1.2")
    );
    assert_eq!((identify.sqes, identify.cqes, identify.nn.get()), (0x66, 0x44, 3));
    assert_eq!((identify.vwc & 1, identify.sgls.get()), (0, 0));
    assert_eq!(identify.tnvmcap.get(), 3 << 30);
    host.admin_fails(
        command::doorbell_buffer_config(PAGE, PAGE),
        Status::INVALID_OPCODE,
    );
    let mut host = Host::ready("mdts=none");
    assert_eq!(
        host.identify::<IdentifyController>(Cns::CONTROLLER, 0)
            .max_transfer_bytes(4096),
        None
    );
}

#[test]
fn identify_namespace_active_inactive_and_absent() {
    let mut host = Host::ready("namespaces=2,size=1MiB/2MiB,lba=512/4096");
    let first: IdentifyNamespace = host.identify(Cns::NAMESPACE, 1);
    let second: IdentifyNamespace = host.identify(Cns::NAMESPACE, 2);
    assert_eq!(
        (first.nsze.get(), first.current_format().unwrap().lbads),
        (2048, 9)
    );
    assert_eq!(
        (second.nsze.get(), second.current_format().unwrap().lbads),
        (512, 12)
    );
    assert_ne!(first.nguid, second.nguid);
    host.device.set_namespace_active(1, false).unwrap();
    let inactive: IdentifyNamespace = host.identify(Cns::NAMESPACE, 1);
    assert_eq!(inactive, IdentifyNamespace::default());
    let allocated: IdentifyNamespace = host.identify(Cns::ALLOCATED_NAMESPACE, 1);
    assert_eq!(allocated, first);
    for nsid in [0, 3, NSID_ALL] {
        host.admin_fails(
            command::identify(Cns::NAMESPACE, nsid, 0),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        );
    }
    host.admin_fails(
        command::identify(Cns::NAMESPACE_DESCRIPTORS, 1, 0),
        Status::INVALID_NAMESPACE_OR_FORMAT,
    );
    let list: [u8; 4096] = host.identify(Cns::NAMESPACE_DESCRIPTORS, 2);
    let kinds: Vec<Nidt> = NamespaceDescriptors::new(&list)
        .map(|descriptor| descriptor.nidt)
        .collect();
    assert!(kinds.contains(&Nidt::NGUID) && kinds.contains(&Nidt::CSI));
    let independent: IdentifyNamespaceIndependent = host.identify(Cns::INDEPENDENT_NAMESPACE, 2);
    assert_eq!(independent.nstat & 1, 1);
}

#[test]
fn namespace_lists_begin_above_the_nsid_given() {
    let mut host = Host::ready("namespaces=5,size=1MiB");
    host.device.set_namespace_active(3, false).unwrap();
    let mut list = |cns, nsid| {
        host.identify::<NamespaceList>(cns, nsid)
            .iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(list(Cns::ACTIVE_NAMESPACES, 0), [1, 2, 4, 5]);
    assert_eq!(list(Cns::ACTIVE_NAMESPACES, 2), [4, 5]);
    assert_eq!(list(Cns::IO_ACTIVE_NAMESPACES, 4), [5]);
    assert_eq!(list(Cns::ALLOCATED_NAMESPACES, 1), [2, 3, 4, 5]);
    assert_eq!(list(Cns::ACTIVE_NAMESPACES, 5), []);
    for nsid in [NSID_ALL, NSID_ALL - 1] {
        host.admin_fails(
            command::identify(Cns::ACTIVE_NAMESPACES, nsid, 0),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        );
    }
}

#[test]
fn the_rest_of_identify() {
    let mut host = Host::ready("");
    assert_eq!(
        host.identify::<IdentifyControllerNvm>(Cns::IO_CONTROLLER, 0),
        IdentifyControllerNvm::default()
    );
    assert_eq!(
        host.identify::<IoCommandSetList>(Cns::IO_COMMAND_SET, 0)
            .combinations[0]
            .get(),
        1
    );
    let id = host
        .identify::<IdentifyController>(Cns::CONTROLLER, 0)
        .cntlid
        .get();
    assert_eq!(
        host.identify::<ControllerList>(Cns::SUBSYSTEM_CONTROLLERS, 0)
            .iter()
            .collect::<Vec<_>>(),
        [id]
    );
    assert_eq!(
        host.identify::<ControllerList>(Cns::NAMESPACE_CONTROLLERS, 1)
            .iter()
            .collect::<Vec<_>>(),
        [id]
    );
    let beyond: ControllerList = host.admin_data(command::identify(Cns::SUBSYSTEM_CONTROLLERS, 0, id + 1));
    assert_eq!(beyond.iter().count(), 0);
    for cns in [
        Cns::NVM_SET_LIST,
        Cns::PRIMARY_CONTROLLER_CAPABILITIES,
        Cns::UUID_LIST,
        Cns(0xff),
    ] {
        host.admin_fails(command::identify(cns, 0, 0), Status::INVALID_FIELD);
    }
    host.admin_fails(
        command::identify_csi(Cns::IO_CONTROLLER, 2, 0, 0),
        Status::INVALID_FIELD,
    );
}

#[test]
fn commands_that_are_not_there_or_not_formed_right() {
    let mut host = Host::ready("");
    for opcode in [
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::NAMESPACE_MANAGEMENT,
        AdminOpcode::SANITIZE,
        AdminOpcode(0xfe),
    ] {
        let completion = host.admin(SubmissionEntry {
            opcode: opcode.0,
            ..Default::default()
        });
        assert!(
            completion.status().is(Status::INVALID_OPCODE) && completion.status().dnr(),
            "{opcode}"
        );
    }
    let buffer = host.alloc(PAGE);
    let identify = SubmissionEntry {
        prp1: buffer,
        ..command::identify(Cns::CONTROLLER, 0, 0)
    };
    for flags in [1, 2, 1 << 6, 2 << 6] {
        host.admin_fails(SubmissionEntry { flags, ..identify }, Status::INVALID_FIELD);
    }
    host.admin_fails(
        SubmissionEntry {
            prp1: buffer + 2,
            ..identify
        },
        Status::INVALID_PRP_OFFSET,
    );
    let unmapped = host.admin(SubmissionEntry {
        prp1: 0xdead_0000_0000,
        ..identify
    });
    assert!(unmapped.status().is(Status::DATA_TRANSFER_ERROR) && !unmapped.status().dnr());
    assert!(host.csts().rdy() && !host.csts().cfs());
}

#[test]
fn queues_are_refused_for_each_reason() {
    let mut host = Host::ready("queues=4,depth=64,vectors=3");
    let page = host.alloc(PAGE);
    let cq = command::create_io_cq(1, 63, page, Some(2));
    for (entry, status) in [
        (
            command::create_io_cq(0, 63, page, Some(0)),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_cq(5, 63, page, Some(0)),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_cq(1, 0, page, Some(0)),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            command::create_io_cq(1, 64, page, Some(0)),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            command::create_io_cq(1, 63, page, Some(3)),
            Status::INVALID_INTERRUPT_VECTOR,
        ),
        (
            command::create_io_cq(1, 63, page + 64, Some(0)),
            Status::INVALID_PRP_OFFSET,
        ),
        (
            SubmissionEntry {
                cdw11: CreateCqCdw11::new().into(),
                ..cq
            },
            Status::INVALID_FIELD,
        ),
        (
            command::create_io_sq(1, 63, page, 1, 0),
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (command::delete_io_cq(1), Status::INVALID_QUEUE_IDENTIFIER),
        (command::delete_io_sq(1), Status::INVALID_QUEUE_IDENTIFIER),
        (command::delete_io_sq(0), Status::INVALID_QUEUE_IDENTIFIER),
    ] {
        host.admin_fails(entry, status);
    }
    host.admin_ok(cq);
    host.admin_fails(cq, Status::INVALID_QUEUE_IDENTIFIER);
    for (entry, status) in [
        (
            command::create_io_sq(0, 63, page, 1, 0),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_sq(5, 63, page, 1, 0),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_sq(1, 63, page, 0, 0),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_sq(1, 63, page, 5, 0),
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            command::create_io_sq(1, 63, page, 2, 0),
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (
            command::create_io_sq(1, 0, page, 1, 0),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            command::create_io_sq(1, 64, page, 1, 0),
            Status::INVALID_QUEUE_SIZE,
        ),
        (
            command::create_io_sq(1, 63, page + 8, 1, 0),
            Status::INVALID_PRP_OFFSET,
        ),
    ] {
        host.admin_fails(entry, status);
    }
    let sq = command::create_io_sq(1, 63, page, 1, 0);
    host.admin_fails(
        SubmissionEntry {
            cdw11: CreateSqCdw11::new().with_cqid(1).into(),
            ..sq
        },
        Status::INVALID_FIELD,
    );
    host.admin_ok(sq);
    host.admin_fails(sq, Status::INVALID_QUEUE_IDENTIFIER);
    host.admin_fails(command::delete_io_cq(1), Status::INVALID_QUEUE_DELETION);
    host.admin_ok(command::delete_io_sq(1));
    host.admin_ok(command::delete_io_cq(1));
}

#[test]
fn entry_sizes_are_needed_for_io_queues() {
    let mut host = Host::new("");
    host.prepare_admin_queue();
    host.write_cc(nvme_spec::Cc::new().with_en(true));
    host.step();
    let page = host.alloc(PAGE);
    host.admin_fails(
        command::create_io_cq(1, 1, page, None),
        Status::INVALID_QUEUE_SIZE,
    );
}

#[test]
fn queues_in_pages_work_where_they_are_offered() {
    let mut host = Host::ready("cqr=off");
    let (sq, cq) = (host.alloc(3 * PAGE), host.alloc(3 * PAGE));
    let (sq_list, cq_list) = (host.alloc(PAGE), host.alloc(PAGE));
    // Pages in another order: entry 0 lies in the last one.
    for (index, page) in [2u64, 0, 1].into_iter().enumerate() {
        host.write(sq_list + index as u64 * 8, &(sq + page * PAGE).to_le_bytes());
        host.write(cq_list + index as u64 * 8, &(cq + page * PAGE).to_le_bytes());
    }
    let cdw10 = CreateQueueCdw10::new()
        .with_qid(1)
        .with_qsize_z(3 * 64 - 1)
        .into();
    let mut entry = command::create_io_cq(1, 1, cq_list, None);
    (entry.cdw10, entry.cdw11) = (cdw10, CreateCqCdw11::new().into());
    host.admin_ok(entry);
    let mut entry = command::create_io_sq(1, 1, sq_list, 1, 0);
    (entry.cdw10, entry.cdw11) = (cdw10, CreateSqCdw11::new().with_cqid(1).into());
    host.admin_ok(entry);
    let flush = SubmissionEntry {
        cid: 77,
        ..command::flush(1)
    };
    host.write(sq + 2 * PAGE, zerocopy::IntoBytes::as_bytes(&flush));
    host.device.registers().ring(2, 1);
    host.step();
    assert_eq!(host.read(cq + 2 * PAGE + 12, 2), 77u16.to_le_bytes());
    host.write(sq_list, &(sq + 8).to_le_bytes());
    (entry.cdw10, entry.cdw11) = (
        CreateQueueCdw10::new().with_qid(2).with_qsize_z(100).into(),
        CreateSqCdw11::new().with_cqid(1).into(),
    );
    host.admin_fails(entry, Status::INVALID_PRP_OFFSET);
}

#[test]
fn number_of_queues_is_negotiated_before_there_are_any() {
    let mut host = Host::ready("queues=4");
    let ask = |sqs: u16, cqs: u16| {
        let value = NumberOfQueues::new().with_nsqr_z(sqs).with_ncqr_z(cqs);
        command::set_features(FeatureId::NUMBER_OF_QUEUES, 0, value.into(), false)
    };
    let granted = |dw0| NumberOfQueues::from(dw0);
    let value = granted(host.admin_ok(ask(9, 1)).dw0);
    assert_eq!((value.nsqr_z(), value.ncqr_z()), (3, 1));
    let get = command::get_features(FeatureId::NUMBER_OF_QUEUES, 0, SEL_CURRENT);
    assert_eq!(granted(host.admin_ok(get).dw0), value);
    host.admin_fails(ask(u16::MAX, 1), Status::INVALID_FIELD);
    let page = host.alloc(PAGE);
    host.admin_fails(
        command::create_io_cq(3, 3, page, None),
        Status::INVALID_QUEUE_IDENTIFIER,
    );
    host.admin_ok(command::create_io_cq(2, 3, page, None));
    host.admin_fails(ask(1, 1), Status::COMMAND_SEQUENCE_ERROR);
}

#[test]
fn format_erases_and_changes_the_block_size() {
    let mut host = Host::with_queue("size=1MiB,namespaces=2");
    host.write_blocks(1, 1, 3, &[9; 4096]);
    host.write_blocks(1, 2, 3, &[8; 4096]);
    let format = |nsid, index: u8| command::format_nvm(nsid, FormatCdw10::new().with_format_index(index));
    host.admin_fails(format(1, 7), Status::INVALID_FORMAT);
    host.admin_fails(format(3, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
    let crypto = FormatCdw10::new()
        .with_ses(command::SES_CRYPTOGRAPHIC)
        .with_format_index(1);
    host.admin_fails(command::format_nvm(1, crypto), Status::INVALID_FIELD);
    let protected = FormatCdw10::new().with_pi(1).with_format_index(1);
    host.admin_fails(command::format_nvm(1, protected), Status::INVALID_FORMAT);
    assert_eq!(
        host.read_blocks(1, 1, 3, 1),
        [9; 4096],
        "what was refused has changed nothing"
    );
    host.admin_ok(format(1, 0));
    let identify: IdentifyNamespace = host.identify(Cns::NAMESPACE, 1);
    assert_eq!((identify.nsze.get(), identify.nuse.get()), (2048, 0));
    host.admin_ok(format(1, 1));
    assert_eq!(host.read_blocks(1, 1, 3, 1), [0; 4096]);
    assert_eq!(
        host.read_blocks(1, 2, 3, 1),
        [8; 4096],
        "the other namespace is as it was"
    );
    host.admin_ok(format(NSID_ALL, 1));
    assert_eq!(host.read_blocks(1, 2, 3, 1), [0; 4096]);
}

#[test]
fn a_device_can_have_every_size_of_config() {
    for spec in [
        "queues=1,depth=2",
        "queues=4096,depth=65536,vectors=2048",
        "dstrd=3",
        "threads=4,queues=8",
    ] {
        let mut host = Host::ready(spec);
        let config: Config = spec.parse().unwrap();
        let depth = config.depth_entries.min(4096);
        for qid in [1, config.queues] {
            if !host.queues.contains_key(&qid) {
                host.create_queue(qid, depth, 0);
            }
            host.io_ok(qid, command::flush(1));
        }
    }
}
