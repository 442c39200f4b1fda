//! The driver's backend for Redox on the model: the emulated controller comes up through pcid, its BAR and its interrupts,
//! and what was written is read again.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use nvme_driver::backend::Backend;
use nvme_driver::backend::redox::pcid::{PcidError, Why};
use nvme_driver::backend::redox::{ConnectError, RedoxBackend};
use nvme_driver::clock::Clock;
use nvme_driver::driver::Hint;
use nvme_driver::redox::Descriptor;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Controller, Driver, Finished, Op, Request};
use nvme_redox_model::{ControllerConfig, Delivery, Machine, MachineConfig, PcidQuirk, PcidRequest, Quirks};

const BLOCK_BYTES: usize = 512;

fn machine(cpus: u8, controller: ControllerConfig, quirks: Quirks) -> Arc<Machine> {
    Machine::new(MachineConfig {
        cpus,
        controllers: vec![controller],
        quirks,
        seed: 4,
    })
}

fn connect(machine: &Machine, cpus: u8) -> Result<Arc<RedoxBackend>, ConnectError> {
    let system = machine.system();
    let channel = Descriptor::new(&system, machine.pcid_channel(0));
    RedoxBackend::connect_on(&system, channel, Clock::system(), cpus.into())
}

struct ToChannel(Sender<Finished<()>>);

impl Answer for ToChannel {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let _ = self.0.send(finished);
    }
}

/// What `buffer` is after `op` on as many blocks as fit it.
fn run(driver: &Driver, op: Op, slba: u64, buffer: Buffer) -> Buffer {
    let (sender, answers) = channel();
    let blocks = (buffer.len() / BLOCK_BYTES) as u64;
    let request = Request {
        op,
        nsid: 1,
        slba,
        blocks,
        buffer,
        arrived_ns: Clock::system().now_ns(),
        context: Remote {
            sink: Arc::new(ToChannel(sender)),
            tag: 0,
        },
    };
    driver.submit(Hint::default(), request);
    let finished = answers.recv().unwrap();
    assert_eq!(finished.result, Ok(()));
    finished.buffer
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Writes and reads, in sizes from one block to more than a command takes, and compares.
fn exercise(driver: &Driver) {
    for (number, len) in [512, 4096, 8192, 131_072, 1_048_576 + 512]
        .into_iter()
        .enumerate()
    {
        let data = pattern(number as u64, len);
        let slba = 4096 * number as u64;
        run(driver, Op::Write { fua: false }, slba, Buffer::heap(data.clone()));
        let read = run(driver, Op::Read, slba, Buffer::heap(vec![0; len]));
        assert!(read.as_slice() == data, "{len} bytes, by copying");
        let Ok(mut memory) = driver.allocate(len) else {
            panic!("no memory for {len} bytes");
        };
        memory.fill(0xEE);
        let read = run(driver, Op::Read, slba, Buffer::Dma(memory));
        assert!(read.as_slice() == data, "{len} bytes, by DMA");
    }
}

/// What came of bringing a controller up.
struct Up {
    machine: Arc<Machine>,
    mode: &'static str,
    /// Interrupts that the driver has taken, as CPU and number.
    taken: Vec<(u32, u8)>,
}

/// Brings the controller up and exercises it.
fn up(cpus: u8, controller: ControllerConfig, quirks: Quirks) -> Up {
    let machine = machine(cpus, controller, quirks);
    let taken_before = machine.reserved_irqs();
    let backend = connect(&machine, cpus).unwrap();
    assert_eq!(backend.pci().as_deref(), Some("0000:00:02.0"));
    assert_eq!(backend.pci_name(), "pci-0000-00-02.0");
    let mode = backend.irq_mode();
    let config = Config {
        num_queues: 2,
        ..Config::default()
    };
    let controller = Controller::open(backend, &config, Clock::system()).unwrap();
    let driver = Driver::start(controller).unwrap();
    // From here on nothing can be opened any more.
    machine.system().leave_namespace().unwrap();
    exercise(&driver);
    driver.shutdown().unwrap();
    drop(driver);
    assert_eq!(machine.violations(), []);
    assert_eq!(machine.controller(0).device().counters().dma_faults, 0);
    assert_eq!(machine.open_descriptors(), []);
    assert_eq!(machine.driver_bytes(), 0);
    let mut taken = machine.reserved_irqs();
    taken.retain(|irq| !taken_before.contains(irq));
    Up { machine, mode, taken }
}

#[test]
fn it_comes_up_with_a_vector_for_each_queue() {
    for cpus in [1, 2] {
        let up = up(
            cpus,
            ControllerConfig::new("size=64MiB,lba=512"),
            Quirks::default(),
        );
        assert_eq!(
            (up.mode, up.machine.controller(0).delivery()),
            ("msix", Delivery::MsiX)
        );
        // One for the admin queue, one for each of the others, under different numbers.
        let reserved = up.taken;
        assert_eq!(reserved.len(), 3);
        let mut numbers: Vec<u8> = reserved.iter().map(|(_, irq)| *irq).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3, "{reserved:?}");
        let cpus_used: Vec<u32> = reserved.iter().map(|(cpu, _)| *cpu).collect();
        assert_eq!(cpus_used, if cpus == 1 { [0, 0, 0] } else { [0, 0, 1] });
    }
}

