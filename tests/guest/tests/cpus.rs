//! One CPU, and four: the same work where the driver, its interrupts and its clients have to share, and where there are
//! more of them than this machine may have.

use std::time::Duration;

use nvme_guest::{Machine, Shared};
use serde_json::Value;

fn work(cpus: u32) {
    if !Shared::wanted() {
        return;
    }
    let guest = Machine::new()
        .cpus(cpus)
        .disk("disk", 4 << 20)
        .device("nvme,id=disk,serial=disk,drive=disk,addr=4")
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1"])
        .boot()
        .expect("it boots");
    println!("booted in {:?}", guest.boot_time());
    let function = guest.pci("0000:00:04.0");
    guest.check("mkdir /tmp/models").expect("a folder");
    for mode in ["false", "true", "adaptive"] {
        function.bind("vfio-pci").expect("vfio-pci takes it");
        let text = guest
            .check_for(
                &format!(
                    "NVME_POLLING_MODE={mode} nvme-guest-workload --device vfio:0000:00:04.0 --models /tmp/models \
                     --requests 200 --seed {cpus}"
                ),
                Duration::from_secs(240),
            )
            .unwrap_or_else(|error| panic!("{mode}: {error}"));
        let stats: Value = serde_json::from_str(&text).expect("statistics");
        let queues = stats["queues"].as_array().expect("queues");
        // The admin queue's and one for each CPU.
        assert_eq!(queues.len(), 1 + cpus as usize, "{mode}");
        let interrupts: u64 = queues[1..]
            .iter()
            .map(|queue| queue["interrupts"].as_u64().expect("a number"))
            .sum();
        assert_eq!(mode == "true", interrupts == 0, "{mode}: {interrupts} interrupts");
    }
    let kernel = function.bind_kernel(1).expect("the kernel's driver takes it");
    let disk = kernel.namespace(1).expect("it has it");
    guest
        .check(&format!("cmp /tmp/models/1 {disk}"))
        .expect("the same data");
}

#[test]
fn one_cpu() {
    work(1);
}

#[test]
fn four_cpus() {
    work(4);
}
