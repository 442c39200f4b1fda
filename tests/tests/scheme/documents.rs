//! Documents: what they hold is the controller's, and anybody may read them.

use nvme_driver::scheme::NodeKind;
use nvme_spec::identify::{IdentifyController, IdentifyNamespace};
use stats_proto::stats::StatsDocument;

use super::*;

#[test]
fn identify_is_what_the_device_says() {
    let driver = start("size=1MiB,lba=512,serial=ABC123,model=Some Disk");
    let client = user(&driver);
    let controller = document(&client, "controller/identify").unwrap();
    let controller = zerocopy_read::<IdentifyController>(&controller);
    assert_eq!(controller.serial().to_string(), "ABC123");
    assert_eq!(controller.model().to_string(), "Some Disk");
    let namespace = document(&client, "1/identify").unwrap();
    assert_eq!(zerocopy_read::<IdentifyNamespace>(&namespace).nsze.get(), 2048);
}

fn zerocopy_read<T: zerocopy::FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).unwrap_or_else(|_| panic!("{} bytes", bytes.len()))
}

/// Whatever the tree shows can be read, by anybody, whole or in pieces.
#[test]
fn every_document_of_the_tree_can_be_read() {
    let driver = start("size=1MiB,namespaces=2");
    let client = user(&driver);
    let mut documents = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in client.list(&directory).unwrap() {
            let path = format!("{directory}/{}", entry.name);
            match entry.kind {
                NodeKind::Directory => directories.push(path),
                NodeKind::BlockDevice => {
                    assert_eq!(client.open(&path, OpenFlags::READ).err(), Some(Errno::EACCES))
                }
                NodeKind::File
                    if ["admin", "bench", "io", "request", "ring"].contains(&entry.name.as_str()) =>
                {
                    assert_eq!(client.open(&path, OpenFlags::READ).err(), Some(Errno::EACCES));
                }
                // Without the query it would be waited for what happens next.
                NodeKind::File if entry.name == "events" => documents.push(path + "?now"),
                NodeKind::File => documents.push(path),
            }
        }
    }
    let of_management = if cfg!(feature = "nvme-mi") { 4 } else { 0 };
    assert_eq!(documents.len(), 5 + 6 + of_management + 2 * 2);
    for path in documents {
        let handle = client.open(&path, OpenFlags::READ).unwrap();
        let (whole, stat) = (read_all(&handle, 1 << 20).unwrap(), handle.stat().unwrap());
        assert_eq!(whole.len() as u64, stat.size_bytes, "{path}");
        // Where nothing was slow there is nothing to say.
        assert!(!whole.is_empty() || path.ends_with("slow"), "{path}");
        // Another snapshot, but as long, and whole.
        let pieces = read_all(&handle, 100).unwrap();
        if path.ends_with("stats") {
            serde_json::from_slice::<StatsDocument>(&pieces).unwrap();
        } else {
            assert_eq!(pieces.len(), whole.len(), "{path}");
        }
    }
}

/// Readers on handles of their own, all at once, while data moves: every snapshot is whole and fits the
/// schema.
#[test]
fn many_readers_see_whole_documents_under_load() {
    let driver = start("size=16MiB");
    let schema = serde_json::from_str(stats_proto::schema::STATS).unwrap();
    let schema = &jsonschema::validator_for(&schema).unwrap();
    let (client, owner) = (&user(&driver), &root(&driver));
    std::thread::scope(|scope| {
        let bench = owner.open("1/bench", OpenFlags::READ_WRITE).unwrap();
        let job = stats_proto::bench::BenchJob {
            queue_depth: 16,
            jobs: 2,
            time_ns: Some(u64::MAX / 4),
            ..Default::default()
        };
        bench.write_at(&serde_json::to_vec(&job).unwrap(), 0).unwrap();
        let readers: Vec<_> = (0..4_usize)
            .map(|number| {
                scope.spawn(move || {
                    let handle = client
                        .open(["controller/stats", "1/stats"][number % 2], OpenFlags::READ)
                        .unwrap();
                    for _ in 0..10 {
                        // The histograms alone are some kilobytes, so this is many pieces.
                        let text = read_all(&handle, 997 + number).unwrap();
                        let value: serde_json::Value = serde_json::from_slice(&text).expect("one snapshot");
                        assert!(schema.is_valid(&value), "{value}");
                    }
                    let log = client.open("controller/log/smart", OpenFlags::READ).unwrap();
                    for _ in 0..50 {
                        assert_eq!(read_all(&log, 4096).unwrap().len(), 512);
                    }
                })
            })
            .collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        drop(bench);
    });
    driver.shutdown().unwrap();
}

#[test]
fn a_log_page_that_the_controller_refuses_is_an_error_of_that_file_alone() {
    use nvme_emulator::{Action, Fault};
    use nvme_spec::{AdminOpcode, LogId, Status};

    let driver = start("size=1MiB");
    let client = user(&driver);
    let refuse = Action::Fail(Status::INVALID_LOG_PAGE.with_dnr(true));
    // CDW10 is at byte 40; its first byte is the page.
    let selftest = LogId::DEVICE_SELF_TEST.0;
    driver
        .device()
        .faults()
        .add(Fault::on_admin(AdminOpcode::GET_LOG_PAGE, refuse).bytes(40, &[selftest], &[0xFF]));
    assert_eq!(
        document(&client, "controller/log/self-test"),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        document(&client, "controller/log/smart").map(|page| page.len()),
        Ok(512)
    );
    driver.device().faults().clear();
    assert_eq!(
        document(&client, "controller/log/self-test").map(|page| page.len()),
        Ok(564)
    );
}