#[test]
fn it_comes_up_with_fewer_vectors_than_queues() {
    for entries in [1, 2] {
        let controller = ControllerConfig {
            msix: Some(entries),
            ..ControllerConfig::new("size=64MiB,lba=512")
        };
        let up = up(2, controller, Quirks::default());
        assert_eq!(up.mode, "msix");
        assert_eq!(up.taken.len(), usize::from(entries));
    }
    let quirks = Quirks {
        free_irqs: Some(1),
        ..Quirks::default()
    };
    let up = up(1, ControllerConfig::new("size=64MiB,lba=512"), quirks);
    assert_eq!((up.mode, up.taken.len()), ("msix", 1));
}

#[test]
fn it_comes_up_with_the_table_in_another_bar() {
    let controller = ControllerConfig {
        msix_bar: 4,
        ..ControllerConfig::new("size=64MiB,lba=512")
    };
    let up = up(2, controller, Quirks::default());
    assert_eq!(up.mode, "msix");
}

#[test]
fn it_comes_up_with_msi() {
    for cpus in [1, 2] {
        let controller = ControllerConfig {
            msix: None,
            ..ControllerConfig::new("size=64MiB,lba=512")
        };
        let up = up(cpus, controller, Quirks::default());
        assert_eq!(
            (up.mode, up.machine.controller(0).delivery()),
            ("msi", Delivery::Msi)
        );
        assert_eq!(up.taken.len(), 1);
    }
}

#[test]
fn it_comes_up_with_its_line() {
    for cpus in [1, 2] {
        let controller = ControllerConfig {
            msix: None,
            msi: false,
            ..ControllerConfig::new("size=64MiB,lba=512")
        };
        let up = up(cpus, controller, Quirks::default());
        assert_eq!(
            (up.mode, up.machine.controller(0).delivery()),
            ("intx", Delivery::Line)
        );
        assert_eq!(up.taken, []);
    }
}

#[test]
fn it_comes_up_where_the_clock_steps_back() {
    let quirks = Quirks {
        clock_steps_back_every: Some(3),
        ..Quirks::default()
    };
    let up = up(2, ControllerConfig::new("size=64MiB,lba=512"), quirks);
    assert!(up.machine.timeouts_registered() < 100);
}

#[test]
fn a_device_that_is_cut_off_reaches_no_memory() {
    let machine = machine(1, ControllerConfig::new("size=64MiB,lba=512"), Quirks::default());
    let backend = connect(&machine, 1).unwrap();
    assert!(machine.controller(0).is_bus_master());
    assert!(backend.cut_off());
    assert!(!machine.controller(0).is_bus_master());
    machine.controller(0).unplug();
    assert!(backend.cut_off());
}

#[test]
fn whatever_pcid_answers_is_an_error_in_words_or_another_way() {
    for request in PcidRequest::ALL {
        for quirk in PcidQuirk::ALL {
            for (msix, msi) in [(Some(65), true), (None, true), (None, false)] {
                let controller = ControllerConfig {
                    msix,
                    msi,
                    ..ControllerConfig::new("size=16MiB")
                };
                let machine = machine(1, controller, Quirks::default());
                machine.controller(0).upset_pcid(request, quirk);
                let connected = connect(&machine, 1);
                let is_needed = matches!(
                    request,
                    PcidRequest::RequestConfig | PcidRequest::RequestFeatures | PcidRequest::ReadConfig
                );
                match connected {
                    Ok(backend) => {
                        assert!(
                            !is_needed || quirk == PcidQuirk::OneByteAtATime,
                            "{request:?} {quirk:?}"
                        );
                        drop(backend);
                    }
                    Err(error) => {
                        assert_ne!(quirk, PcidQuirk::OneByteAtATime, "{error}");
                        assert!(error.to_string().len() > 20);
                        if let ConnectError::Pcid(PcidError {
                            why: Why::OutOfStep, ..
                        }) = error
                        {
                            assert!(
                                !is_needed,
                                "{request:?} {quirk:?}: the first failure is what is told"
                            );
                        }
                    }
                }
                assert_eq!(machine.violations(), []);
                assert_eq!(machine.open_descriptors(), []);
            }
        }
    }
}
