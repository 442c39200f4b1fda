//! What the client does in the function's configuration space.

use super::Connection;
use super::connection::CallError;
use crate::vfio_user::function::{CLASS, COMMAND, MSIX_ENABLE, MSIX_ID, REGION_CONFIG};

/// Where the list of capabilities begins (PCI Local Bus 3.0, section 6.1), and where it may be.
const CAPABILITIES: u64 = 0x34;
const FIRST_CAPABILITY: u8 = 0x40;
/// Capabilities of four bytes at the least, between 40h and FFh.
const MAX_CAPABILITIES: usize = 48;
const REVISION: u64 = 0x08;
/// Command: memory space, bus master, interrupt disable (of the line).
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const NO_LINE: u16 = 1 << 10;

/// Why the configuration space is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("a function of class {0:06x}")]
    Class(u32),
    #[error("no MSI-X capability")]
    NoMsix,
}

/// Looks whether the function is an NVMe controller, and lets it reach memory.
pub(super) fn set_up(connection: &Connection) -> Result<(), ConfigError> {
    let mut class = [0; 4];
    connection.read_region(REGION_CONFIG, REVISION, &mut class)?;
    let class = u32::from_le_bytes(class) >> 8;
    if class != CLASS {
        return Err(ConfigError::Class(class));
    }
    let command = word(connection, COMMAND as u64)? | MEMORY_SPACE | BUS_MASTER | NO_LINE;
    connection.write_region(REGION_CONFIG, COMMAND as u64, &command.to_le_bytes())?;
    Ok(())
}

/// Enables MSI-X, with nothing masked: some servers look at this and not only at what SET_IRQS has said.
pub(super) fn enable_msix(connection: &Connection) -> Result<(), ConfigError> {
    let mut at = byte(connection, CAPABILITIES)?;
    for _ in 0..MAX_CAPABILITIES {
        if at < FIRST_CAPABILITY {
            break;
        }
        let place = u64::from(at & !3);
        let head = word(connection, place)?;
        if head as u8 == MSIX_ID {
            let control = word(connection, place + 2)? & 0x7FF | MSIX_ENABLE;
            connection.write_region(REGION_CONFIG, place + 2, &control.to_le_bytes())?;
            return Ok(());
        }
        at = (head >> 8) as u8;
    }
    Err(ConfigError::NoMsix)
}

/// Keeps the function from reaching memory; whether it says that it does not any more.
pub(super) fn clear_bus_master(connection: &Connection) -> Result<bool, CallError> {
    let command = word(connection, COMMAND as u64)? & !BUS_MASTER;
    connection.write_region(REGION_CONFIG, COMMAND as u64, &command.to_le_bytes())?;
    Ok(word(connection, COMMAND as u64)? & BUS_MASTER == 0)
}

fn byte(connection: &Connection, at: u64) -> Result<u8, CallError> {
    let mut bytes = [0];
    connection.read_region(REGION_CONFIG, at, &mut bytes)?;
    let [byte] = bytes;
    Ok(byte)
}

fn word(connection: &Connection, at: u64) -> Result<u16, CallError> {
    let mut bytes = [0; 2];
    connection.read_region(REGION_CONFIG, at, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}
