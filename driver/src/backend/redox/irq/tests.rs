use super::super::RedoxBackend;
use super::super::fake::{Fake, File};
use super::super::tests::Card;
use super::*;
use crate::backend::Backend;

/// Address, data and control of `vector` in the table at `table` of BAR 0.
fn entry(backend: &RedoxBackend, table: usize, vector: usize) -> (u64, u32, u32) {
    let entry = table + vector * 16;
    (
        backend.read64(entry),
        backend.read32(entry + 8),
        backend.read32(entry + 12),
    )
}

fn opened(fake: &Fake) -> Vec<String> {
    fake.lock().opened_irqs.clone()
}

fn connected(card: &Card, cpus: u8) -> (Arc<Fake>, Arc<RedoxBackend>) {
    let (fake, backend) = card.connect(cpus);
    (fake, backend.unwrap())
}

#[test]
fn vectors_are_spread_over_the_cpus_under_numbers_of_their_own() {
    let (fake, backend) = connected(&Card::default(), 2);
    for vector in 0..4 {
        drop(backend.waiter(vector).unwrap());
    }
    assert_eq!(
        opened(&fake),
        [
            "/scheme/irq/cpu-00/30",
            "/scheme/irq/cpu-00/29",
            "/scheme/irq/cpu-01/28",
            "/scheme/irq/cpu-00/27"
        ]
    );
    assert_eq!(entry(&backend, 0x2000, 0), (0xFEE0_0000, 62, 0));
    assert_eq!(entry(&backend, 0x2000, 1), (0xFEE0_0000, 61, 0));
    assert_eq!(entry(&backend, 0x2000, 2), (0xFEE0_1000, 60, 0));
    assert_eq!(entry(&backend, 0x2000, 3), (0xFEE0_0000, 59, 0));
    // The others are masked.
    assert!((4..65).all(|vector| entry(&backend, 0x2000, vector) == (0, 0, 1)));
    let cpus: Vec<_> = (0..5).map(|vector| backend.cpu_of(vector)).collect();
    assert_eq!(cpus, [Some(0), Some(0), Some(1), Some(0), Some(1)]);
    assert_eq!(backend.cpu_of(65), None);
}

#[test]
fn a_number_is_taken_once_however_often_its_vector_is_waited_for() {
    let (fake, backend) = connected(&Card::default(), 2);
    for _ in 0..5 {
        drop(backend.waiter(0).unwrap());
        drop(backend.waiter(2).unwrap());
    }
    assert_eq!(opened(&fake).len(), 2);
}

#[test]
fn a_number_that_somebody_has_on_another_cpu_is_not_preferred() {
    let card = Card::default();
    let (fake, channel) = card.plug(2);
    {
        let mut state = fake.lock();
        let second = state.free_irqs.get_mut("/scheme/irq/cpu-01").unwrap();
        second.retain(|irq| *irq < 20);
    }
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 2).unwrap();
    for vector in 1..5 {
        drop(backend.waiter(vector).unwrap());
    }
    assert_eq!(
        opened(&fake),
        [
            // Free on both.
            "/scheme/irq/cpu-00/19",
            "/scheme/irq/cpu-00/18",
            // Free on one.
            "/scheme/irq/cpu-01/17",
            "/scheme/irq/cpu-00/30",
            "/scheme/irq/cpu-01/16"
        ]
    );
}

#[test]
fn a_number_that_somebody_else_takes_first_is_passed_over() {
    let (fake, channel) = Card::default().plug(1);
    fake.lock().raced.extend([30, 29, 27]);
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 1).unwrap();
    drop(backend.waiter(1).unwrap());
    assert_eq!(opened(&fake), ["/scheme/irq/cpu-00/28", "/scheme/irq/cpu-00/26"]);
}

