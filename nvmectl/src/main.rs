//! nvmectl
fn main() {}
