//! What a driver waits with: events, pipes, timeouts, interrupts.

use std::sync::Arc;
use std::time::Duration;

use nvme_driver::redox::System;
use nvme_redox_model::{Machine, MachineConfig, Operation, Quirks, Violation, What};
use syscall::data::{Event, TimeSpec};
use syscall::error::{EAGAIN, EBADF, EEXIST, EINVAL, EISDIR, ENOENT, EPIPE};
use syscall::flag::EventFlags;
use syscall::{O_CREAT, O_DIRECTORY, O_NONBLOCK, O_RDWR};

const READ: EventFlags = EventFlags::EVENT_READ;

fn errno<T>(result: syscall::error::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno)
}

fn machine(cpus: u8, quirks: Quirks) -> (Arc<Machine>, Arc<dyn System>) {
    let machine = Machine::new(MachineConfig {
        cpus,
        quirks,
        seed: 1,
        ..MachineConfig::default()
    });
    let system = machine.system();
    (machine, system)
}

fn manual() -> Quirks {
    Quirks {
        manual_time: true,
        ..Quirks::default()
    }
}

/// A queue that does not wait, so that a test sees that there is nothing.
fn queue(system: &Arc<dyn System>) -> usize {
    system.open("/scheme/event", O_RDWR | O_NONBLOCK).unwrap()
}

fn subscribe(system: &Arc<dyn System>, queue: usize, id: usize, flags: EventFlags, data: usize) {
    let event = Event { id, flags, data };
    assert_eq!(system.write(queue, &event), Ok(size_of::<Event>()));
}

/// What is in a queue: which descriptor, and the data.
fn events(system: &Arc<dyn System>, queue: usize) -> Vec<(usize, usize)> {
    let mut bytes = [0; 100 * size_of::<Event>()];
    let Ok(count) = system.read(queue, &mut bytes) else {
        return Vec::new();
    };
    let entries = bytes[..count].chunks_exact(size_of::<Event>());
    entries
        .map(|entry| {
            let mut event = Event::default();
            event.copy_from_slice(entry);
            (event.id, event.data)
        })
        .collect()
}

#[test]
fn nothing_is_merged() {
    let (machine, system) = machine(1, Quirks::default());
    let (first, second) = (queue(&system), queue(&system));
    let pipe = system.open("/scheme/pipe", O_NONBLOCK).unwrap();
    let writer = system.dup(pipe, b"write").unwrap();
    subscribe(&system, first, pipe, READ, 10);
    assert_eq!(events(&system, first), []);
    for _ in 0..3 {
        assert_eq!(system.write(writer, b"ab"), Ok(2));
    }
    assert_eq!(events(&system, first), [(pipe, 10); 3]);
    // What is ready already is said at once, to all who are subscribed.
    subscribe(&system, second, pipe, READ, 20);
    assert_eq!(events(&system, first), [(pipe, 10)]);
    assert_eq!(events(&system, second), [(pipe, 20)]);
    // The data of the first time stays; no flags at all end it.
    subscribe(&system, second, pipe, READ, 21);
    assert_eq!(events(&system, second), [(pipe, 20)]);
    subscribe(&system, second, pipe, EventFlags::empty(), 0);
    subscribe(&system, second, pipe, READ, 22);
    assert_eq!(events(&system, second), [(pipe, 22)]);
    events(&system, first);
    // As many as fit.
    system.write(writer, b"c").unwrap();
    system.write(writer, b"d").unwrap();
    let mut one = Event::default();
    assert_eq!(system.read(first, &mut one), Ok(size_of::<Event>()));
    assert_eq!(events(&system, first), [(pipe, 10)]);
    assert_eq!(errno(system.read(first, &mut one)), EAGAIN);
    assert_eq!(errno(system.read(first, &mut [0; 8])), EINVAL);
    // A twin is the same thing to be subscribed to, by another name.
    let twin = system.dup(pipe, b"").unwrap();
    events(&system, second);
    subscribe(&system, second, twin, READ, 23);
    let mut said = events(&system, second);
    said.sort_unstable();
    assert_eq!(said, [(pipe, 22), (twin, 23)]);
    events(&system, first);
    let closed = Event {
        id: 99,
        flags: READ,
        data: 0,
    };
    assert_eq!(errno(system.write(first, &closed)), EBADF);
    let itself = Event { id: first, ..closed };
    assert_eq!(errno(system.write(first, &itself)), EBADF);
    // What is closed says nothing more, and its subscriptions are gone.
    system.close(pipe);
    system.close(twin);
    assert_eq!(machine.events().1, 0);
}

