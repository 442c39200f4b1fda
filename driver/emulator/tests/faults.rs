//! Every fault does what it says, and no more than once if it says so.

mod common;

use common::{Host, PAGE};
use nvme_emulator::{Action, Fault, QueueMatch};
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::log::{ErrorLogEntry, LogId};
use nvme_spec::{AdminOpcode, CompletionEntry, NvmOpcode, Status, command};

/// Runs one flush under a fault; returns what was posted.
fn flush_with(host: &mut Host, action: Action) -> (u16, Vec<CompletionEntry>) {
    host.device
        .faults()
        .add(Fault::on_opcode(NvmOpcode::FLUSH, action).once());
    let cid = host.submit(1, command::flush(1));
    host.step();
    (cid, host.reap(1))
}

#[test]
fn fail_completes_with_the_status_and_does_nothing() {
    let mut host = Host::with_queue("");
    host.write_blocks(1, 1, 0, &[1; 4096]);
    let status = Status::WRITE_FAULT.with_dnr(true);
    let id = host
        .device
        .faults()
        .add(Fault::on_opcode(NvmOpcode::WRITE, Action::Fail(status)).once());
    let buffer = host.alloc(PAGE);
    let entry = host.with_data(command::write(1, 0, 1, false), buffer, PAGE);
    assert_eq!(host.run(1, entry).status(), status.with_more(true));
    assert_eq!(host.read_blocks(1, 1, 0, 1), [1; 4096]);
    host.io_ok(1, entry);
    assert_eq!(host.device.faults().hits(id), 1);
    let log: [ErrorLogEntry; 64] = host.log(LogId::ERROR_INFORMATION);
    assert!(log[0].status().is(status));
}

#[test]
fn drop_leaves_a_command_out_until_it_is_aborted() {
    let mut host = Host::with_queue("");
    let (cid, taken) = flush_with(&mut host, Action::Drop);
    assert!(taken.is_empty());
    host.io_ok(1, command::flush(1));
    assert_eq!(host.admin_ok(command::abort(1, cid)).dw0, 0);
    let aborted = host.reap(1);
    assert_eq!((aborted.len(), aborted[0].cid), (1, cid));
    assert!(aborted[0].status().is(Status::ABORT_REQUESTED));
}

#[test]
fn drop_completion_does_the_work_and_says_nothing() {
    let mut host = Host::with_queue("");
    host.device
        .faults()
        .add(Fault::on_opcode(NvmOpcode::WRITE, Action::DropCompletion).once());
    let buffer = host.alloc(PAGE);
    host.write(buffer, &[5; 4096]);
    let entry = host.with_data(command::write(1, 2, 1, false), buffer, PAGE);
    let cid = host.submit(1, entry);
    host.step();
    assert!(host.reap(1).is_empty());
    assert_eq!(host.read_blocks(1, 1, 2, 1), [5; 4096]);
    assert_eq!(host.admin_ok(command::abort(1, cid)).dw0, 1, "it is over");
}

#[test]
fn delay_and_reorder() {
    let mut host = Host::with_queue("");
    let (_, taken) = flush_with(&mut host, Action::Delay { ns: 5_000 });
    assert!(taken.is_empty());
    assert_eq!(host.step().due_ns, Some(5_000));
    host.now_ns = 5_000;
    host.step();
    assert_eq!(host.reap(1).len(), 1);
    let (first, taken) = flush_with(&mut host, Action::Reorder);
    assert!(taken.is_empty());
    let second = host.submit(1, command::flush(1));
    host.step();
    assert_eq!(
        host.reap(1).iter().map(|entry| entry.cid).collect::<Vec<_>>(),
        [second, first]
    );
    let (alone, _) = flush_with(&mut host, Action::Reorder);
    host.run_until(|host| host.reap(1).iter().any(|entry| entry.cid == alone));
    assert!(host.now_ns > 5_000, "the only command comes too, a little later");
}

#[test]
fn corrupt_overwrites_what_was_returned() {
    let mut host = Host::with_queue("");
    host.write_blocks(1, 1, 0, &[3; 2 * 4096]);
    let action = Action::Corrupt {
        offset_bytes: 4094,
        bytes: vec![9; 4],
    };
    host.device
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, action).once());
    let mut expected = [3; 2 * 4096];
    expected[4094..4098].fill(9);
    assert_eq!(host.read_blocks(1, 1, 0, 2), expected);
    assert_eq!(
        host.read_blocks(1, 1, 0, 2),
        [3; 2 * 4096],
        "what is stored is as it was"
    );
    let action = Action::Corrupt {
        offset_bytes: 516,
        bytes: vec![0xff; 4],
    };
    host.device
        .faults()
        .add(Fault::on_identify(Cns::CONTROLLER.0, action));
    assert_eq!(
        host.identify::<IdentifyController>(Cns::CONTROLLER, 0).nn.get(),
        u32::MAX
    );
}

