//! `controller/events`: what happens, as it happens, to the end.

use nvme_spec::command::{self, FormatCdw10};
use stats_proto::event::{Event, EventLine};
use zerocopy::IntoBytes;

use super::*;

/// Lines as they came, each of the schema and in order.
fn events(text: &[u8]) -> Vec<Event> {
    let schema = serde_json::from_str(stats_proto::schema::EVENT).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let text = std::str::from_utf8(text).unwrap();
    (0..)
        .zip(text.lines())
        .map(|(number, line)| {
            let value = serde_json::from_str(line).unwrap();
            assert!(schema.is_valid(&value), "{line}");
            let line: EventLine = serde_json::from_value(value).unwrap();
            assert_eq!(line.sequence, number);
            line.event
        })
        .collect()
}

#[test]
fn a_reader_sees_the_driver_from_its_start_to_its_end() {
    let driver = start("size=1MiB,lba=512,serial=ABC123");
    let client = user(&driver);
    let handle = client.open("controller/events", OpenFlags::READ).unwrap();
    std::thread::scope(|scope| {
        // Reads until the end of the file, which comes when the driver has shut down.
        let reader = scope.spawn(|| read_all(&handle, 100));
        let admin = root(&driver)
            .open("controller/admin", OpenFlags::READ_WRITE)
            .unwrap();
        let flbas = document(&client, "1/identify").unwrap()[26];
        let format = FormatCdw10::new().with_format_index(flbas & 0xF);
        assert_eq!(
            admin.write_at(command::format_nvm(1, format).as_bytes(), 0),
            Ok(64)
        );
        let so_far = events(&document(&client, "controller/events?now").unwrap());
        assert_eq!(so_far.len(), 2);
        driver.driver().shutdown().unwrap();
        let all = events(&reader.join().unwrap().unwrap());
        assert_eq!(all[..2], so_far[..]);
        let [started, formatted, begun, done] = &all[..] else {
            panic!("{all:?}")
        };
        let queues = if cfg!(feature = "multi-queue") { 2 } else { 1 };
        assert!(
            matches!(started, Event::DriverStarted { serial, io_queues, namespaces: 1, instance_id, .. }
                if serial == "ABC123" && *io_queues == queues && *instance_id == driver.driver().stats(false).instance_id)
        );
        assert!(
            matches!(formatted, Event::AdminCommand { opcode: 0x80, nsid: 1, uid: 0, status: Some(status), .. }
                if status.name.as_deref() == Some("Successful Completion"))
        );
        assert_eq!(
            (begun, done),
            (&Event::ShutdownBegun, &Event::ShutdownDone { error: None })
        );
    });
    // A second order to shut down is not another event.
    driver.driver().shutdown().unwrap();
    assert_eq!(
        document(&client, "controller/events?now").map(|text| events(&text).len()),
        Ok(4)
    );
}

#[test]
fn a_controller_that_vanishes_is_told_of_and_the_reader_goes_on() {
    let driver = start("size=1MiB");
    let (client, desk) = (user(&driver), Desk::new(&driver));
    let handle = client.open("controller/events", OpenFlags::READ).unwrap();
    let mut text = vec![0; 1 << 16];
    let mut end = handle.read_at(&mut text, 0).unwrap();
    desk.read(1, handle.id(), end as u64, 1 << 16);
    driver.device().vanish();
    let mut id = 1;
    // It is found out by looking, so both events may come at once or one after the other.
    while !text[..end]
        .windows(b"controller_given_up".len())
        .any(|part| part == b"controller_given_up")
    {
        let (answered, Ok(Reply::Read { buffer, len })) = desk.next() else {
            panic!("a line")
        };
        assert_eq!(answered, id);
        text[end..end + len].copy_from_slice(&buffer[..len]);
        end += len;
        id += 1;
        desk.read(id, handle.id(), end as u64, 1 << 16);
    }
    let all = events(&text[..end]);
    assert!(matches!(&all[1], Event::ControllerFailed { reason } if reason.contains("all ones")));
    assert_eq!(all[2], Event::ControllerGivenUp { disabled: false });
    // The reader that waits is answered when the server wants it back, and when the driver goes.
    driver.scheme().wake_readers();
    assert_eq!(desk.next(), (id, Err(Errno::EINTR)));
    desk.read(id + 1, handle.id(), end as u64, 1 << 16);
    drop(driver);
    let (_, Ok(Reply::Read { buffer, len })) = desk.next() else {
        panic!("a line")
    };
    text[end..end + len].copy_from_slice(&buffer[..len]);
    assert!(matches!(
        events(&text[..end + len])[3..],
        [Event::ShutdownBegun] | [Event::ShutdownBegun, Event::ShutdownDone { .. }]
    ));
}