#[test]
fn a_queue_is_a_thing_to_wait_for() {
    let (_machine, system) = machine(1, Quirks::default());
    let (inner, outer) = (queue(&system), queue(&system));
    let pipe = system.open("/scheme/pipe", 0).unwrap();
    let writer = system.dup(pipe, b"write").unwrap();
    subscribe(&system, inner, pipe, READ, 1);
    subscribe(&system, outer, inner, READ, 2);
    system.write(writer, b"x").unwrap();
    assert_eq!(events(&system, outer), [(inner, 2)]);
    assert_eq!(events(&system, inner), [(pipe, 1)]);
}

#[test]
fn a_read_of_events_waits() {
    let (machine, system) = machine(1, Quirks::default());
    let queue = system.open("/scheme/event", O_RDWR).unwrap();
    let pipe = system.open("/scheme/pipe", 0).unwrap();
    let writer = system.dup(pipe, b"write").unwrap();
    subscribe(&system, queue, pipe, READ, 7);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| events(&system, queue));
        while machine.calls().count(Operation::Read, What::Event) == 0 {
            std::thread::yield_now();
        }
        system.write(writer, b"x").unwrap();
        assert_eq!(waiting.join().unwrap(), [(pipe, 7)]);
    });
}

#[test]
fn pipes_have_two_ends() {
    let (machine, system) = machine(1, Quirks::default());
    let pipe = system.open("/scheme/pipe", O_NONBLOCK).unwrap();
    assert_eq!(errno(system.dup(pipe, b"read")), EINVAL);
    let writer = system.dup(pipe, b"write").unwrap();
    assert_eq!(errno(system.dup(pipe, b"write")), EBADF, "once");
    let mut byte = [0; 4];
    assert_eq!(errno(system.read(pipe, &mut byte)), EAGAIN);
    assert_eq!(errno(system.read(writer, &mut byte)), EBADF);
    assert_eq!(errno(system.write(pipe, &byte)), EBADF);
    assert_eq!(system.write(writer, &vec![1; 70_000]), Ok(65_536));
    assert_eq!(errno(system.write(writer, b"x")), EAGAIN);
    assert_eq!(system.read(pipe, &mut byte), Ok(4));
    assert_eq!(system.write(writer, b"x"), Ok(1));
    system.close(pipe);
    assert_eq!(errno(system.write(writer, b"x")), EPIPE);
    system.close(writer);
    system.close(writer);
    assert_eq!(machine.violations(), [Violation::Descriptor { number: writer }]);
    assert_eq!(machine.open_descriptors(), []);

    let (notify, notified) = machine.init_notify();
    system.set_close_on_exec(notify).unwrap();
    assert!(machine.open_descriptors()[0].2);
    assert!(notified.take().is_empty());
    system.write(notify, &[0]).unwrap();
    assert_eq!(notified.wait(), [0_u8]);
    system.close(notify);
    assert_eq!(machine.open_descriptors(), []);
}

fn now(system: &Arc<dyn System>, clock: usize) -> u128 {
    let mut time = TimeSpec::default();
    assert_eq!(system.read(clock, &mut time), Ok(size_of::<TimeSpec>()));
    time.to_nanos()
}

fn arm(system: &Arc<dyn System>, clock: usize, at_ns: u128) {
    let at = TimeSpec::from_nanos(at_ns);
    assert_eq!(system.write(clock, &at), Ok(size_of::<TimeSpec>()));
}