#[test]
fn a_cpu_without_free_numbers_leaves_its_vectors_to_another() {
    let (fake, channel) = Card::default().plug(2);
    fake.lock()
        .free_irqs
        .get_mut("/scheme/irq/cpu-01")
        .unwrap()
        .clear();
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 2).unwrap();
    drop(backend.waiter(2).unwrap());
    assert_eq!(opened(&fake), ["/scheme/irq/cpu-00/30", "/scheme/irq/cpu-00/29"]);
    assert_eq!(entry(&backend, 0x2000, 2).0, 0xFEE0_0000);
    assert_eq!(backend.cpu_of(2), Some(0));
}

#[test]
fn vectors_share_the_numbers_that_there_are() {
    let (fake, channel) = Card::default().plug(1);
    let free = BTreeSet::from([20, 21]);
    fake.lock()
        .free_irqs
        .insert("/scheme/irq/cpu-00".to_owned(), free);
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 1).unwrap();
    for vector in 1..5 {
        drop(backend.waiter(vector).unwrap());
    }
    assert_eq!(opened(&fake).len(), 2);
    let data: Vec<_> = (0..5).map(|vector| entry(&backend, 0x2000, vector).1).collect();
    assert_eq!(data, [53, 52, 53, 52, 53]);
    assert!((0..5).all(|vector| entry(&backend, 0x2000, vector).2 == 0));
    let (first, third) = (
        backend.interrupts.get(0).unwrap(),
        backend.interrupts.get(2).unwrap(),
    );
    assert!(Arc::ptr_eq(&first, &third));
}

#[test]
fn cpus_that_were_not_started_are_not_asked_for_anything() {
    let (fake, channel) = Card::default().plug(4);
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 2).unwrap();
    for vector in 1..9 {
        drop(backend.waiter(vector).unwrap());
    }
    let opened = opened(&fake);
    assert_eq!(opened.len(), 9);
    assert!(
        opened
            .iter()
            .all(|path| path.contains("cpu-00") || path.contains("cpu-01"))
    );
}

#[test]
fn a_boot_cpu_that_was_not_started_is_not_asked_for_anything_either() {
    for (said, first) in [
        (1, "/scheme/irq/cpu-01/"),
        (2, "/scheme/irq/cpu-00/"),
        (u32::MAX, "/scheme/irq/cpu-00/"),
    ] {
        let (fake, channel) = Card::default().plug(4);
        fake.lock().boot_cpu = said;
        let system = fake.system();
        drop(RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 2).unwrap());
        let opened = opened(&fake);
        assert!(
            opened.len() == 1 && opened[0].starts_with(first),
            "{said}: {opened:?}"
        );
    }
}

#[test]
fn numbers_of_lines_are_not_taken() {
    let (fake, channel) = Card::default().plug(2);
    fake.lock()
        .free_irqs
        .get_mut("/scheme/irq/cpu-01")
        .unwrap()
        .retain(|irq| *irq < 17);
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 2).unwrap();
    drop(backend.waiter(2).unwrap());
    drop(backend.waiter(4).unwrap());
    assert_eq!(
        opened(&fake),
        [
            "/scheme/irq/cpu-00/30",
            "/scheme/irq/cpu-01/16",
            "/scheme/irq/cpu-00/29"
        ]
    );
}

#[test]
fn a_table_in_another_bar_is_mapped_too() {
    let card = Card {
        msix: Some((4, 0x1000, 3)),
        bar4_bytes: 0x2000,
        ..Card::default()
    };
    let (fake, backend) = connected(&card, 1);
    assert_eq!((backend.irq_mode(), backend.vectors()), ("msix", 3));
    let maps: Vec<_> = fake
        .lock()
        .maps
        .iter()
        .filter(|(file, ..)| *file == File::Channel)
        .map(|(_, offset, len, _)| (*offset >> 61, *len))
        .collect();
    assert_eq!(maps, [(0, 0x4000), (4, 0x2000)]);
    assert_eq!(
        entry(&backend, 0x1000, 0),
        (0, 0, 0),
        "nothing in BAR 0 is the table's"
    );
    drop(backend);
    assert!(fake.lock().mapped.is_empty());
}