#[test]
fn completions_that_lie() {
    let mut host = Host::with_queue("");
    let (cid, taken) = flush_with(&mut host, Action::Duplicate);
    assert_eq!(
        taken.iter().map(|entry| entry.cid).collect::<Vec<_>>(),
        [cid, cid]
    );
    let (_, taken) = flush_with(&mut host, Action::WrongCid { cid: 4321 });
    assert_eq!(taken[0].cid, 4321);
    let (cid, taken) = flush_with(&mut host, Action::XorCid { bits: 0x8001 });
    assert_eq!(taken[0].cid, cid ^ 0x8001);
    let (cid, taken) = flush_with(
        &mut host,
        Action::ExtraCompletion {
            cid: 77,
            status: Status::WRITE_FAULT,
        },
    );
    assert_eq!(
        (taken[0].cid, taken[1].cid, taken[1].status()),
        (cid, 77, Status::WRITE_FAULT)
    );
    let (_, taken) = flush_with(&mut host, Action::Sqhd(9999));
    assert_eq!(taken[0].sqhd, 9999);
    let (_, taken) = flush_with(&mut host, Action::SqId(55));
    assert_eq!(taken[0].sqid, 55);
    assert_eq!(
        host.device.counters().queue(1).completed,
        6,
        "the truth is counted"
    );
}

#[test]
fn interrupts_that_lie() {
    let mut host = Host::with_queue("");
    let (_, taken) = flush_with(&mut host, Action::NoInterrupt);
    assert_eq!((taken.len(), host.interrupts.raised(1)), (1, 0));
    let (_, taken) = flush_with(&mut host, Action::SpuriousInterrupt);
    assert_eq!((taken.len(), host.interrupts.raised(1)), (1, 2));
}

#[test]
fn fatal_status_and_vanishing() {
    let mut host = Host::with_queue("");
    let (_, taken) = flush_with(&mut host, Action::FatalStatus);
    assert!(taken.is_empty() && host.csts().cfs() && host.csts().rdy());
    host.submit(1, command::flush(1));
    assert!(!host.step().worked, "a dead controller does nothing");
    host.disable();
    host.enable();
    host.create_queue(1, 64, 1);
    host.io_ok(1, command::flush(1));
    let (_, taken) = flush_with(&mut host, Action::Vanish);
    assert!(taken.is_empty());
    assert_eq!(u32::from(host.csts()), u32::MAX);
}

#[test]
fn an_abort_that_lies() {
    let mut host = Host::with_queue("latency=1s");
    host.device
        .faults()
        .add(Fault::on_admin(AdminOpcode::ABORT, Action::LyingAbort).once());
    let cid = host.submit(1, command::flush(1));
    host.step();
    assert_eq!(host.admin_ok(command::abort(1, cid)).dw0, 0);
    assert!(host.reap(1).is_empty());
    host.now_ns = 1_000_000_000;
    host.step();
    assert!(host.reap(1)[0].status().is_success());
}

#[test]
fn faults_of_the_admin_queue() {
    let mut host = Host::ready("");
    host.device
        .faults()
        .add(Fault::on_admin(AdminOpcode::CREATE_IO_SQ, Action::Fail(Status::INTERNAL_ERROR)).once());
    let page = host.alloc(PAGE);
    host.admin_ok(command::create_io_cq(1, 3, page, None));
    host.admin_fails(command::create_io_sq(1, 3, page, 1, 0), Status::INTERNAL_ERROR);
    host.device
        .faults()
        .add(Fault::new(Action::Drop).queue(QueueMatch::Admin).once());
    let lost = host.submit(0, command::delete_io_cq(1));
    host.step();
    assert!(host.reap(0).is_empty());
    host.admin_ok(command::abort(0, lost));
    host.admin_ok(command::delete_io_cq(1));
}

/// The same commands under the same seed meet the same faults.
#[test]
fn a_mix_replays_from_its_seed() {
    let run = |seed: u64| {
        let mut host = Host::with_queue("seed=9,latency=lognormal:80us:0.5,channels=4");
        host.device
            .faults()
            .add_all(nvme_emulator::Faults::seeded_mix(seed));
        let mut seen = Vec::new();
        for _ in 0..3000 {
            host.submit(1, command::flush(1));
            for _ in 0..3 {
                let step = host.step();
                host.now_ns = step.due_ns.unwrap_or(host.now_ns).max(host.now_ns);
                seen.extend(host.peek(1));
                if host.csts().cfs() {
                    return seen;
                }
                // A lying completion may have no room accounted for; the ring pointer is still the host's to move.
                host.ring_cq(1);
            }
        }
        seen
    };
    let first = run(3);
    assert!(first.iter().any(|entry| !entry.status().is_success()));
    assert_eq!(first, run(3));
    assert_ne!(first, run(4));
}