#[test]
fn a_driver_without_threads_ends_its_events_too() {
    use nvme_driver::Driver;
    use nvme_driver::backend::emulated::EmulatedBackend;
    use nvme_driver::clock::{Clock, ManualClock};
    use nvme_driver::controller::Opening;

    let clock = ManualClock::new(1);
    let backend = EmulatedBackend::stepped("size=1MiB".parse().unwrap()).unwrap();
    let device = Arc::clone(backend.device());
    let mut opening = Opening::new(
        Arc::new(backend),
        &Config::default(),
        Clock::manual(clock.clone()),
    )
    .unwrap();
    while !opening.turn().unwrap() {
        clock.set(clock.now_ns() + 10_000);
        device.step(clock.now_ns());
    }
    let (driver, stepped) = Driver::stepped(opening.finish().unwrap()).unwrap();
    let scheme = Scheme::new(driver.clone());
    let desk = Desk::over(scheme);
    desk.call(
        0,
        Call::Open {
            path: "controller/events".into(),
            flags: OpenFlags::READ,
            caller: ROOT,
        },
    );
    let (_, Ok(Reply::Opened(handle))) = desk.next() else {
        panic!("it opens")
    };
    desk.read(1, handle, 0, 1 << 16);
    let (_, Ok(Reply::Read { len, .. })) = desk.next() else {
        panic!("the first event")
    };
    desk.read(2, handle, len as u64, 10);
    drop(stepped);
    let (id, Ok(Reply::Read { len: 0, .. })) = desk.next() else {
        panic!("the end")
    };
    assert_eq!(id, 2);
}

/// Reads lines of `events` until one is `wanted`.
fn await_event(events: &Handle, at: &mut u64, wanted: impl Fn(&Event) -> bool) {
    let mut text = vec![0; 1 << 16];
    loop {
        let len = events.read_at(&mut text, *at).unwrap();
        *at += len as u64;
        let lines = std::str::from_utf8(&text[..len]).unwrap().lines();
        let found = lines
            .map(|line| serde_json::from_str::<EventLine>(line).unwrap().event)
            .any(|event| wanted(&event));
        if found {
            return;
        }
    }
}

#[test]
fn a_namespace_that_goes_is_an_error_to_who_has_it_open_and_works_when_it_is_back() {
    let driver = start("size=1MiB,namespaces=2");
    let client = root(&driver);
    let data = client.open("2/data", OpenFlags::READ_WRITE).unwrap();
    let news = client.open("controller/events", OpenFlags::READ).unwrap();
    let mut at = 0;
    let mut block = vec![0; 4096];
    assert_eq!(data.write_at(&[7; 4096], 4096), Ok(4096));
    for round in 0..20 {
        driver.device().set_namespace_active(2, false).unwrap();
        await_event(&news, &mut at, |event| {
            *event == Event::NamespaceRemoved { nsid: 2 }
        });
        assert_eq!(data.read_at(&mut block, 4096), Err(Errno::ENODEV));
        assert!(client.open("2/data", OpenFlags::READ).is_err());
        assert_eq!(driver.driver().stats(false).namespaces.len(), 1);
        driver.device().set_namespace_active(2, true).unwrap();
        await_event(&news, &mut at, |event| {
            matches!(
                event,
                Event::NamespaceAdded {
                    nsid: 2,
                    blocks: 256,
                    ..
                }
            )
        });
        // By every worker, at once.
        for _ in 0..4 {
            block.fill(0);
            assert_eq!(data.read_at(&mut block, 4096), Ok(4096));
            assert_eq!(block, [7; 4096]);
        }
        // Null without the counters.
        if let Some(ops) = &driver.driver().stats(false).namespaces[1].ops {
            assert_eq!(ops["read"].count, 4 * (round + 1), "counted on");
        }
    }
    // One that has grown has its new end.
    driver.device().resize_namespace(2, 300).unwrap();
    await_event(&news, &mut at, |event| {
        matches!(
            event,
            Event::NamespaceChanged {
                nsid: 2,
                blocks: 300,
                ..
            }
        )
    });
    assert_eq!(data.write_at(&[9; 4096], 299 * 4096), Ok(4096));
    assert_eq!(data.write_at(&[9; 4096], 300 * 4096), Err(Errno::ENOSPC));
}
