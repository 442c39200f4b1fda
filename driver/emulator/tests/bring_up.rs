//! Registers and the controller's life, seen from the host.

mod common;

use common::{Host, PAGE};
use nvme_emulator::{Config, Ready, VecMemory};
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::{Aqa, Cap, Cc, Csts, command, register};

#[test]
fn comes_up_and_answers() {
    let mut host = Host::ready("serial=ABC,queues=4,depth=128");
    let cap = Cap::from(host.device.registers().read64(register::CAP));
    assert_eq!(
        (cap.mqes_z(), cap.to(), cap.cqr(), cap.mpsmin()),
        (127, 4, true, 0)
    );
    let identify: IdentifyController = host.identify(Cns::CONTROLLER, 0);
    assert_eq!(identify.serial().as_str(), "ABC");
    assert_eq!(identify.nn.get(), 1);
    assert_eq!(identify.ver.get(), host.device.registers().read32(register::VS));
    assert_eq!(host.interrupts.raised(0), 1);
}

#[test]
fn ready_follows_after_its_delay_and_not_before() {
    let mut host = Host::with(Config {
        ready_delay_ns: 1000,
        ..Config::default()
    });
    host.prepare_admin_queue();
    host.now_ns = 50;
    host.write_cc(Host::cc());
    assert_eq!(host.step().due_ns, Some(1050));
    host.now_ns = 1049;
    assert!(!host.step().worked && !host.csts().rdy());
    host.now_ns = 1050;
    assert!(host.step().worked && host.csts().rdy());
}

#[test]
fn a_controller_that_is_never_ready_and_one_that_fails() {
    let mut host = Host::with(Config {
        ready: Ready::Never,
        ..Config::default()
    });
    host.prepare_admin_queue();
    host.write_cc(Host::cc());
    host.now_ns = u64::MAX / 2;
    assert_eq!(host.step().due_ns, None);
    assert_eq!(host.csts(), Csts::new());
    let mut host = Host::with(Config {
        ready: Ready::CfsOnEnable,
        ..Config::default()
    });
    host.prepare_admin_queue();
    host.write_cc(Host::cc());
    host.step();
    assert_eq!(host.csts(), Csts::new().with_cfs(true));
}

/// What the specification calls undefined or refuses: CFS, and a reset with good settings gets out of it.
#[test]
fn bad_settings_are_fatal_until_a_reset() {
    let good = Host::cc();
    let bad = [
        good.with_mps(5),
        good.with_css(0b111),
        good.with_css(0b001),
        good.with_ams(1),
        good.with_iosqes(5),
        good.with_iocqes(7),
    ];
    for cc in bad {
        let mut host = Host::new("mpsmax=4");
        host.prepare_admin_queue();
        host.write_cc(cc);
        host.step();
        assert_eq!(host.csts(), Csts::new().with_cfs(true), "{cc:?}");
        host.write_cc(Cc::new());
        host.step();
        assert_eq!(host.csts(), Csts::new());
        host.enable();
        host.identify::<IdentifyController>(Cns::CONTROLLER, 0);
    }
}

#[test]
fn bad_admin_queues_are_fatal() {
    let bases = [VecMemory::BASE, VecMemory::BASE + PAGE];
    for (aqa, asq, acq, mps) in [
        (Aqa::new().with_asqs_z(0).with_acqs_z(1), bases[0], bases[1], 0),
        (Aqa::new().with_asqs_z(1).with_acqs_z(0), bases[0], bases[1], 0),
        (Aqa::new().with_asqs_z(1).with_acqs_z(1), 0, bases[1], 0),
        (Aqa::new().with_asqs_z(1).with_acqs_z(1), bases[0], 0, 0),
        // The second base is a multiple of 4 KiB, not of 8.
        (Aqa::new().with_asqs_z(1).with_acqs_z(1), bases[0], bases[1], 1),
    ] {
        let host = Host::new("");
        let registers = host.device.registers();
        registers.write32(register::AQA, aqa.into());
        registers.write64(register::ASQ, asq);
        registers.write64(register::ACQ, acq);
        host.write_cc(Host::cc().with_mps(mps));
        host.step();
        assert_eq!(
            host.csts(),
            Csts::new().with_cfs(true),
            "{aqa:?} {asq:#x} {acq:#x}"
        );
    }
}

