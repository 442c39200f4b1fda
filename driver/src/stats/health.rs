//! The SMART log as the stats document shows it.

use nvme_spec::log::{CriticalWarning, SmartLog, data_units_to_bytes, kelvin_to_celsius};
use stats_proto::stats::Health;
use zerocopy::FromBytes;

/// The 512 bytes of the log, read at `read_monotonic_ns`; `None` if they are not 512.
pub(super) fn health(read_monotonic_ns: u64, log: &[u8]) -> Option<Health> {
    let log = SmartLog::read_from_bytes(log).ok()?;
    // 0 K means that the controller does not say.
    let kelvin = |value: u16| (value != 0).then_some(value);
    let temperature_kelvin = kelvin(log.composite_temperature.get());
    Some(Health {
        read_monotonic_ns,
        critical_warning: log.critical_warning,
        critical_warnings: warnings(log.critical_warning),
        temperature_kelvin,
        temperature_celsius: kelvin_to_celsius(log.composite_temperature.get()),
        available_spare_percent: log.available_spare,
        available_spare_threshold_percent: log.available_spare_threshold,
        percentage_used: log.percentage_used,
        data_units_read: log.data_units_read.get(),
        bytes_read: data_units_to_bytes(log.data_units_read.get()),
        data_units_written: log.data_units_written.get(),
        bytes_written: data_units_to_bytes(log.data_units_written.get()),
        host_read_commands: log.host_read_commands.get(),
        host_write_commands: log.host_write_commands.get(),
        controller_busy_minutes: log.controller_busy_time.get(),
        power_cycles: log.power_cycles.get(),
        power_on_hours: log.power_on_hours.get(),
        unsafe_shutdowns: log.unsafe_shutdowns.get(),
        media_errors: log.media_errors.get(),
        error_log_entries: log.num_err_log_entries.get(),
        warning_temperature_minutes: log.warning_temperature_time.get(),
        critical_temperature_minutes: log.critical_temperature_time.get(),
        temperature_sensors_kelvin: log.temperature_sensors.map(|sensor| kelvin(sensor.get())),
    })
}

fn warnings(bits: u8) -> Vec<String> {
    let warning = CriticalWarning::from(bits);
    let named = [
        (warning.available_spare(), "spare_low"),
        (warning.temperature(), "temperature"),
        (warning.reliability(), "reliability_degraded"),
        (warning.read_only(), "read_only"),
        (warning.memory_backup(), "memory_backup_failed"),
        (warning.persistent_memory(), "persistent_memory_unreliable"),
    ];
    let unnamed = (named.len()..8)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit| format!("bit {bit}"));
    named
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name.to_owned())
        .chain(unnamed)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_reported_is_null_and_units_are_converted() {
        let mut log = [0; 512];
        log[0] = 0b1000_0011;
        log[32] = 3;
        let shown = health(7, &log).unwrap();
        assert_eq!(shown.temperature_kelvin, None);
        assert_eq!(shown.critical_warnings, ["spare_low", "temperature", "bit 7"]);
        assert_eq!((shown.data_units_read, shown.bytes_read), (3, 1_536_000));
        log[1..3].copy_from_slice(&310u16.to_le_bytes());
        log[32..48].fill(0xFF);
        let shown = health(7, &log).unwrap();
        assert_eq!(
            (shown.temperature_kelvin, shown.temperature_celsius),
            (Some(310), Some(37))
        );
        assert_eq!(shown.bytes_read, u128::MAX);
        assert_eq!(health(7, &log[..511]), None);
    }
}
