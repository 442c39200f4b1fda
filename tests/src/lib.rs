//! nvme-tests
