//! The guest with its controllers, and what is done with each: data written by one driver and read by the other.

use std::fmt;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use nvme_guest::{Guest, Machine, PciFunction, Shared};
use serde_json::Value;

/// Where each controller is, on the bus itself: the slot is the device's number.
pub mod slot {
    pub const PLAIN: u8 = 3;
    pub const BLOCKS_OF_4096: u8 = 4;
    pub const NAMESPACES: u8 = 5;
    /// MDTS 1 (8 KiB) to 7 (512 KiB), each in the slot of this number and its own. 0, no limit, is refused by QEMU.
    pub const MDTS: u8 = 6;
    pub const ONE_QUEUE: u8 = 14;
    pub const TWO_QUEUES: u8 = 15;
    pub const SIXTY_FOUR_QUEUES: u8 = 16;
    pub const ONE_VECTOR: u8 = 17;
    pub const TWO_VECTORS: u8 = 18;
    pub const MEMORY_BUFFER: u8 = 19;
    pub const NO_SHADOW_DOORBELLS: u8 = 20;
    pub const ZONED: u8 = 21;
    pub const BAD_BLOCKS: u8 = 22;
    /// Two controllers of one subsystem.
    pub const SUBSYSTEM_ONE: u8 = 23;
    pub const SUBSYSTEM_TWO: u8 = 24;
    /// Root ports.
    pub const LEAVES: u8 = 25;
    pub const LEAVES_IDLE: u8 = 26;
}

/// The size of most namespaces.
pub const DISK_BYTES: u64 = 4 << 20;

static GUEST: Shared = Shared::new(machine);

fn machine() -> Machine {
    let mut machine =
        Machine::new()
            .cpus(2)
            .memory_mib(1024)
            .modules(&["vfio-pci", "vfio_iommu_type1", "fuse"]);
    let mut simple = |slot: u8, options: &str| {
        let name = format!("d{slot}");
        machine = machine.clone().disk(&name, DISK_BYTES).device(&format!(
            "nvme,id=c{slot},serial=slot{slot},drive={name},addr={slot:#x}{options}"
        ));
    };
    simple(slot::PLAIN, "");
    simple(
        slot::BLOCKS_OF_4096,
        ",logical_block_size=4096,physical_block_size=4096",
    );
    for mdts in 1..8 {
        simple(slot::MDTS + mdts, &format!(",mdts={mdts}"));
    }
    simple(slot::ONE_QUEUE, ",max_ioqpairs=1");
    simple(slot::TWO_QUEUES, ",max_ioqpairs=2,mqes=3");
    simple(slot::SIXTY_FOUR_QUEUES, ",max_ioqpairs=64");
    simple(slot::ONE_VECTOR, ",msix_qsize=1");
    simple(slot::TWO_VECTORS, ",msix_qsize=2");
    simple(slot::MEMORY_BUFFER, ",cmb_size_mb=4");
    simple(slot::NO_SHADOW_DOORBELLS, ",dbcs=off");

    let namespace = |machine: Machine, controller: &str, nsid: u8, options: &str| {
        let name = format!("{controller}-{nsid}");
        machine.disk(&name, DISK_BYTES).device(&format!(
            "nvme-ns,bus={controller},drive={name},nsid={nsid}{options}"
        ))
    };
    let slot = slot::NAMESPACES;
    machine = machine.device(&format!("nvme,id=several,serial=slot{slot},addr={slot:#x}"));
    machine = namespace(machine, "several", 1, "");
    machine = namespace(
        machine,
        "several",
        2,
        ",logical_block_size=4096,physical_block_size=4096",
    );
    machine = namespace(machine, "several", 7, ",logical_block_size=512");

    let slot = slot::ZONED;
    machine = machine.device(&format!("nvme,id=zones,serial=slot{slot},addr={slot:#x}"));
    machine = namespace(machine, "zones", 1, "");
    machine = namespace(machine, "zones", 2, ",zoned=on,zoned.zone_size=1M");

    // Reads of one sector fail, and writes of another.
    let slot = slot::BAD_BLOCKS;
    machine = machine
        .disk("good", DISK_BYTES)
        .argument("-blockdev")
        .argument(
            "driver=blkdebug,node-name=bad,image=good,discard=unmap,\
             inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.sector=2048,inject-error.0.errno=5,\
             inject-error.1.event=none,inject-error.1.iotype=write,inject-error.1.sector=4096,inject-error.1.errno=5",
        )
        .device(&format!(
            "nvme,id=c{slot},serial=slot{slot},drive=bad,addr={slot:#x}"
        ));

    let (one, two) = (slot::SUBSYSTEM_ONE, slot::SUBSYSTEM_TWO);
    machine = machine
        .device("nvme-subsys,id=subsystem,nqn=subsystem")
        .device(&format!(
            "nvme,id=first,serial=subsystem,subsys=subsystem,addr={one:#x}"
        ))
        .device(&format!(
            "nvme,id=second,serial=subsystem,subsys=subsystem,addr={two:#x}"
        ));
    machine = namespace(machine, "first", 1, ",shared=on");
    machine = namespace(machine, "first", 2, ",shared=on,detached=on");

    for slot in [slot::LEAVES, slot::LEAVES_IDLE] {
        let name = format!("d{slot}");
        machine = machine
            .root_port(&format!("rp{slot}"), slot)
            .disk(&name, DISK_BYTES)
            .device(&format!(
                "nvme,id=leaves{slot},serial=slot{slot},drive={name},bus=rp{slot}"
            ));
    }
    machine
}

