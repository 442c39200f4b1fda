use proptest::prelude::*;

use super::*;

fn parse(spec: &str) -> Result<Config, ConfigError> {
    spec.parse()
}

fn message(spec: &str) -> String {
    parse(spec).expect_err(spec).to_string()
}

#[test]
fn an_empty_spec_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
    assert_eq!(parse("  "), Ok(Config::default()));
    assert_eq!(Config::default().to_string(), "");
    assert_eq!(Config::default().validate(), Ok(()));
}

#[test]
fn the_designs_example() {
    let config = parse("size=4GiB,namespaces=2,lba=4096,queues=4,latency=80us,seed=1").unwrap();
    assert_eq!(
        config.namespaces,
        [NamespaceConfig {
            size_bytes: 4 << 30,
            lba_bytes: 4096
        }; 2]
    );
    assert_eq!(config.queues, 4);
    assert_eq!(config.latency, Latency::Fixed { ns: 80_000 });
    assert_eq!(config.seed, 1);
    assert_eq!(
        config.to_string(),
        "size=4GiB,namespaces=2,queues=4,seed=1,latency=80us"
    );
}

#[test]
fn lists_give_each_namespace_its_own() {
    let config = parse("lba=512/4096, size=1MiB/2MiB").unwrap();
    assert_eq!(
        config.namespaces,
        [
            NamespaceConfig {
                size_bytes: 1 << 20,
                lba_bytes: 512
            },
            NamespaceConfig {
                size_bytes: 2 << 20,
                lba_bytes: 4096
            }
        ]
    );
    assert_eq!(
        parse("lba=512/4096,namespaces=3"),
        Err(ConfigError::WrongCount {
            key: "lba",
            listed: 2,
            namespaces: 3
        })
    );
    assert_eq!(
        parse("lba=512/4096/512,size=1GiB/2GiB"),
        Err(ConfigError::WrongCount {
            key: "size",
            listed: 2,
            namespaces: 3
        })
    );
}

#[test]
fn values_in_all_their_forms() {
    let config = parse(
        "latency=lognormal:80us:0.3,write-latency=15us,bandwidth=7GiB/s,mdts=128KiB,backing=file:/tmp/disk.img,\
         timeout=500ms,temperature=0,ready=never,ready-delay=3s,cqr=off,model=A = B",
    )
    .unwrap();
    assert_eq!(
        config.latency,
        Latency::LogNormal {
            median_ns: 80_000,
            sigma: 0.3
        }
    );
    assert_eq!(config.write_latency, Some(Latency::Fixed { ns: 15_000 }));
    assert_eq!(config.bandwidth_bytes_per_s, Some(7 << 30));
    assert_eq!((config.mdts_bytes, config.mdts()), (Some(128 << 10), 5));
    assert_eq!(config.backing, Backing::File("/tmp/disk.img".into()));
    assert_eq!(config.timeout_500ms, 1);
    assert_eq!(config.temperature_kelvin, 0);
    assert_eq!(
        (config.ready, config.ready_delay_ns),
        (Ready::Never, 3_000_000_000)
    );
    assert!(!config.contiguous_queues);
    assert_eq!(config.model, "A = B");
    assert_eq!(
        parse("mdts=none").map(|config| (config.mdts(), config.mdts_bytes)),
        Ok((0, None))
    );
    assert_eq!(parse("depth=65536").map(|config| config.mqes_z()), Ok(65_535));
    assert_eq!(parse("depth=1").map(|config| config.mqes_z()), Ok(0));
}

#[test]
fn errors_name_the_key_the_value_and_what_is_accepted() {
    assert_eq!(
        message("queues=0"),
        "emulator: bad value `0` for `queues`: a number of I/O queue pairs from 1 to 4096"
    );
    assert_eq!(
        message("latency=80"),
        "emulator: bad value `80` for `latency`: none, a time such as 80us, or lognormal:MEDIAN:SIGMA such as \
         lognormal:80us:0.3 (median up to 600s, sigma from 0 to 3)"
    );
    assert_eq!(
        message("mdts=4KiB"),
        "emulator: bad value `4KiB` for `mdts`: a power of two from 8KiB to 4GiB, or none"
    );
    assert_eq!(
        message("seed=1,seed=1"),
        "emulator: `seed` is given more than once; keep one"
    );
    assert_eq!(
        message("fast"),
        "emulator: `fast` is not of the form key=value; write for example size=4GiB,latency=80us"
    );
    assert!(
        message("lattency=80us")
            .starts_with("emulator: unknown key `lattency`, did you mean `latency`?; keys are size,")
    );
    assert!(message("colour=red").starts_with("emulator: unknown key `colour`; keys are size,"));
}

