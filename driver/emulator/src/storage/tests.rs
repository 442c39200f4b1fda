use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::{memory::CHUNK_BYTES, *};

/// A path of its own for each test, gone afterwards.
struct TemporaryPath(PathBuf);

impl TemporaryPath {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "nvme-emulator-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        // Not every test makes the file.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn open(path: &Path, size_bytes: u64) -> Result<Storage, StorageError> {
    Ok(Storage::File(FileStorage::open(path.into(), size_bytes)?))
}

/// One of [`SIZE`] bytes behind a cache.
fn open_cached(path: &Path) -> Storage {
    Storage::CachedFile(CachedFile::open(path.into(), SIZE).unwrap())
}

fn write(storage: &Storage, offset_bytes: u64, data: &[u8]) -> Result<(), StorageError> {
    let mut rest = data;
    storage.write(offset_bytes, data.len() as u64, &mut Vec::new(), |into| {
        let (now, later) = rest.split_at(into.len());
        into.copy_from_slice(now);
        rest = later;
        Ok(())
    })
}

fn read(storage: &Storage, offset_bytes: u64, len_bytes: u64) -> Result<Vec<u8>, StorageError> {
    let mut data = Vec::new();
    storage.read(offset_bytes, len_bytes, &mut Vec::new(), |bytes| {
        data.extend_from_slice(bytes);
        Ok::<(), StorageError>(())
    })?;
    Ok(data)
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u8, u64),
    Deallocate(u64, u64),
    Read(u64, u64),
}

/// A little over three chunks, so that ranges cross their borders.
const SIZE: u64 = 3 * CHUNK_BYTES + 5000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let near_a_border =
        (0u64..4, 0u64..2000).prop_map(|(chunk, at)| (chunk * CHUNK_BYTES + at).saturating_sub(1000));
    let range = || {
        (
            near_a_border.clone(),
            prop_oneof![0u64..3000, Just(CHUNK_BYTES), 0..SIZE],
        )
            .prop_map(|(at, len)| (at.min(SIZE), len.min(SIZE - at.min(SIZE))))
    };
    proptest::collection::vec(
        prop_oneof![
            (range(), any::<u8>()).prop_map(|((at, len), fill)| Step::Write(at, fill, len)),
            range().prop_map(|(at, len)| Step::Deallocate(at, len)),
            range().prop_map(|(at, len)| Step::Read(at, len)),
        ],
        1..16,
    )
}

fn behaves_as_a_byte_array(storage: &Storage, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = vec![0u8; SIZE as usize];
    play(storage, steps, &mut model)?;
    prop_assert!(read(storage, 0, SIZE).unwrap() == model);
    Ok(())
}

