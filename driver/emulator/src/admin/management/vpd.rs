//! The Vital Product Data (NVMe-MI 1.2, section 8.2): a common header and a Product Info Area, as the IPMI FRU Information
//! Storage Definition has them.

use crate::config::Config;

/// The least that Vital Product Data may be.
const VPD_BYTES: usize = 256;
/// Offsets and lengths are in units of this.
const UNIT_BYTES: usize = 8;
const FORMAT_VERSION: u8 = 1;
const ENGLISH: u8 = 25;
/// Type and length of a field: 8-bit ASCII.
const ASCII: u8 = 0b11 << 6;
const END_OF_FIELDS: u8 = 0xC1;
/// Unused bytes are those of an erased memory.
const ERASED: u8 = 0xFF;

pub(super) fn encode(config: &Config) -> Vec<u8> {
    // Internal use, chassis and board areas are none; the Product Info Area is at 8; there are no multi-records.
    let mut vpd = with_checksum(vec![FORMAT_VERSION, 0, 0, 0, 1, 0, 0]);
    let mut area = vec![FORMAT_VERSION, 0, ENGLISH];
    // Manufacturer, product, part number, version, serial number; asset tag and FRU file are empty.
    for text in [
        "Emulated",
        &config.model,
        "EMULATED-NVME",
        &config.firmware,
        &config.serial,
        "",
        "",
    ] {
        let text: Vec<u8> = text.bytes().take(63).collect();
        // One byte of ASCII would read as the end of the fields.
        let padded = if text.len() == 1 { 2 } else { text.len() };
        area.push(ASCII | padded as u8);
        area.extend_from_slice(&text);
        area.resize(area.len() + padded - text.len(), b' ');
    }
    area.push(END_OF_FIELDS);
    let len = (area.len() + 1).next_multiple_of(UNIT_BYTES);
    area.resize(len - 1, 0);
    if let Some(units) = area.get_mut(1) {
        *units = (len / UNIT_BYTES) as u8;
    }
    vpd.extend(with_checksum(area));
    vpd.resize(VPD_BYTES, ERASED);
    vpd
}

/// `bytes` and one more, with which they add up to zero.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes.push(sum.wrapping_neg());
    bytes
}
