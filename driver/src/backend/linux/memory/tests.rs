use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The device's side: what is mapped there, and how much may be.
struct Table {
    mapped: Mutex<BTreeMap<u64, usize>>,
    limit_bytes: usize,
    unmaps: bool,
}

impl Table {
    fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            mapped: Mutex::default(),
            limit_bytes,
            unmaps: true,
        })
    }

    fn mapped(&self) -> Vec<(u64, usize)> {
        let mapped = self.mapped.lock().unwrap();
        mapped.iter().map(|(iova, len)| (*iova, *len)).collect()
    }
}

// SAFETY: there is no device.
unsafe impl Mapper for Table {
    fn map(&self, piece: &Piece<'_>) -> Result<u64, BackendError> {
        assert!((piece.address.as_ptr() as usize).is_multiple_of(PAGE_BYTES));
        assert!(piece.len_bytes.is_multiple_of(PAGE_BYTES) && piece.iova.is_multiple_of(2 << 20));
        let file_bytes = rustix::fs::fstat(piece.memfd).unwrap().st_size;
        assert_eq!(file_bytes as usize, piece.len_bytes);
        rustix::fs::ftruncate(piece.memfd, 0).expect_err("it is sealed");
        let mut mapped = self.mapped.lock().unwrap();
        let all: usize = mapped.values().sum();
        if all + piece.len_bytes > self.limit_bytes {
            return Err(BackendError::System("no more".to_owned()));
        }
        for (iova, len) in mapped.iter() {
            assert!(piece.iova >= iova + *len as u64 || piece.iova + piece.len_bytes as u64 <= *iova);
        }
        mapped.insert(piece.iova, piece.len_bytes);
        Ok(piece.iova)
    }

    fn unmap(&self, iova: u64, len_bytes: usize) -> bool {
        assert_eq!(self.mapped.lock().unwrap().remove(&iova), Some(len_bytes));
        self.unmaps
    }
}

fn small_plan() -> Plan {
    Plan {
        first_chunk_bytes: 4 << 20,
        ..Plan::default()
    }
}

fn memory(plan: Plan) -> (Arc<Table>, Memory) {
    let table = Table::new(usize::MAX);
    let memory = Memory::new(Arc::clone(&table) as Arc<dyn Mapper>, plan);
    (table, memory)
}

#[test]
fn chunks_are_few_and_grow_with_what_there_is() {
    const MIB: usize = 1 << 20;
    let (table, memory) = memory(Plan::default());
    assert!(table.mapped().is_empty());
    let regions: Vec<_> = (0..20).map(|_| memory.allocate(4 * MIB).unwrap()).collect();
    let lens: Vec<_> = table.mapped().into_iter().map(|(_, len)| len / MIB).collect();
    assert_eq!(lens, [16, 16, 32, 64]);
    drop(memory);
    assert_eq!(table.mapped().len(), 4, "regions keep them");
    drop(regions);
    assert!(table.mapped().is_empty());
}

#[test]
fn what_is_given_back_is_given_out_again_zeroed() {
    let (table, memory) = memory(small_plan());
    let first = memory.allocate(5000).unwrap();
    assert_eq!(first.len(), 8192);
    let iova = first.iova();
    first.copy_in(8000, &[7; 192]);
    let part = first.part(4096, 4096).unwrap();
    drop(first);
    let other = memory.allocate(8192).unwrap();
    assert_ne!(other.iova(), iova, "a part of it is still somebody's");
    drop(part);
    let again = memory.allocate(8192).unwrap();
    assert_eq!(again.iova(), iova);
    let mut bytes = [1; 192];
    again.copy_out(8000, &mut bytes);
    assert_eq!(bytes, [0; 192]);
    assert_eq!(table.mapped().len(), 1);
}

#[test]
fn a_chunk_is_smaller_where_no_more_may_be_mapped() {
    let table = Table::new(7 << 20);
    let memory = Memory::new(Arc::clone(&table) as Arc<dyn Mapper>, Plan::default());
    let regions: Vec<_> = (0..3).map(|_| memory.allocate(2 << 20).unwrap()).collect();
    assert_eq!(table.mapped().iter().map(|(_, len)| len).sum::<usize>(), 6 << 20);
    let error = memory.allocate(2 << 20).unwrap_err();
    assert_eq!(error, BackendError::System("no more".to_owned()));
    drop(regions);
    assert!(memory.allocate(2 << 20).is_ok());
}