#[test]
fn queue_memory_that_is_not_mapped_is_fatal() {
    let mut host = Host::new("");
    host.prepare_admin_queue();
    host.device.registers().write64(register::ASQ, 0xdead_0000_0000);
    host.write_cc(Host::cc());
    host.step();
    assert!(host.csts().rdy());
    host.submit(0, command::identify(Cns::CONTROLLER, 0, 0));
    host.step();
    assert!(host.csts().cfs() && host.csts().rdy());
    assert_eq!(host.device.counters().dma_faults, 1);
}

#[test]
fn a_reset_forgets_queues_and_commands() {
    let mut host = Host::with_queue("latency=1ms");
    let buffer = host.alloc(PAGE);
    let entry = host.with_data(command::read(1, 0, 1), buffer, PAGE);
    host.submit(1, entry);
    assert_eq!(host.step().due_ns, Some(1_000_000));
    host.disable();
    host.now_ns = 2_000_000;
    host.enable();
    assert!(!host.step().worked);
    assert!(host.peek(0).is_empty(), "nothing of the old life is posted");
    host.create_queue(1, 64, 1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![0; 4096]);
    assert_eq!(host.device.counters().resets, 1);
}

#[test]
fn data_survives_a_reset() {
    let mut host = Host::with_queue("");
    host.write_blocks(1, 1, 7, &[0x5a; 4096]);
    host.disable();
    host.enable();
    host.create_queue(1, 64, 1);
    assert_eq!(host.read_blocks(1, 1, 7, 1), vec![0x5a; 4096]);
}

#[test]
fn a_subsystem_reset_shows_in_nssro() {
    let mut host = Host::ready("");
    host.device.registers().write32(register::NSSR, 1234);
    assert!(!host.step().worked);
    host.device
        .registers()
        .write32(register::NSSR, register::NSSR_RESET);
    host.step();
    assert_eq!(host.csts(), Csts::new().with_nssro(true));
    assert_eq!(host.device.registers().read32(register::CC), 0);
    assert_eq!(host.device.registers().read64(register::ASQ), 0);
    host.enable();
    assert!(host.csts().nssro());
    host.device
        .registers()
        .write32(register::CSTS, Csts::new().with_nssro(true).into());
    assert_eq!(host.csts(), Csts::new().with_rdy(true));
}

#[test]
fn shutdown_takes_its_time_and_then_nothing_moves() {
    for shn in [register::SHN_NORMAL, register::SHN_ABRUPT] {
        let mut host = Host::with(Config {
            shutdown_delay_ns: 500,
            ..Config::default()
        });
        host.enable();
        host.write_cc(Host::cc().with_shn(shn));
        assert_eq!(host.step().due_ns, Some(500));
        assert_eq!(host.csts().shst(), register::SHST_IN_PROGRESS);
        host.now_ns = 500;
        host.step();
        assert_eq!(host.csts().shst(), register::SHST_COMPLETE);
        assert!(host.csts().rdy(), "CSTS.RDY is about CC.EN only");
        host.submit(0, command::identify(Cns::CONTROLLER, 0, 0));
        assert!(!host.step().worked);
        host.disable();
        assert_eq!(host.csts(), Csts::new());
        host.enable();
        host.identify::<IdentifyController>(Cns::CONTROLLER, 0);
    }
}

/// A host that leaves CC.SHN set when it clears CC.EN, and one that shuts down while disabled: both come up again.
#[test]
fn a_shutdown_is_an_edge_not_a_level() {
    let mut host = Host::ready("");
    let shn = Host::cc().with_shn(register::SHN_NORMAL);
    host.write_cc(shn);
    host.step();
    host.write_cc(shn.with_en(false));
    host.step();
    assert_eq!(host.csts(), Csts::new());
    host.enable();
    host.identify::<IdentifyController>(Cns::CONTROLLER, 0);
    host.disable();
    host.write_cc(shn.with_en(false));
    host.step();
    assert_eq!(host.csts().shst(), register::SHST_COMPLETE);
    host.enable();
    assert_eq!(host.csts(), Csts::new().with_rdy(true));
    host.identify::<IdentifyController>(Cns::CONTROLLER, 0);
}

#[test]
fn a_device_that_vanished_is_gone_until_it_is_powered_again() {
    let mut host = Host::with_queue("");
    host.write_blocks(1, 1, 0, &[1; 4096]);
    host.device.vanish();
    assert_eq!(host.device.registers().read32(register::CSTS), u32::MAX);
    host.submit(1, command::flush(1));
    assert!(!host.step().worked);
    host.device.power_cycle(host.now_ns);
    assert_eq!(host.csts(), Csts::new());
    host.enable();
    host.create_queue(1, 64, 1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![1; 4096]);
}