#[test]
fn what_is_refused() {
    for spec in [
        "size=0",
        "size=1000",
        "size=-1",
        "size=+4096",
        "size=4gb",
        "size=65TiB",
        "size=99999999999999999999",
        "size=18446744073709551615TiB",
        "size=1GiB/",
        "namespaces=0",
        "namespaces=129",
        "namespaces=256",
        "lba=520",
        "lba=",
        "backing=disk",
        "backing=file:",
        "queues=4097",
        "depth=0",
        "depth=65537",
        "mdts=12KiB",
        "mdts=8GiB",
        "vectors=0",
        "dstrd=16",
        "timeout=1ms",
        "timeout=128s",
        "cqr=yes",
        "threads=0",
        "seed=18446744073709551616",
        "serial=",
        "serial=123456789012345678901",
        "model=Ü",
        "firmware=123456789",
        "latency=601s",
        "latency=lognormal:80us",
        "latency=lognormal:80us:-1",
        "latency=lognormal:80us:NaN",
        "latency=lognormal:0:1",
        "latency=lognormal:80us:3.5",
        "write-latency=1h",
        "channels=65537",
        "bandwidth=0",
        "temperature=70000K",
        "ready=soon",
        "ready-delay=601s",
        "spin=1",
        "=1",
        "size=1GiB,",
        ",",
    ] {
        let error = parse(spec).expect_err(spec);
        let key = spec.split('=').next().unwrap_or_default();
        assert!(error.to_string().contains(key), "{spec}: {error}");
    }
}

#[test]
fn every_key_has_its_own_name() {
    for (index, key) in SPEC_KEYS.iter().enumerate() {
        assert!(!SPEC_KEYS[..index].contains(key), "{key}");
    }
}

fn identifier(max_len: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![b'!'..=b'+', b'-'..=b'~'], 1..=max_len)
        .prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn latency() -> impl Strategy<Value = Latency> {
    prop_oneof![
        Just(Latency::None),
        (1..=MAX_DELAY_NS).prop_map(|ns| Latency::Fixed { ns }),
        (1..=MAX_DELAY_NS, 0.0..=3.0f64)
            .prop_map(|(median_ns, sigma)| Latency::LogNormal { median_ns, sigma }),
    ]
}

prop_compose! {
    fn namespaces()(
        list in proptest::collection::vec((1u64..1 << 34, any::<bool>()), 1..=128),
        alike: bool,
    ) -> Vec<NamespaceConfig> {
        let mut namespaces: Vec<_> = list
            .into_iter()
            .map(|(blocks, small)| {
                let lba_bytes = if small { 512 } else { 4096 };
                NamespaceConfig { size_bytes: blocks * u64::from(lba_bytes), lba_bytes }
            })
            .collect();
        if alike {
            let first = namespaces[0];
            namespaces.fill(first);
        }
        namespaces
    }
}

prop_compose! {
    fn any_config()(
        (namespaces, latency, write_latency, bandwidth) in
            (namespaces(), latency(), proptest::option::of(latency()), proptest::option::of(1u64..)),
        backing in prop_oneof![
            Just(Backing::Memory),
            Just(Backing::Null),
            "[a-z/.=:]{1,20}".prop_map(|path| Backing::File(path.into())),
        ],
        (queues, depth_entries, mdts, vectors, dstrd, timeout_500ms, mpsmax) in
            (1u16..=4096, 1u32..=65_536, proptest::option::of(13u32..=32), 1u16..=2048, 0u8..=15, any::<u8>(), 0u8..=15),
        (threads, seed, channels, temperature_kelvin) in (1u16..=64, any::<u64>(), 0u32..=65_536, any::<u16>()),
        (serial, model, firmware) in (identifier(20), identifier(40), identifier(8)),
        (spare_percent, used_percent, management) in (0u8..=100, any::<u8>(), prop_oneof![
            Just(ManagementInterface::Off),
            Just(ManagementInterface::On),
            Just(ManagementInterface::Full),
        ]),
        flags: [bool; 6],
        ready in prop_oneof![Just(Ready::Normal), Just(Ready::Never), Just(Ready::CfsOnEnable)],
        delays in proptest::array::uniform3(0..=MAX_DELAY_NS),
    ) -> Config {
        let volatile_cache = flags[4] && flags[3] && matches!(backing, Backing::File(_));
        Config {
            volatile_cache, namespaces, backing, queues, depth_entries, vectors, dstrd, timeout_500ms, mpsmax, threads, seed, serial,
            model, firmware, latency, write_latency, channels, temperature_kelvin, ready,
            spare_percent, used_percent, management,
            mdts_bytes: mdts.map(|log| 1 << log),
            bandwidth_bytes_per_s: bandwidth,
            contiguous_queues: flags[0],
            dbbuf: flags[1],
            wrr: flags[5],
            sgl: flags[2],
            vwc: flags[3],
            ready_delay_ns: delays[0],
            shutdown_delay_ns: delays[1],
            spin_ns: delays[2],
        }
    }
}

proptest! {
    #[test]
    fn what_is_shown_reads_back(config in any_config()) {
        prop_assert_eq!(config.validate(), Ok(()));
        prop_assert_eq!(config.to_string().parse::<Config>(), Ok(config));
    }

    #[test]
    fn no_text_panics_and_what_is_accepted_is_valid(text in "[a-z0-9=,:/.KMGiBu-]{0,60}|\\PC{0,40}") {
        if let Ok(config) = text.parse::<Config>() {
            prop_assert_eq!(config.validate(), Ok(()));
            prop_assert_eq!(config.to_string().parse::<Config>(), Ok(config));
        }
    }

    #[test]
    fn no_value_of_a_real_key_panics(key in proptest::sample::select(&SPEC_KEYS[..]), value in "\\PC{0,24}") {
        if let Ok(config) = format!("{key}={value}").parse::<Config>() {
            prop_assert_eq!(config.validate(), Ok(()));
        }
    }
}
