//! Regions of a function around a device that is stepped by hand.

use nvme_spec::register;

use super::*;

fn function() -> Function {
    let memory = Arc::new(ClientMemory::default());
    let vectors = Arc::new(Vectors::new(70));
    let emulator = Emulator::new("vectors=70".parse().unwrap(), memory.clone(), vectors.clone()).unwrap();
    Function::new(emulator, vectors, memory)
}

fn read<const N: usize>(function: &Function, region: u32, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    function.read(region, offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn registers_are_read_in_any_part_and_written_whole() {
    let mut function = function();
    let cap = function.emulator.registers().read64(register::CAP);
    assert_eq!(u64::from_le_bytes(read(&function, 0, 0)), cap);
    assert_eq!(read::<3>(&function, 0, 3), cap.to_le_bytes()[3..6]);
    let asq = 0x1_2345_6000u64;
    function
        .write(0, register::ASQ as u64, &asq.to_le_bytes())
        .unwrap();
    assert_eq!(u64::from_le_bytes(read(&function, 0, register::ASQ as u64)), asq);
    for (offset, bytes) in [
        (register::ASQ as u64, 2),
        (register::ASQ as u64 + 2, 4),
        (0x28, 7),
    ] {
        let error = function.write(0, offset, &vec![0; bytes]);
        assert_eq!(error, Err(Errno::INVAL));
    }
}

#[test]
fn nothing_is_read_or_written_outside_of_a_region() {
    let mut function = function();
    for region in 0..REGIONS + 2 {
        let (bytes, flags) = function.region(region);
        assert_eq!(bytes == 0, flags == 0);
        for (offset, len) in [
            (bytes, 4),
            (bytes.wrapping_sub(3), 4),
            (u64::MAX - 1, 4),
            (u64::MAX, 1),
        ] {
            assert_eq!(
                function.read(region, offset, &mut vec![0; len]),
                Err(Errno::INVAL)
            );
            assert_eq!(function.write(region, offset, &vec![0; len]), Err(Errno::INVAL));
        }
        if bytes > 0 {
            function.read(region, bytes - 4, &mut [0; 4]).unwrap();
            function.write(region, bytes - 4, &[0; 4]).unwrap();
        } else {
            assert_eq!(function.read(region, 0, &mut [0; 4]), Err(Errno::INVAL));
        }
    }
}

#[test]
fn the_table_is_kept_and_pending_bits_are_shown() {
    let mut function = function();
    assert_eq!(read::<16>(&function, REGION_MSIX, 69 * 16)[12..], [1, 0, 0, 0]);
    function.write(REGION_MSIX, 69 * 16, &[9; 16]).unwrap();
    assert_eq!(read::<16>(&function, REGION_MSIX, 69 * 16), [9; 16]);
    let pba_offset = u64::from(function.bars.pba_offset);
    function.write(REGION_MSIX, pba_offset, &[0xFF; 16]).unwrap();
    assert_eq!(read::<16>(&function, REGION_MSIX, pba_offset), [0; 16]);
    let control = MSIX_ENABLE | 1 << 14;
    function
        .write(REGION_CONFIG, 0x52, &control.to_le_bytes())
        .unwrap();
    nvme_emulator::Interrupts::raise(&*function.vectors, 65);
    assert_eq!(read::<16>(&function, REGION_MSIX, pba_offset)[8], 2);
    function.reset();
    assert_eq!(
        read::<16>(&function, REGION_MSIX, 69 * 16)[..13],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    );
    assert_eq!(read::<16>(&function, REGION_MSIX, pba_offset), [0; 16]);
}

#[test]
fn the_command_register_lets_the_device_reach_memory() {
    let mut function = function();
    assert!(!function.memory.is_bus_master());
    function.write(REGION_CONFIG, COMMAND as u64, &[6, 0]).unwrap();
    assert!(function.memory.is_bus_master());
    function.reset();
    assert!(!function.memory.is_bus_master());
}
