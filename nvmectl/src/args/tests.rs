use std::ffi::OsString;

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(rewrite(line.split_whitespace().map(OsString::from)))
}

fn bench(line: &str) -> BenchArgs {
    match parse(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .command
    {
        Command::Bench(bench) => bench,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_queue_depth_in_every_spelling() {
    for line in [
        "--qd32",
        "--qd 32",
        "--qd=32",
        "--iodepth 32",
        "--iodepth=32",
        "--queue-depth 32",
    ] {
        assert_eq!(bench(&format!("nvmectl bench {line}")).qd, 32, "{line}");
    }
    assert!(parse("nvmectl bench --qdx").is_err());
    assert!(
        parse("nvmectl bench --qd32x")
            .unwrap_err()
            .to_string()
            .contains("32x")
    );
    assert!(parse("nvmectl bench -- --qd32").is_err());
}

#[test]
fn fio_spellings() {
    let args = bench(
        "nvmectl bench --rw randrw --rwmixread 70 --block-size 128k --numjobs 2 --runtime 10 --number-ios 5 --randseed 9",
    );
    assert_eq!(args.rw, Some(PatternName::Randrw));
    assert_eq!((args.mix, args.bs, args.jobs), (Some(70), 128 << 10, 2));
    assert_eq!(
        (args.time, args.ios, args.random_seed),
        (Some(10_000_000_000), Some(5), 9)
    );
    assert_eq!(bench("nvmectl bench --rw=readwrite").rw, Some(PatternName::Rw));
    let args = bench(
        "nvmectl bench --rw rw --rwmixwrite 30 --blocksize 8k --runtime 10 --time_based --ramp_time 2 --number_ios 7",
    );
    assert_eq!((args.mix_write, args.bs, args.ios), (Some(30), 8 << 10, Some(7)));
    assert_eq!((args.warmup, args.time_based), (2_000_000_000, true));
    assert!(parse("nvmectl bench --rwmixwrite 30 --rwmixread 70").is_err());
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in [
        "nvmectl --emulate=lba=512 -d 1 --json list",
        "nvmectl list --emulate=lba=512 -d nvme:1 --json",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(cli.global.emulate.as_deref(), Some("lba=512"));
        assert_eq!(cli.global.device_name(), Some(DeviceName::Namespace(1)));
        assert_eq!(cli.global.format(), Format::Json);
    }
    assert_eq!(
        parse("nvmectl --emulate list").unwrap().global.emulate.as_deref(),
        Some("")
    );
    assert_eq!(parse("nvmectl list").unwrap().global.emulate, None);
}

#[test]
fn the_names_people_know() {
    assert!(matches!(
        parse("nvmectl id-ctrl").unwrap().command,
        Command::IdCtrl
    ));
    assert!(matches!(
        parse("nvmectl id-ns --ns 3").unwrap().command,
        Command::IdNs(IdNsArgs { ns: Some(3) })
    ));
    assert!(matches!(
        parse("nvmectl smart-log").unwrap().command,
        Command::Smart(_)
    ));
    assert!(parse("nvmectl id-ctrl --ns 3").is_err());
}

#[test]
fn watch_has_an_interval_of_its_own_choice() {
    let watch = |line: &str| match parse(line).unwrap().command {
        Command::Stats(args) => args.watch,
        other => panic!("{other:?}"),
    };
    assert_eq!(watch("nvmectl stats"), None);
    assert_eq!(watch("nvmectl stats --watch"), Some(1_000_000_000));
    assert_eq!(watch("nvmectl stats --watch 0.1"), Some(100_000_000));
    assert_eq!(watch("nvmectl stats -w 250ms"), Some(250_000_000));
    assert!(parse("nvmectl stats --watch 1ms").is_err());
}

#[test]
fn the_help_says_what_a_number_of_requests_counts() {
    let help = parse("nvmectl bench --help").unwrap_err().to_string();
    assert!(help.contains("Stop after N requests of each job"), "{help}");
}