#[test]
fn timeouts_pile_up_and_fire_on_a_tick() {
    const MS: u128 = 1_000_000;
    let (machine, system) = machine(1, manual());
    let queue = queue(&system);
    let clock = system.open("/scheme/time/4", O_RDWR).unwrap();
    assert_eq!(errno(system.open("/scheme/time/3", O_RDWR)), ENOENT);
    subscribe(&system, queue, clock, READ, 5);
    let start = now(&system, clock);
    assert!(start.is_multiple_of(4 * MS));
    // Each write is one more, of the same time too.
    for at in [5 * MS, 5 * MS, 9 * MS] {
        arm(&system, clock, start + at);
    }
    assert_eq!(
        (machine.timeouts_pending(), machine.timeouts_registered()),
        (3, 3)
    );
    // In the middle of a tick, it is the last tick.
    machine.advance(Duration::from_millis(7));
    assert_eq!(now(&system, clock), start + 4 * MS);
    assert_eq!(events(&system, queue), []);
    machine.advance(Duration::from_millis(1));
    assert_eq!(events(&system, queue), [(clock, 5); 2]);
    assert_eq!(
        (machine.timeouts_pending(), machine.timeouts_registered()),
        (1, 3)
    );
    machine.advance(Duration::from_millis(4));
    assert_eq!(events(&system, queue), [(clock, 5)]);
    // What is in the past comes with the next tick, and a time before time never.
    arm(&system, clock, 0);
    let never = TimeSpec {
        tv_sec: -1,
        tv_nsec: 0,
    };
    system.write(clock, &never).unwrap();
    assert_eq!(events(&system, queue), []);
    machine.advance(Duration::from_millis(4));
    assert_eq!(events(&system, queue), [(clock, 5)]);
    // Who is gone is not told, and what it asked for stays until then.
    arm(&system, clock, start);
    system.close(clock);
    assert_eq!(machine.timeouts_pending(), 2);
}

#[test]
fn time_goes_by_itself() {
    let (_machine, system) = machine(1, Quirks::default());
    let queue = system.open("/scheme/event", O_RDWR).unwrap();
    let clock = system.open("/scheme/time/4", O_RDWR).unwrap();
    subscribe(&system, queue, clock, READ, 1);
    let at = now(&system, clock) + 10_000_000;
    arm(&system, clock, at);
    assert_eq!(events(&system, queue), [(clock, 1)]);
    assert!(now(&system, clock) >= at);
}

#[test]
fn a_clock_may_step_back() {
    let (machine, system) = machine(
        1,
        Quirks {
            clock_steps_back_every: Some(5),
            ..manual()
        },
    );
    let clock = system.open("/scheme/time/4", O_RDWR).unwrap();
    let times: Vec<u128> = (0..50)
        .map(|_| {
            machine.advance(Duration::from_millis(4));
            now(&system, clock)
        })
        .collect();
    let steps: Vec<bool> = times.windows(2).map(|pair| pair[1] <= pair[0]).collect();
    assert!(steps.iter().filter(|back| **back).count() >= 5);
    assert!(times.iter().all(|time| time.is_multiple_of(4_000_000)));
}