#[test]
fn too_much_is_refused() {
    let (table, memory) = memory(Plan {
        max_chunks: 1,
        ..small_plan()
    });
    for len_bytes in [(4 << 20) + 1, usize::MAX] {
        let error = memory.allocate(len_bytes).unwrap_err();
        assert_eq!(error, BackendError::NoMemory { len_bytes });
    }
    assert!(table.mapped().is_empty());
    let all = memory.allocate(4 << 20).unwrap();
    assert!(matches!(memory.allocate(1), Err(BackendError::NoMemory { .. })));
    drop(all);
    assert!(memory.allocate(1).is_ok());
}

#[test]
fn addresses_for_the_device_are_in_the_ranges_that_it_has() {
    let ranges = [0..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF];
    assert_eq!(next_iova(&ranges, LOWEST_IOVA, 2 << 20), Some(2 << 20));
    assert_eq!(next_iova(&ranges, 0xFEC0_0000, 2 << 20), Some(0xFEC0_0000));
    assert_eq!(next_iova(&ranges, 0xFEC0_0000, 4 << 20), Some(0xFF00_0000));
    assert_eq!(next_iova(&ranges, 0x7F_FFE0_0000, 2 << 20), Some(0x7F_FFE0_0000));
    assert_eq!(next_iova(&ranges, 0x7F_FFE0_0001, 2 << 20), None);
    assert_eq!(next_iova(&[0..=u64::MAX], u64::MAX, 2 << 20), None);
    let (table, memory) = memory(Plan {
        iovas: vec![0x1000..=0xFF_FFFF, 0x4000_0000..=0x403F_FFFF],
        largest_chunk_bytes: 4 << 20,
        ..small_plan()
    });
    let regions: Vec<_> = (0..4).map(|_| memory.allocate(4 << 20).unwrap()).collect();
    let iovas: Vec<_> = table.mapped().into_iter().map(|(iova, _)| iova).collect();
    assert_eq!(iovas, [0x20_0000, 0x60_0000, 0xA0_0000, 0x4000_0000]);
    assert!(memory.allocate(4 << 20).is_err());
    // A smaller chunk still fits between the ranges' ends.
    assert_eq!(memory.allocate(1).unwrap().iova(), 0xE0_0000);
    drop(regions);
}

#[test]
fn what_cannot_be_unmapped_stays() {
    let mapper = Arc::new(Table {
        mapped: Mutex::default(),
        limit_bytes: usize::MAX,
        unmaps: false,
    });
    let memory = Memory::new(mapper, small_plan());
    let region = memory.allocate(4096).unwrap();
    let address = region.as_ptr();
    drop((region, memory));
    // SAFETY: leaked on purpose; a byte that nobody writes.
    assert_eq!(unsafe { address.read_volatile() }, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Live regions never overlap, here or for the device, hold what was put into them, and all memory comes back.
    #[test]
    fn regions_are_apart_and_memory_comes_back(
        steps in prop::collection::vec((1_usize..1_500_000, any::<prop::sample::Index>(), any::<bool>()), 1..40),
    ) {
        let (table, memory) = memory(small_plan());
        let mut live: Vec<(Region, u8)> = Vec::new();
        for (number, (len, which, gives_back)) in steps.into_iter().enumerate() {
            if gives_back && !live.is_empty() {
                live.swap_remove(which.index(live.len()));
            } else {
                let region = memory.allocate(len).unwrap();
                prop_assert!(region.len() >= len && region.iova().is_multiple_of(4096));
                let mut bytes = vec![1; region.len()];
                region.copy_out(0, &mut bytes);
                prop_assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(number as u8 | 1);
                region.copy_in(0, &bytes);
                live.push((region, number as u8 | 1));
            }
            let mut places: Vec<_> = live.iter().map(|(it, _)| (it.iova(), it.len() as u64)).collect();
            places.sort_unstable();
            for pair in places.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
            }
            for (iova, len) in places {
                let within = |(chunk, chunk_len)| chunk <= iova && iova + len <= chunk + chunk_len as u64;
                prop_assert!(table.mapped().into_iter().any(within));
            }
            for (region, byte) in &live {
                let mut ends = [0; 2];
                region.copy_out(0, &mut ends[..1]);
                region.copy_out(region.len() - 1, &mut ends[1..]);
                prop_assert_eq!(ends, [*byte; 2]);
            }
        }
        live.clear();
        for part in &memory.0.chunks().parts {
            prop_assert_eq!(&part.free, &Runs::all(part.chunk.len_bytes()));
        }
        drop(memory);
        prop_assert!(table.mapped().is_empty());
    }
}

