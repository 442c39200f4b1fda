//! Reads into and writes from memory that is lent.

use proptest::prelude::*;

use super::*;
use crate::dma::Lent;

const SIZE: usize = 8 * 4096;

fn moved(outcome: Outcome) -> Result<usize, Errno> {
    match outcome? {
        Reply::Moved { len } => Ok(len),
        other => panic!("{other:?}"),
    }
}

impl Desk {
    fn read_into(&self, handle: HandleId, offset: u64, memory: Lent) -> Result<usize, Errno> {
        self.call(Call::ReadInto {
            handle,
            offset,
            memory,
        });
        self.fake.complete_all();
        moved(self.one().expect("an answer"))
    }

    fn write_from(&self, handle: HandleId, offset: u64, memory: Lent) -> Result<usize, Errno> {
        self.call(Call::WriteFrom {
            handle,
            offset,
            memory,
        });
        self.fake.complete_all();
        moved(self.one().expect("an answer"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// At any offset and length, as a vector has it, and nothing beyond what was read is touched.
    #[test]
    fn lent_memory_holds_what_a_buffer_would(
        steps in prop::collection::vec((any::<bool>(), 0..SIZE + 5000, 0usize..20_000, any::<bool>(), any::<u8>()), 1..30),
    ) {
        let desk = Desk::new(&[(12, 8)]);
        let handle = desk.open("1/data");
        let mut disk = vec![0; SIZE];
        for (write, offset, len, aligned, byte) in steps {
            let (offset, len) = if aligned { (offset & !4095, len & !4095) } else { (offset, len) };
            let within = SIZE.saturating_sub(offset).min(len);
            if write {
                let data: Vec<u8> = (0..len).map(|at| byte ^ (at % 253) as u8).collect();
                let result = desk.write_from(handle, offset as u64, Lent::leaked(data.clone()).0);
                if within == 0 && len > 0 {
                    prop_assert_eq!(result, Err(Errno::ENOSPC));
                    continue;
                }
                prop_assert_eq!(result, Ok(within));
                if within > 0 {
                    disk[offset..offset + within].copy_from_slice(&data[..within]);
                }
                prop_assert_eq!(&desk.fake.disk(1), &disk);
            } else {
                let (lent, view) = Lent::leaked(vec![0xEE; len]);
                prop_assert_eq!(desk.read_into(handle, offset as u64, lent), Ok(within));
                let bytes = view.to_vec();
                let wanted = disk.get(offset..offset + within).unwrap_or_default();
                prop_assert_eq!(&bytes[..within], wanted);
                prop_assert!(bytes[within..].iter().all(|byte| *byte == 0xEE));
            }
        }
    }
}

#[test]
fn documents_and_transactions_are_copied() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/identify");
    let (lent, view) = Lent::leaked(vec![0xEE; 5000]);
    let expected = desk.read_into(handle, 0, lent);
    assert_eq!(expected, Ok(4096));
    assert_eq!(view.to_vec()[4096..], vec![0xEE; 904]);
    assert_eq!(Ok(view.to_vec()[..4096].to_vec()), desk.read_now(handle, 0, 4096));

    let (lent, _) = Lent::leaked(vec![0; 7]);
    assert_eq!(
        desk.write_from(handle, 0, lent),
        Err(Errno::EBADF),
        "to be read only"
    );
    let admin = desk.open("controller/admin");
    let (lent, _) = Lent::leaked(vec![0; 7]);
    assert_eq!(desk.write_from(admin, 0, lent), Err(Errno::EINVAL), "no command");
}

#[test]
fn what_fails_says_so_and_touches_nothing() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/data");
    for (offset, len) in [(0, 4096), (1, 10)] {
        let (lent, view) = Lent::leaked(vec![0xEE; len]);
        desk.call(Call::ReadInto {
            handle,
            offset,
            memory: lent,
        });
        assert!(desk.fake.answer(0, Err(super::super::service::IoError::Lost)));
        assert_eq!(desk.one().map(moved), Some(Err(Errno::ENODEV)));
        assert_eq!(view.to_vec(), vec![0xEE; len]);
    }
    let (lent, _) = Lent::leaked(vec![1; 10]);
    assert_eq!(desk.write_from(HandleId(99), 0, lent), Err(Errno::EBADF));
}
