//! Compile-time proof that a structure has the size and the field offsets that the specification's table gives.

/// `layout!(Type, size, { field: offset, ... });`
macro_rules! layout {
    ($type:ty, $size:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

/// `Default` as all zeroes, for structures with arrays too long for the derive.
macro_rules! zeroed_default {
    ($($type:ty),* $(,)?) => {
        $(impl Default for $type {
            /// Every byte zero.
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        })*
    };
}

pub(crate) use {layout, zeroed_default};