/// Does `steps` to both.
fn play(storage: &Storage, steps: &[Step], model: &mut [u8]) -> Result<(), TestCaseError> {
    for step in steps {
        match *step {
            Step::Write(at, fill, len) => {
                let data: Vec<u8> = (0..len)
                    .map(|index| fill.wrapping_add((index % 251) as u8))
                    .collect();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
                write(storage, at, &data).unwrap();
            }
            Step::Deallocate(at, len) => {
                model[at as usize..(at + len) as usize].fill(0);
                storage.deallocate(at, len).unwrap();
            }
            Step::Read(at, len) => {
                prop_assert!(read(storage, at, len).unwrap() == model[at as usize..(at + len) as usize]);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn memory_is_a_byte_array(steps in steps()) {
        behaves_as_a_byte_array(&Storage::Memory(SparseMemory::new(SIZE)), &steps)?;
    }

    #[test]
    fn a_file_is_a_byte_array(steps in steps()) {
        let path = TemporaryPath::new();
        behaves_as_a_byte_array(&open(&path.0, SIZE).unwrap(), &steps)?;
    }

    #[test]
    fn a_cached_file_is_a_byte_array_and_the_file_follows_with_a_flush(
        before in steps(),
        flushed: bool,
        after in steps(),
    ) {
        let path = TemporaryPath::new();
        let storage = open_cached(&path.0);
        behaves_as_a_byte_array(&storage, &before)?;
        let seen = read(&storage, 0, SIZE).unwrap();
        if flushed {
            storage.flush().unwrap();
            prop_assert!(std::fs::read(&path.0).unwrap() == seen);
        }
        // The same again over what there is now, deallocations and all: as a byte array that begins with it.
        let mut model = seen.clone();
        play(&storage, &after, &mut model)?;
        prop_assert!(read(&storage, 0, SIZE).unwrap() == model);
        if flushed {
            // Of what came after the flush, writes are lost; deallocations went to the file at once.
            let mut kept = seen;
            for step in &after {
                if let Step::Deallocate(at, len) = *step {
                    kept[at as usize..(at + len) as usize].fill(0);
                }
            }
            storage.lose_power();
            prop_assert!(read(&storage, 0, SIZE).unwrap() == kept);
            drop(storage);
            prop_assert!(std::fs::read(&path.0).unwrap() == kept);
        }
    }
}

#[test]
fn what_a_cache_holds_is_lost_with_it() {
    let path = TemporaryPath::new();
    let storage = open_cached(&path.0);
    write(&storage, 4096, &[1; 4096]).unwrap();
    storage.flush().unwrap();
    write(&storage, 6000, &[2; 4096]).unwrap();
    assert_eq!(read(&storage, 5999, 3).unwrap(), [1, 2, 2]);
    drop(storage);
    let again = open_cached(&path.0);
    assert_eq!(read(&again, 5999, 3).unwrap(), [1, 1, 1]);
    assert_eq!(read(&again, 8191, 2).unwrap(), [1, 0]);
}

#[test]
fn a_cache_takes_so_much_memory_and_no_more() {
    const SIZE: u64 = 200 << 20;
    let path = TemporaryPath::new();
    let storage = Storage::CachedFile(CachedFile::open(path.0.clone(), SIZE).unwrap());
    let piece = vec![7; 1 << 20];
    for offset_bytes in (0..SIZE).step_by(piece.len()) {
        write(&storage, offset_bytes, &piece).unwrap();
    }
    storage.lose_power();
    let left: u64 = (0..SIZE)
        .step_by(piece.len())
        .map(|offset_bytes| u64::from(read(&storage, offset_bytes, 1).unwrap() == [7]))
        .sum();
    assert!((200 - 64..200).contains(&left), "{left} MiB");
    assert_eq!(read(&storage, SIZE - 1, 1).unwrap(), [0]);
}

#[test]
fn a_smaller_file_has_no_cache_behind_its_end() {
    let path = TemporaryPath::new();
    let storage = open_cached(&path.0);
    write(&storage, 0, &[5; 10_000]).unwrap();
    storage.resize(SIZE, 4096).unwrap();
    storage.resize(4096, SIZE).unwrap();
    storage.flush().unwrap();
    assert_eq!(read(&storage, 4095, 3).unwrap(), [5, 0, 0]);
}

#[test]
fn memory_takes_room_only_where_it_was_written() {
    let storage = Storage::Memory(SparseMemory::new(64 << 40));
    assert_eq!(storage.allocated_bytes(), 0);
    assert_eq!(read(&storage, 63 << 40, 100_000).unwrap(), vec![0; 100_000]);
    assert_eq!(storage.allocated_bytes(), 0);
    write(&storage, (63 << 40) + CHUNK_BYTES - 1, &[1, 2]).unwrap();
    assert_eq!(storage.allocated_bytes(), 2 * CHUNK_BYTES);
    assert_eq!(
        read(&storage, (63 << 40) + CHUNK_BYTES - 2, 4).unwrap(),
        [0, 1, 2, 0]
    );
    // Part of a chunk is zeroed, a whole one freed.
    storage
        .deallocate((63 << 40) + CHUNK_BYTES - 1, CHUNK_BYTES + 1)
        .unwrap();
    assert_eq!(storage.allocated_bytes(), CHUNK_BYTES);
    storage.deallocate(0, 64 << 40).unwrap();
    assert_eq!(storage.allocated_bytes(), 0);
    assert_eq!(read(&storage, (63 << 40) + CHUNK_BYTES - 2, 4).unwrap(), [0; 4]);
}

#[test]
fn memory_ends_where_its_table_does() {
    let storage = Storage::Memory(SparseMemory::new(1 << 20));
    let end = storage.capacity_bytes();
    assert!(end >= 4 << 20);
    assert!(matches!(
        write(&storage, end - 1, &[1, 2]),
        Err(StorageError::OutOfRange { .. })
    ));
    assert!(matches!(
        read(&storage, u64::MAX, 2),
        Err(StorageError::OutOfRange { .. })
    ));
    assert!(matches!(
        storage.deallocate(end, 1),
        Err(StorageError::OutOfRange { .. })
    ));
    write(&storage, end - 1, &[1]).unwrap();
    assert_eq!(read(&storage, end - 1, 1).unwrap(), [1]);
}

#[test]
fn a_source_that_fails_ends_the_write() {
    let storage = Storage::Memory(SparseMemory::new(1 << 20));
    write(&storage, 0, &vec![7; 2 * CHUNK_BYTES as usize]).unwrap();
    let mut pieces = 0;
    let outcome = storage.write(0, 2 * CHUNK_BYTES, &mut Vec::new(), |_| {
        pieces += 1;
        Err(Status::DATA_TRANSFER_ERROR)
    });
    assert_eq!((outcome, pieces), (Err(Status::DATA_TRANSFER_ERROR), 1));
    assert_eq!(
        read(&storage, CHUNK_BYTES, CHUNK_BYTES).unwrap(),
        vec![7; CHUNK_BYTES as usize]
    );
}

#[test]
fn null_keeps_nothing() {
    let storage = Storage::Null;
    let dropped: Result<(), StorageError> =
        storage.write(0, 4096, &mut Vec::new(), |_| panic!("the data is of no interest"));
    dropped.unwrap();
    assert_eq!(read(&storage, 5, 200_000).unwrap(), vec![0; 200_000]);
}

#[test]
fn a_file_is_the_same_when_it_is_opened_again() {
    let path = TemporaryPath::new();
    let first = open(&path.0, 8 << 20).unwrap();
    write(&first, (3 << 20) - 2, &[1, 2, 3, 4]).unwrap();
    first.flush().unwrap();
    assert_eq!(std::fs::metadata(&path.0).unwrap().len(), 8 << 20);
    // While it is open nobody else has it.
    assert!(matches!(open(&path.0, 8 << 20), Err(StorageError::InUse { .. })));
    drop(first);
    let again = open(&path.0, 8 << 20).unwrap();
    assert_eq!(read(&again, (3 << 20) - 3, 6).unwrap(), [0, 1, 2, 3, 4, 0]);
    drop(again);
    // A file of any other length is somebody's, and stays as it is; an empty one is nobody's.
    for (other, said) in [(9 << 20, "say size=8388608"), (7 << 20, "say size=8388608")] {
        let error = open(&path.0, other).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(std::fs::metadata(&path.0).unwrap().len(), 8 << 20);
    }
    std::fs::File::create(&path.0).unwrap();
    assert_eq!(read(&open(&path.0, 1 << 20).unwrap(), 0, 3).unwrap(), [0; 3]);
}

#[test]
fn a_file_that_somebody_cut_reads_as_zeroes_behind_its_end() {
    let path = TemporaryPath::new();
    let storage = open(&path.0, 1 << 20).unwrap();
    write(&storage, 0, &[9; 8192]).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path.0)
        .unwrap()
        .set_len(5000)
        .unwrap();
    let mut expected = vec![9; 8192];
    expected[5000..].fill(0);
    assert_eq!(read(&storage, 0, 8192).unwrap(), expected);
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = open(&std::env::temp_dir(), 4096).unwrap_err();
    assert!(directory.to_string().contains("give a path"), "{directory}");
    let missing = open(Path::new("/no/such/directory/disk.img"), 4096).unwrap_err();
    assert!(matches!(missing, StorageError::Open { .. }));
    assert!(matches!(
        open(Path::new("/dev/null"), 4096),
        Err(StorageError::NotAFile { .. })
    ));
}

#[test]
fn several_namespaces_have_a_file_each() {
    let path = TemporaryPath::new();
    let config: Config = format!("namespaces=2,size=1MiB,backing=file:{}", path.0.display())
        .parse()
        .unwrap();
    let storages: Vec<Storage> = (1..=2)
        .map(|nsid| Storage::open(&config, nsid, 1 << 20).unwrap())
        .collect();
    assert_eq!(storages.len(), 2);
    for nsid in 1..=2 {
        let own = PathBuf::from(format!("{}.{nsid}", path.0.display()));
        assert_eq!(std::fs::metadata(&own).unwrap().len(), 1 << 20);
        std::fs::remove_file(own).unwrap();
    }
}

#[test]
fn shrinking_loses_what_growing_does_not_bring_back() {
    let path = TemporaryPath::new();
    for storage in [
        Storage::Memory(SparseMemory::new(1 << 20)),
        open(&path.0, 1 << 20).unwrap(),
    ] {
        write(&storage, 0, &vec![5; 1 << 20]).unwrap();
        storage.resize(1 << 20, 300_000).unwrap();
        storage.resize(300_000, 2 << 20).unwrap();
        assert_eq!(read(&storage, 299_999, 3).unwrap(), [5, 0, 0]);
        let too_much = storage.capacity_bytes() + 1;
        assert!(matches!(
            storage.resize(2 << 20, too_much),
            Err(StorageError::OutOfRange { .. })
        ));
    }
}

#[test]
fn the_host_is_told_what_kind_of_trouble_it_was() {
    let source = || io::Error::other("broken");
    let read = StorageError::Read {
        offset_bytes: 0,
        len_bytes: 512,
        source: source(),
    };
    let write = StorageError::Write {
        offset_bytes: 0,
        len_bytes: 512,
        source: source(),
    };
    assert_eq!(Status::from(read), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(Status::from(write), Status::WRITE_FAULT);
}

#[test]
fn zeroes_are_where_blocks_are_within_a_page() {
    let at = ZEROES.as_ptr().addr();
    assert_eq!(at % 4096, 0, "{at:#x}");
}