#[test]
fn interrupts_are_numbers_whichever_the_cpu() {
    let (machine, system) = machine(2, Quirks::default());
    let (first, second) = (queue(&system), queue(&system));
    assert_eq!(
        system.list("/scheme/irq"),
        Ok(["bsp", "cpu-00", "cpu-01"].map(str::to_owned).into())
    );
    // The other CPUs' numbers start at 0, where the first has the lines of old; and some are the kernel's everywhere.
    let free = |cpu: u8| system.list(&format!("/scheme/irq/cpu-{cpu:02x}")).unwrap();
    assert_eq!(free(0)[..3], ["18", "19", "20"]);
    assert_eq!(free(1)[..3], ["0", "1", "2"]);
    for number in ["17", "32", "35"] {
        assert!(!free(0).iter().chain(&free(1)).any(|free| free == number));
    }
    let open = |path: &str, flags| system.open(&format!("/scheme/irq/{path}"), flags);
    assert_eq!(errno(open("cpu-00/40", O_RDWR)), EINVAL);
    let here = open("cpu-00/40", O_CREAT).unwrap();
    let there = open("cpu-01/40", O_CREAT).unwrap();
    assert_eq!(errno(open("cpu-01/40", O_CREAT)), EEXIST);
    assert_eq!(errno(open("cpu-01/224", O_CREAT)), ENOENT);
    assert_eq!(errno(open("cpu-00/32", O_CREAT)), EEXIST);
    assert_eq!(errno(open("16", O_RDWR)), ENOENT);
    assert_eq!(errno(open("", O_RDWR)), EISDIR);
    assert_eq!(errno(open("cpu-x", O_RDWR)), ENOENT);
    let directory = open("", O_DIRECTORY).unwrap();
    assert_eq!(errno(system.read(directory, &mut [0; 8])), EISDIR);
    let mut id = [0xEE; 8];
    assert_eq!(system.read(open("bsp", 0).unwrap(), &mut id), Ok(8));
    assert_eq!(id[..4], [0; 4]);
    assert_eq!(machine.reserved_irqs(), [(0, 40), (1, 40)]);

    subscribe(&system, first, here, READ, 1);
    subscribe(&system, second, there, READ, 2);
    machine.trigger_irq(40);
    assert_eq!(events(&system, first), [(here, 1)]);
    assert_eq!(events(&system, second), [(there, 2)]);
    // A read never waits, and says the count until it was acknowledged; each handle for itself.
    let mut count = [0; 8];
    assert_eq!(system.read(here, &mut count), Ok(8));
    assert_eq!(usize::from_ne_bytes(count), 1);
    assert_eq!(system.write(here, &count), Ok(8));
    assert_eq!(system.read(here, &mut count), Ok(0));
    assert_eq!(system.read(there, &mut count), Ok(8));
    assert_eq!(errno(system.read(there, &mut [0; 4])), EINVAL);
    // Closed, a number is not free again.
    system.close(here);
    assert_eq!(errno(open("cpu-00/40", O_CREAT)), EEXIST);
    assert_eq!(machine.violations(), []);
    assert_eq!(errno(open("cpu-07/40", O_CREAT)), ENOENT);
    assert_eq!(machine.violations(), [Violation::NoCpu { cpu: 7 }]);
}

#[test]
fn interrupts_run_out() {
    let (_machine, system) = machine(
        2,
        Quirks {
            free_irqs: Some(1),
            ..Quirks::default()
        },
    );
    for cpu in ["cpu-00", "cpu-01"] {
        let free = system.list(&format!("/scheme/irq/{cpu}")).unwrap();
        assert_eq!(free.len(), 1);
        system
            .open(&format!("/scheme/irq/{cpu}/{}", free[0]), O_CREAT)
            .unwrap();
        assert_eq!(system.list(&format!("/scheme/irq/{cpu}")), Ok(Vec::new()));
    }
}

#[test]
fn cpus_are_counted_and_chosen() {
    let (machine, system) = machine(3, Quirks::default());
    let cpu = system.open("/scheme/sys/cpu", 0).unwrap();
    let mut text = Vec::new();
    let mut bytes = [0; 5];
    while let Ok(count @ 1..) = system.read(cpu, &mut bytes) {
        text.extend_from_slice(&bytes[..count]);
    }
    assert!(text.starts_with(b"CPUs: 3\n"));
    std::thread::scope(|scope| {
        let pin = || {
            system.pin_thread(2).unwrap();
            assert_eq!(errno(system.pin_thread(3)), EINVAL);
        };
        std::thread::Builder::new()
            .name("worker".into())
            .spawn_scoped(scope, pin)
            .unwrap();
    });
    assert_eq!(machine.affinity(), [("worker".to_owned(), 2)]);
}
