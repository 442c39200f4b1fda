//! The JSON form of a histogram.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::{HistError, Histogram, SUB_BUCKET_BITS, Unit};
use crate::big_int::Big;

const ENCODING: &str = "hdr-sparse";

/// What is read, before anything about it is believed.
#[derive(Deserialize)]
pub(super) struct HistogramIn {
    encoding: String,
    unit: Unit,
    sub_bucket_bits: u64,
    count: Big<u64>,
    overflow: Big<u64>,
    buckets: Vec<(u64, Big<u64>)>,
}

impl TryFrom<HistogramIn> for Histogram {
    type Error = HistError;

    fn try_from(read: HistogramIn) -> Result<Self, HistError> {
        if read.encoding != ENCODING {
            return Err(HistError::Encoding(read.encoding));
        }
        if read.sub_bucket_bits != u64::from(SUB_BUCKET_BITS) {
            return Err(HistError::Resolution(read.sub_bucket_bits));
        }
        let buckets = read.buckets.into_iter().map(|(index, count)| (index, count.0));
        let histogram = Self::from_buckets(read.unit, buckets, read.overflow.0)?;
        if histogram.count == read.count.0 {
            Ok(histogram)
        } else {
            Err(HistError::Count {
                count: read.count.0,
                sum: histogram.count,
            })
        }
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Histogram", 6)?;
        fields.serialize_field("encoding", ENCODING)?;
        fields.serialize_field("unit", &self.unit)?;
        fields.serialize_field("sub_bucket_bits", &SUB_BUCKET_BITS)?;
        fields.serialize_field("count", &Big(self.count))?;
        fields.serialize_field("overflow", &Big(self.overflow))?;
        fields.serialize_field("buckets", &Buckets(&self.buckets))?;
        fields.end()
    }
}

struct Buckets<'a>(&'a [(u32, u64)]);

impl Serialize for Buckets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&(index, count)| (index, Big(count))))
    }
}