/// The guest. No driver has any of its controllers until a case gives it to one.
pub fn guest() -> Option<&'static Guest> {
    static PREPARED: Once = Once::new();
    let guest = GUEST.get()?;
    PREPARED.call_once(|| {
        println!("booted in {:?}", guest.boot_time());
        guest
            .check("echo 0 > /sys/bus/pci/drivers_autoprobe && modprobe nvme")
            .expect("the kernel's driver is there");
    });
    Some(guest)
}

/// The function in a slot, for one case at a time.
pub struct Held<'a> {
    function: PciFunction<'a>,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Deref for Held<'a> {
    type Target = PciFunction<'a>;

    fn deref(&self) -> &PciFunction<'a> {
        &self.function
    }
}

/// The function in slot `slot`, once no other case has it.
pub fn function(guest: &Guest, slot: u8) -> Held<'_> {
    static ALONE: [Mutex<()>; 32] = [const { Mutex::new(()) }; 32];
    // A case that has failed leaves nothing that the next would mind.
    let alone = ALONE[usize::from(slot)]
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Held {
        function: guest.pci(&format!("0000:00:{slot:02x}.0")),
        _alone: alone,
    }
}

/// The argument `--device` for a function.
pub fn device(function: &PciFunction<'_>) -> String {
    format!("vfio:{}", function.address())
}

/// Something that takes part in the comparing of data: a controller with its namespaces and how ours is to be used.
#[derive(Clone)]
pub struct Exercise<'a> {
    pub slot: u8,
    pub nsids: &'a [u32],
    /// Environment of ours.
    pub settings: &'a str,
    pub requests: u32,
}

impl Exercise<'_> {
    pub fn new(slot: u8) -> Self {
        Self {
            slot,
            nsids: &[1],
            settings: "",
            requests: 300,
        }
    }

    /// Ours fills the namespaces and does a seeded workload on them; the kernel's driver reads the same then, and
    /// writes some; ours reads that. Returns what ours has counted in the workload.
    pub fn run(&self, guest: &Guest) -> Value {
        let function = function(guest, self.slot);
        let models = format!("/tmp/models-{}", self.slot);
        guest
            .check(&format!("rm -rf {models} && mkdir {models}"))
            .expect("a folder");
        let stats = self.workload(guest, &function, &models, self.requests);
        let kernel = function
            .bind_kernel(self.nsids.len())
            .expect("the kernel's driver takes it");
        for nsid in self.nsids {
            let disk = kernel.namespace(*nsid).expect("it has it");
            guest
                .check(&format!("cmp {models}/{nsid} {disk}"))
                .expect("the kernel's driver reads what ours has written");
            guest
                .check(&format!(
                    "dd if=/dev/urandom of={disk} bs=64k seek=3 count=9 conv=fsync,notrunc && \
                     cat {disk} > {models}/{nsid}"
                ))
                .expect("the kernel's driver writes");
        }
        self.workload(guest, &function, &models, 20);
        guest.check(&format!("rm -r {models}")).expect("removed");
        stats
    }

    fn workload(&self, guest: &Guest, function: &PciFunction<'_>, models: &str, requests: u32) -> Value {
        function.bind("vfio-pci").expect("vfio-pci takes it");
        let text = guest
            .check_for(
                &format!(
                    "env {} nvme-guest-workload --device {} --models {models} --seed {} --requests {requests} \
                     --max-blocks 600",
                    self.settings,
                    device(function),
                    self.slot
                ),
                Duration::from_secs(240),
            )
            .expect("data is as it must be");
        serde_json::from_str(&text).expect("statistics")
    }
}

/// The I/O queues in a document of statistics.
pub fn io_queues(stats: &Value) -> Vec<&Value> {
    stats["queues"]
        .as_array()
        .expect("queues")
        .iter()
        .filter(|queue| queue["qid"] != 0)
        .collect()
}

/// The sum of a counter of all I/O queues.
pub fn sum(stats: &Value, counter: &str) -> u64 {
    io_queues(stats)
        .iter()
        .map(|queue| {
            queue[counter]
                .as_u64()
                .unwrap_or_else(|| panic!("{counter} in {queue}"))
        })
        .sum()
}

/// Says what is wrong with a document, in full.
pub fn check(condition: bool, stats: &Value, what: &dyn fmt::Display) {
    assert!(condition, "{what}: {stats:#}");
}
