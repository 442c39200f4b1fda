//! Vital Product Data: the Product Info Area that they begin with (NVMe-MI 1.2, section 8.2; IPMI Platform Management FRU
//! Information Storage Definition 1.0, revision 1.3).

use core::fmt;

/// Why Vital Product Data cannot be read as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FruError {
    /// Fewer bytes than the common header or the area has.
    Short {
        /// What is cut off.
        what: &'static str,
    },
    /// The format version is not 1.
    Version {
        /// Of what.
        what: &'static str,
        /// What it is.
        version: u8,
    },
    /// The bytes do not add up to zero.
    Checksum {
        /// Of what.
        what: &'static str,
    },
    /// There is no Product Info Area.
    NoProductInfo,
    /// A field reaches out of its area.
    Field {
        /// The field.
        name: &'static str,
    },
}

impl fmt::Display for FruError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { what } => write!(f, "{what} is cut off"),
            Self::Version { what, version } => write!(f, "{what} has the format version {version} and not 1"),
            Self::Checksum { what } => write!(f, "the checksum of {what} is wrong"),
            Self::NoProductInfo => f.write_str("there is no Product Info Area"),
            Self::Field { name } => write!(f, "the field {name} reaches out of the Product Info Area"),
        }
    }
}

impl core::error::Error for FruError {}

/// A field of type and length: at most 63 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FruField<'a> {
    /// How they are coded: 3 = ASCII and Latin 1, 2 = 6-bit ASCII, 1 = BCD plus, 0 = binary.
    pub kind: u8,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> FruField<'a> {
    /// The field as text: ASCII, 6-bit ASCII and BCD decoded, binary in hexadecimal; what cannot be printed is `?`, spaces
    /// and NULs behind it are left out.
    pub const fn text(&self) -> FruText<'a> {
        FruText(*self)
    }
}

/// A [`FruField`] that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FruText<'a>(FruField<'a>);

impl FruText<'_> {
    /// The characters, before what is left out at the end.
    fn count(self) -> usize {
        let bytes = self.0.bytes.len();
        match self.0.kind {
            0 | 1 => bytes * 2,
            2 => bytes * 8 / 6,
            _ => bytes,
        }
    }

    fn character(self, index: usize) -> char {
        let at = |index: usize| self.0.bytes.get(index).copied().unwrap_or(0);
        let nibble = at(index / 2) >> (4 * (index % 2)) & 0xF;
        match self.0.kind {
            // Low digit first.
            1 => b"0123456789 -."
                .get(usize::from(nibble))
                .map_or('?', |digit| char::from(*digit)),
            0 => char::from_digit(u32::from(at(index / 2) >> (4 * (1 - index % 2)) & 0xF), 16).unwrap_or('?'),
            2 => {
                let bit = index * 6;
                let pair = u16::from_le_bytes([at(bit / 8), at(bit / 8 + 1)]);
                char::from((pair >> (bit % 8) & 0x3F) as u8 + b' ')
            }
            _ => match at(index) {
                byte @ b' '..=b'~' => char::from(byte),
                0 => ' ',
                _ => '?',
            },
        }
    }
}

impl fmt::Display for FruText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_text = self.0.kind != 0;
        let mut count = self.count();
        while is_text && count > 0 && self.character(count - 1) == ' ' {
            count -= 1;
        }
        for index in 0..count {
            fmt::Write::write_char(f, self.character(index))?;
        }
        Ok(())
    }
}

/// The Product Info Area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FruProduct<'a> {
    /// Language code; 0 and 25 are English.
    pub language: u8,
    /// Manufacturer Name.
    pub manufacturer: FruField<'a>,
    /// Product Name.
    pub product: FruField<'a>,
    /// Product Part or Model Number.
    pub part_number: FruField<'a>,
    /// Product Version.
    pub version: FruField<'a>,
    /// Product Serial Number.
    pub serial: FruField<'a>,
    /// Asset Tag.
    pub asset_tag: FruField<'a>,
}

/// Offsets and lengths of areas are in units of 8 bytes.
const UNIT_BYTES: usize = 8;
const COMMON_HEADER_BYTES: usize = 8;
/// The byte of the common header that says where the Product Info Area begins.
const PRODUCT_OFFSET: usize = 4;
/// A type and length of this ends the fields.
const END_OF_FIELDS: u8 = 0xC1;

/// Reads the Product Info Area of Vital Product Data that begin at offset 0.
///
/// # Errors
/// That there is none, or that it is damaged. Whatever the bytes are, no more than they are is looked at.
pub fn product_info(vpd: &[u8]) -> Result<FruProduct<'_>, FruError> {
    let what = "the common header";
    let header = vpd.get(..COMMON_HEADER_BYTES).ok_or(FruError::Short { what })?;
    check(what, header)?;
    let offset = usize::from(header.get(PRODUCT_OFFSET).copied().unwrap_or(0)) * UNIT_BYTES;
    if offset == 0 {
        return Err(FruError::NoProductInfo);
    }
    let what = "the Product Info Area";
    let area = vpd.get(offset..).unwrap_or_default();
    let len = usize::from(area.get(1).copied().unwrap_or(0)) * UNIT_BYTES;
    let area = area
        .get(..len)
        .filter(|area| !area.is_empty())
        .ok_or(FruError::Short { what })?;
    check(what, area)?;
    let language = area.get(2).copied().unwrap_or(0);
    // Between the language and the checksum.
    let mut fields = Fields(area.get(3..len - 1).unwrap_or_default());
    Ok(FruProduct {
        language,
        manufacturer: fields.next("Manufacturer Name")?,
        product: fields.next("Product Name")?,
        part_number: fields.next("Product Part Number")?,
        version: fields.next("Product Version")?,
        serial: fields.next("Product Serial Number")?,
        asset_tag: fields.next("Asset Tag")?,
    })
}

/// Version 1, and a sum of zero.
fn check(what: &'static str, bytes: &[u8]) -> Result<(), FruError> {
    let version = bytes.first().copied().unwrap_or(0) & 0xF;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if sum != 0 {
        Err(FruError::Checksum { what })
    } else if version != 1 {
        Err(FruError::Version { what, version })
    } else {
        Ok(())
    }
}

/// Fields in a row.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next one; empty once they have ended.
    fn next(&mut self, name: &'static str) -> Result<FruField<'a>, FruError> {
        let Some((&head, rest)) = self.0.split_first() else {
            return Err(FruError::Field { name });
        };
        if head == END_OF_FIELDS {
            return Ok(FruField::default());
        }
        let (bytes, rest) = rest
            .split_at_checked(usize::from(head & 0x3F))
            .ok_or(FruError::Field { name })?;
        self.0 = rest;
        Ok(FruField {
            kind: head >> 6,
            bytes,
        })
    }
}
