//! Files of a client's, and what a device reaches of them.

use proptest::prelude::*;

use super::*;

const RW: u32 = DmaMap::READ | DmaMap::WRITE;

fn file(len: u64) -> OwnedFd {
    let file = memfd_create("client", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn map(address: u64, size: u64, offset: u64, flags: u32) -> DmaMap {
    DmaMap {
        argsz: size_of::<DmaMap>() as u32,
        flags,
        offset,
        address,
        size,
    }
}

fn memory() -> ClientMemory {
    let memory = ClientMemory::default();
    memory.set_bus_master(true);
    memory
}

#[test]
fn the_device_reaches_what_is_mapped_and_nothing_else() {
    let memory = memory();
    let file = file(0x4000);
    let clone = || Some(file.try_clone().unwrap());
    memory.map(&map(0x10_0000, 0x1000, 0x1000, RW), clone()).unwrap();
    memory.map(&map(0x10_1000, 0x1000, 0x3000, RW), clone()).unwrap();
    memory
        .map(&map(0x20_0000, 0x1000, 0, DmaMap::READ), clone())
        .unwrap();
    memory.map(&map(0x30_0000, 0x1000, 0, RW), None).unwrap();
    // Across neighbours that are elsewhere in the file.
    memory.write(0x10_0FFE, &[1, 2, 3, 4]).unwrap();
    let mut bytes = [0; 4];
    memory.read(0x10_0FFE, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    rustix::io::pread(&file, &mut bytes, 0x1FFE).unwrap();
    assert_eq!(bytes, [1, 2, 0, 0]);
    rustix::io::pread(&file, &mut bytes, 0x3000).unwrap();
    assert_eq!(bytes, [3, 4, 0, 0]);
    memory.store_u32(0x10_0004, 7).unwrap();
    assert_eq!(memory.load_u32(0x10_0004), Ok(7));
    for (address, len) in [
        (0, 1),
        (0xF_FFFF, 1),
        (0x10_1FFD, 4),
        (0x10_2000, 1),
        (0x30_0000, 1),
        (u64::MAX, 1),
        (u64::MAX - 1, 8),
    ] {
        let fault = Err(DmaFault {
            address,
            len_bytes: len as u64,
        });
        assert_eq!(memory.read(address, &mut vec![0; len]), fault, "{address:#x}");
        assert_eq!(memory.write(address, &vec![9; len]), fault, "{address:#x}");
    }
    rustix::io::pread(&file, &mut bytes, 0x3FFC).unwrap();
    assert_eq!(bytes, [0; 4], "a refused write wrote nothing");
    memory.read(0x20_0000, &mut bytes).unwrap();
    assert!(memory.write(0x20_0000, &bytes).is_err(), "for reading only");
    assert!(memory.store_u32(0x20_0000, 1).is_err());
    assert!(memory.load_u32(0x10_0002).is_err(), "not aligned");
    memory.set_bus_master(false);
    assert!(memory.read(0x10_0000, &mut bytes).is_err(), "no bus master");
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let memory = memory();
    let file = file(0x4000);
    let clone = || Some(file.try_clone().unwrap());
    memory.map(&map(0x10_0000, 0x2000, 0, RW), clone()).unwrap();
    for (what, wanted) in [
        (map(0x10_0000, 0x2000, 0, RW), Errno::EXIST),
        (map(0x10_1000, 0x2000, 0, RW), Errno::EXIST),
        (map(0x0F_F000, 0x2000, 0, RW), Errno::EXIST),
        (map(0x0F_F000, 0x4000, 0, RW), Errno::EXIST),
        (map(0x20_0000, 0, 0, RW), Errno::INVAL),
        (map(0x20_0000, 0x1000, 0, 8), Errno::INVAL),
        (map(0x20_0000, 0x1000, 0x800, RW), Errno::INVAL),
        (map(0x20_0800, 0x1000, 0, RW), Errno::INVAL),
        (map(0x20_0000, 0x1800, 0, RW), Errno::INVAL),
        (map(0x20_0000, 0x5000, 0, RW), Errno::INVAL),
        (map(0x20_0000, 0x1000, !0xFFF, RW), Errno::INVAL),
        (map(!0xFFF, 0x2000, 0, RW), Errno::INVAL),
        (map(0x20_0000, MAX_MAPPED_BYTES, 0, RW), Errno::NOSPC),
    ] {
        assert_eq!(memory.map(&what, clone()), Err(wanted), "{what:?}");
    }
    assert_eq!(memory.unmap(0x10_0000, 0x1000), Err(Errno::INVAL), "a part of it");
    assert_eq!(memory.unmap(0x10_0000, 0), Err(Errno::INVAL));
    assert_eq!(memory.unmap(!0xFFF, 0x2000), Err(Errno::INVAL));
    memory.unmap(0x20_0000, 0u64.wrapping_sub(0x20_0000)).unwrap();
    memory.unmap(0x10_0000, 0x2000).unwrap();
    assert!(memory.read(0x10_0000, &mut [0]).is_err());
    memory.map(&map(0x10_0000, 0x2000, 0, RW), clone()).unwrap();
    memory.clear();
    assert!(memory.read(0x10_0000, &mut [0]).is_err());
    for number in 0..MAX_DMA_MAPS as u64 {
        memory.map(&map(number << 12, 0x1000, 0, RW), None).unwrap();
    }
    let one_more = memory.map(&map(1 << 40, 0x1000, 0, RW), None);
    assert_eq!(one_more, Err(Errno::NOSPC));
}

#[test]
fn a_file_that_is_mapped_cannot_be_made_shorter() {
    let memory = memory();
    let sealable = file(0x2000);
    let clone = Some(sealable.try_clone().unwrap());
    memory.map(&map(0x10_0000, 0x2000, 0, RW), clone).unwrap();
    assert_eq!(ftruncate(&sealable, 0), Err(Errno::PERM));
    memory.read(0x10_1000, &mut [0; 16]).unwrap();
    // What could be is refused.
    let unsealable = memfd_create("client", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&unsealable, 0x2000).unwrap();
    let what = map(0x20_0000, 0x2000, 0, RW);
    let clone = || Some(unsealable.try_clone().unwrap());
    assert_eq!(memory.map(&what, clone()), Err(Errno::PERM));
    let pipe = std::io::pipe().unwrap().0;
    assert_eq!(memory.map(&what, Some(pipe.into())), Err(Errno::PERM));
    // Unless the client is trusted.
    ClientMemory::new(Trust::Unsealed).map(&what, clone()).unwrap();
}

#[test]
fn doorbells_are_the_clients_too_and_cannot_be_made_shorter() {
    let pages = DoorbellPages::new(0x1000, 0x2000).unwrap();
    assert_eq!(pages.words().len(), 0x800);
    rustix::io::pwrite(pages.file(), &7u32.to_ne_bytes(), 0x1000 + 12).unwrap();
    assert_eq!(pages.words()[3].load(Ordering::Relaxed), 7);
    assert_eq!(ftruncate(pages.file(), 0x1000), Err(Errno::PERM));
}

#[test]
fn whoever_unmaps_waits_for_the_copy() {
    let memory = memory();
    let file = file(1 << 20);
    let what = map(0x10_0000, 1 << 20, 0, RW);
    std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            let (mut done, mut faults) = (0, 0);
            while done < 200 || faults < 1 {
                match memory.write(0x10_0000, &[5; 1 << 16]) {
                    Ok(()) => done += 1,
                    Err(_) => faults += 1,
                }
            }
        });
        while !device.is_finished() {
            memory.map(&what, Some(file.try_clone().unwrap())).unwrap();
            std::thread::yield_now();
            memory.unmap(what.address, what.size).unwrap();
        }
    });
}