#[test]
fn a_table_may_end_where_its_bar_does() {
    let card = Card {
        msix: Some((0, 0x4000 - 16 * 8, 8)),
        ..Card::default()
    };
    let (_fake, backend) = connected(&card, 1);
    assert_eq!((backend.irq_mode(), backend.vectors()), ("msix", 8));
    drop(backend.waiter(7).unwrap());
    assert_eq!(entry(&backend, 0x4000 - 16 * 8, 7).2, 0);
}

#[test]
fn a_table_that_cannot_be_leaves_msi() {
    for msix in [
        (0, 0x2000, 0),
        (0, 0x2000, 2049),
        (0, 0x2004, 8),
        (0, 0, 8),
        (0, 0xFF8, 8),
        (0, 0x4000 - 16 * 8 + 8, 8),
        (0, u32::MAX - 7, 2048),
        (4, 0, 1),
        (6, 0, 1),
        (255, 0, 1),
    ] {
        let card = Card {
            msix: Some(msix),
            ..Card::default()
        };
        let (fake, backend) = connected(&card, 1);
        assert_eq!((backend.irq_mode(), backend.vectors()), ("msi", 1), "{msix:?}");
        assert_eq!(opened(&fake).len(), 1);
    }
}

#[test]
fn msi_is_set_before_it_is_enabled_and_all_share_it() {
    for has_mask in [false, true] {
        let card = Card {
            msix: None,
            msi: Some(has_mask),
            ..Card::default()
        };
        let (fake, backend) = connected(&card, 2);
        assert_eq!((backend.irq_mode(), backend.vectors()), ("msi", 1));
        drop((backend.waiter(0).unwrap(), backend.waiter(0).unwrap()));
        assert!(backend.waiter(1).is_err());
        assert_eq!(opened(&fake), ["/scheme/irq/cpu-00/30"]);
        assert_eq!(backend.cpu_of(0), None);
        let requests = fake.lock().requests.clone();
        let set = requests.iter().position(|request| request[0] == 6).unwrap();
        let enabled = requests.iter().position(|request| request[0] == 4).unwrap();
        assert!(set < enabled);
        assert_eq!(requests[set][11..19], 0xFEE0_0000_u64.to_le_bytes());
        assert_eq!(requests[set][19..23], 62_u32.to_le_bytes());
        assert_eq!(requests[set][23], u8::from(has_mask));
    }
}

#[test]
fn without_messages_the_line_is_opened_and_let_fire() {
    let card = Card {
        msix: None,
        msi: None,
        ..Card::default()
    };
    card.command
        .store(0x0010_0407, std::sync::atomic::Ordering::Relaxed);
    let (fake, backend) = connected(&card, 2);
    assert_eq!((backend.irq_mode(), backend.vectors()), ("intx", 1));
    assert_eq!(opened(&fake), ["/scheme/irq/11"]);
    let command = card.command.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(command, 0x0010_0007);
}

#[test]
fn without_free_numbers_the_line_is_left() {
    let (fake, channel) = Card::default().plug(1);
    fake.lock()
        .free_irqs
        .get_mut("/scheme/irq/cpu-00")
        .unwrap()
        .clear();
    let system = fake.system();
    let backend = RedoxBackend::connect_on(&system, channel, crate::clock::Clock::system(), 1).unwrap();
    assert_eq!(backend.irq_mode(), "intx");
    // The function was not switched to what would never have fired.
    assert!(fake.lock().requests.iter().all(|request| request[0] != 4));
}

#[test]
fn a_function_without_any_interrupt_is_refused() {
    let card = Card {
        msix: None,
        msi: None,
        line: None,
        ..Card::default()
    };
    let (_fake, backend) = card.connect(1);
    assert_eq!(backend.unwrap_err(), ConnectError::NoInterrupt);
}