fn shared(len_bytes: usize) -> Arc<SharedMemory> {
    Arc::new(SharedMemory::create(len_bytes).unwrap())
}

fn place_of(registration: &Registration) -> u64 {
    match registration.places {
        Places::Contiguous(iova) => iova,
        Places::Pages(_) => panic!("an IOMMU makes one piece of it"),
    }
}

#[test]
fn a_clients_memory_is_mapped_beside_chunks_until_its_lease_goes() {
    let table = Table::new(usize::MAX);
    let memory = Memory::new(Arc::clone(&table) as Arc<dyn Mapper>, small_plan());
    let ours = memory.allocate(4096).unwrap();
    let (first, second) = (shared(5 * 4096), shared(4096));
    let (one, other) = (
        memory.register(&first).unwrap(),
        memory.register(&second).unwrap(),
    );
    let (at_one, at_other) = (place_of(&one), place_of(&other));
    assert_eq!(
        table.mapped(),
        [(2 << 20, 4 << 20), (at_one, 5 * 4096), (at_other, 4096)],
        "in order of addresses, which do not overlap"
    );
    // What comes next is put behind them; what goes leaves its place to the next that fits.
    let more = memory.allocate(4 << 20).unwrap();
    assert!(more.iova() > at_other);
    drop(one);
    assert_eq!(Arc::strong_count(&first), 1);
    let again = memory.register(&first).unwrap();
    assert_eq!(place_of(&again), at_one);
    drop((again, other, more, ours, memory));
    assert!(table.mapped().is_empty());
}

#[test]
fn a_clients_memory_that_stays_with_the_device_stays_mapped() {
    let table = Arc::new(Table {
        mapped: Mutex::default(),
        limit_bytes: usize::MAX,
        unmaps: false,
    });
    let memory = Memory::new(table as Arc<dyn Mapper>, small_plan());
    let client = shared(4096);
    let first = memory.register(&client).unwrap();
    let place = place_of(&first);
    drop(first);
    assert_eq!(Arc::strong_count(&client), 2, "leaked");
    let second = memory.register(&client).unwrap();
    assert_ne!(place_of(&second), place, "nor is its address used again");
}

#[test]
fn a_refusal_leaves_the_address_free() {
    let table = Table::new(8192);
    let memory = Memory::new(Arc::clone(&table) as Arc<dyn Mapper>, small_plan());
    assert!(memory.register(&shared(12288)).is_err());
    assert!(memory.0.chunks().registered.is_empty());
    assert_eq!(place_of(&memory.register(&shared(8192)).unwrap()), 2 << 20);
    let plan = Plan {
        only_huge_pages: true,
        ..small_plan()
    };
    let memory = Memory::new(Table::new(usize::MAX) as Arc<dyn Mapper>, plan);
    assert!(
        memory.register(&shared(4096)).is_err(),
        "nobody knows where its pages are"
    );
}

proptest! {
    /// What is found is in a range and beside all that is taken; what is not found is nowhere, as far as steps of 2 MiB go.
    #[test]
    fn free_addresses_are_in_a_range_and_beside_what_is_taken(
        ranges in prop::collection::vec((0_u64..40, 1_u64..20), 1..3),
        taken in prop::collection::vec((1_u64..60, 1_u64..9_000_000), 0..6),
        len in 1_usize..9_000_000,
    ) {
        const STEP: u64 = 2 << 20;
        let mut ranges: Vec<_> = ranges.iter().map(|(start, steps)| start * STEP..=(start + steps) * STEP - 1).collect();
        ranges.sort_by_key(|range| *range.start());
        let mut taken: Vec<_> = taken.iter().map(|(start, len)| start * STEP..start * STEP + len).collect();
        taken.sort_by_key(|range| range.start);
        let fits = |iova: u64| {
            let end = iova + len as u64;
            iova >= LOWEST_IOVA
                && ranges.iter().any(|range| *range.start() <= iova && end - 1 <= *range.end())
                && taken.iter().all(|range| end <= range.start || range.end <= iova)
        };
        let found = free_iova(&ranges, &taken, len);
        let wanted = (0..128).map(|step| step * STEP).find(|iova| fits(*iova));
        prop_assert_eq!(found, wanted);
    }
}