proptest! {
    #[test]
    fn windows_never_overlap_and_are_all_found(
        steps in proptest::collection::vec((0u64..32, 1u64..8, any::<bool>()), 1..60),
    ) {
        let memory = memory();
        let file = file(8 << 12);
        let mut model: Vec<(u64, u64)> = Vec::new();
        for (page, pages, is_map) in steps {
            let (address, size) = (page << 12, pages << 12);
            if is_map {
                let free = model.iter().all(|(at, len)| address + size <= *at || at + len <= address);
                let mapped = memory.map(&map(address, size, 0, RW), Some(file.try_clone().unwrap()));
                prop_assert_eq!(mapped, if free { Ok(()) } else { Err(Errno::EXIST) });
                if free {
                    model.push((address, size));
                }
            } else {
                let inside = |(at, len): &(u64, u64)| address <= *at && at + len <= address + size;
                let apart = |(at, len): &(u64, u64)| address + size <= *at || at + len <= address;
                let whole = model.iter().all(|window| inside(window) || apart(window));
                let unmapped = memory.unmap(address, size);
                prop_assert_eq!(unmapped, if whole { Ok(()) } else { Err(Errno::INVAL) });
                model.retain(|window| !whole || apart(window));
            }
            for page in 0..40u64 {
                let inside = |byte: u64| model.iter().any(|(at, len)| (*at..at + len).contains(&byte));
                let address = page << 12;
                prop_assert_eq!(memory.load_u32(address).is_ok(), inside(address));
                let across = memory.read(address + 4094, &mut [0; 4]).is_ok();
                prop_assert_eq!(across, inside(address) && inside(address + 4096));
            }
        }
    }
}
