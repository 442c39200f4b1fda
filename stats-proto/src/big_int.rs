//! Integers in JSON: a number up to 2^53, a string of decimal digits above.
//!
//! A JSON number is a double for most readers (JavaScript, jq before 1.7), which holds every integer up to
//! 2^53 and no longer every one above it. Larger values are written as strings, so that nobody gets a value
//! that is off by a few. Reading accepts both forms for every value.
//!
//! The modules are for `#[serde(with = "...")]`: [`big_u64`], [`big_u64_option`], [`big_u64_map`],
//! [`big_u128`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The largest integer that is written as a number.
pub const MAX_NUMBER: u64 = 1 << 53;

/// An unsigned integer in the form that [the module](self) describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Big<T>(pub T);

impl<T: Copy + Into<u128>> Serialize for Big<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: u128 = self.0.into();
        match u64::try_from(value) {
            Ok(value) if value <= MAX_NUMBER => serializer.serialize_u64(value),
            _ => serializer.collect_str(&value),
        }
    }
}

impl<'de, T: TryFrom<u128>> Deserialize<'de> for Big<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wide = deserializer.deserialize_any(Wide)?;
        T::try_from(wide)
            .map(Big)
            .map_err(|_| de::Error::custom(format_args!("{wide} does not fit in {} bytes", size_of::<T>())))
    }
}

struct Wide;

impl de::Visitor<'_> for Wide {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an unsigned integer, as a number or as a string of decimal digits")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u128, E> {
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u128, E> {
        // `parse` alone would let a plus sign pass.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = digits.then(|| text.parse().ok()).flatten();
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// For a `u64` field.
pub mod big_u64 {
    use super::*;

    /// Writes a number up to 2^53 and a string above.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        Big(*value).serialize(serializer)
    }

    /// Reads a number or a string of decimal digits.
    ///
    /// # Errors
    /// Anything else, or a value above 2^64 - 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Ok(Big::deserialize(deserializer)?.0)
    }
}

/// For an `Option<u64>` field: `null` when unknown.
pub mod big_u64_option {
    use super::*;

    /// Writes `null`, a number up to 2^53, or a string above.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Big).serialize(serializer)
    }

    /// Reads `null`, a number, or a string of decimal digits.
    ///
    /// # Errors
    /// Anything else, or a value above 2^64 - 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<Big<u64>>::deserialize(deserializer)?.map(|big| big.0))
    }
}

/// For a map from names to `u64`, such as errors by status.
pub mod big_u64_map {
    use super::*;

    /// Writes an object whose values are numbers up to 2^53 and strings above.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(map: &BTreeMap<String, u64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(name, value)| (name, Big(*value))))
    }

    /// Reads an object whose values are numbers or strings of decimal digits.
    ///
    /// # Errors
    /// Anything else, or a value above 2^64 - 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, u64>, D::Error> {
        let map = BTreeMap::<String, Big<u64>>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(name, big)| (name, big.0)).collect())
    }
}

/// For a `u128` field: SMART's counters have 16 bytes.
pub mod big_u128 {
    use super::*;

    /// Writes a number up to 2^53 and a string above.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        Big(*value).serialize(serializer)
    }

    /// Reads a number or a string of decimal digits.
    ///
    /// # Errors
    /// Anything else, or a value above 2^128 - 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        Ok(Big::deserialize(deserializer)?.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(with = "big_u64")]
        plain: u64,
        #[serde(with = "big_u64_option")]
        option: Option<u64>,
        #[serde(with = "big_u64_map")]
        map: BTreeMap<String, u64>,
        #[serde(with = "big_u128")]
        wide: u128,
    }

    fn all(value: u64) -> All {
        All {
            plain: value,
            option: Some(value),
            map: BTreeMap::from([("a".to_owned(), value)]),
            wide: value.into(),
        }
    }

    #[test]
    fn a_number_up_to_2_to_the_53rd_and_a_string_above() {
        let number = json!(9_007_199_254_740_992_u64);
        let string = json!("9007199254740993");
        for (value, written) in [(MAX_NUMBER, number), (MAX_NUMBER + 1, string)] {
            let expected =
                json!({ "plain": written, "option": written, "map": { "a": written }, "wide": written });
            assert_eq!(serde_json::to_value(all(value)).unwrap(), expected);
        }
    }

    #[test]
    fn both_forms_are_read_for_every_value() {
        for form in [json!(7), json!("7")] {
            let read = json!({ "plain": form, "option": form, "map": { "a": form }, "wide": form });
            assert_eq!(serde_json::from_value::<All>(read).unwrap(), all(7));
        }
    }

    #[test]
    fn null_is_none() {
        let none = All {
            option: None,
            ..all(1)
        };
        let written = serde_json::to_value(&none).unwrap();
        assert_eq!(written["option"], json!(null));
        assert_eq!(serde_json::from_value::<All>(written).unwrap(), none);
    }

    #[test]
    fn what_is_no_unsigned_integer_is_refused() {
        let wrong = [
            json!(-1),
            json!(1.5),
            json!(1e300),
            json!(""),
            json!("+1"),
            json!("-1"),
            json!(" 1"),
            json!("0x1"),
            json!("18446744073709551616"),
            json!("340282366920938463463374607431768211456"),
            json!(true),
            json!([1]),
            json!({}),
        ];
        for wrong in wrong {
            assert!(
                serde_json::from_value::<Big<u64>>(wrong.clone()).is_err(),
                "{wrong}"
            );
        }
        assert!(serde_json::from_value::<Big<u64>>(json!(null)).is_err());
    }

    proptest! {
        #[test]
        fn every_value_is_read_back(value in any::<u64>(), wide in any::<u128>()) {
            let all = All { wide, ..all(value) };
            let text = serde_json::to_string(&all).unwrap();
            prop_assert_eq!(serde_json::from_str::<All>(&text).unwrap(), all);
        }
    }
}
