//! What the tests of several modules share.

/// Checks where the fields of a bit field lie, against `high:low` (or one bit) from the specification's table: a field with
/// all of its bits set gives exactly these bits of the integer, and reads back. The fields named must cover what the type
/// has, so the bits that no field claims are given as `reserved` and checked too.
macro_rules! assert_bits {
    ($type:ident($int:ty), reserved = $reserved:literal,
     { $($with:ident / $get:ident = $max:expr => $high:literal : $low:literal),* $(,)? }) => {{
        let mut claimed: $int = 0;
        $(
            let expected: $int = (<$int>::MAX >> (<$int>::BITS - 1 - $high)) & (<$int>::MAX << $low);
            let value = $type::new().$with($max);
            assert_eq!(<$int>::from(value), expected, concat!(stringify!($type), ".", stringify!($get)));
            assert_eq!($type::from(expected).$get(), $max);
            assert_eq!($type::from(!expected).$get(), Default::default());
            assert_eq!(claimed & expected, 0);
            claimed |= expected;
        )*
        assert_eq!(!claimed, $reserved, concat!("reserved bits of ", stringify!($type)));
    }};
}

pub(crate) use assert_bits;
