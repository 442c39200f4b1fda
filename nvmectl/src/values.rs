//! Values of documents that serde has no form for.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Named bits, as an object of booleans in the specification's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags(pub Vec<(&'static str, bool)>);

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, set) in &self.0 {
            map.serialize_entry(name, set)?;
        }
        map.end()
    }
}

/// The named bits of one of the specification's bit fields: `flags!(Oncs::from(raw), compare, verify)`.
macro_rules! flags {
    ($field:expr, $($name:ident),+ $(,)?) => {{
        let field = $field;
        $crate::values::Flags(vec![$((stringify!($name), field.$name())),+])
    }};
}

pub(crate) use flags;

/// A 128-bit number: always a string in JSON, since most readers cannot hold it and a field should have one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide(pub u128);

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Wide {
    /// None for 0, where 0 means "not reported".
    pub fn reported(value: u128) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }
}

/// None for 0, where 0 means "not reported".
pub fn reported<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// An identifier as hexadecimal digits, None if it is all zero.
pub fn hex_id(bytes: &[u8]) -> Option<String> {
    let set = bytes.iter().any(|byte| *byte != 0);
    set.then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
