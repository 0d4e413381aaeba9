//! What is printed: sizes, ages and times in words, and objects as JSON.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use scaler_object_storage::{Listed, ObjectState};
use serde_json::{Value, json};

use crate::source::to_hex;

/// To the standard output. The error of a reader that has gone is for `main`.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

pub fn line(text: &str) -> io::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// To the standard error; a terminal that is gone is no reason to stop.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut number, mut unit) = (count as f64, "B");
    for next in units {
        if number < 1024.0 {
            break;
        }
        (number, unit) = (number / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{number:.1} {unit}") }
}

/// What the system may not have said.
pub fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// `3d 4h`, `12m 3s`, `0s`.
pub fn seconds(seconds: u64) -> String {
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

pub fn now_ms() -> u64 {
    // A clock that stands before 1970 makes everything new.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// As RFC 3339, in UTC.
pub fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms after 1970"), |time| time.to_string())
}

/// How long ago an object was stored; None where it has no version. One of a clock ahead of this one has age 0.
pub fn age_ms(object: &Listed, now_ms: u64) -> Option<u64> {
    object.version.map(|version| now_ms.saturating_sub(version.ms()))
}

pub fn object(object: &Listed, now_ms: u64) -> Value {
    let reason = match &object.state {
        ObjectState::Damaged { reason } => Some(reason),
        _ => None,
    };
    json!({
        "id": to_hex(object.id.as_bytes()),
        "data_bytes": object.data_bytes,
        "metadata_bytes": object.metadata_bytes,
        "version": object.version.map(|version| version.to_string()),
        "stored_at": object.version.map(|version| time(version.ms())),
        "age_seconds": age_ms(object, now_ms).map(|ms| ms as f64 / 1000.0),
        "expires_at": object.expires_ms.map(time),
        "state": object.state.name(),
        "damage": reason,
        "place": object.place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_told_in_words() {
        let sizes = [0, 1023, 1024, 1536, 5 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
        let times = [0, 59, 723, 3600 * 4 + 60, 86_400 * 3 + 4 * 3600].map(seconds);
        assert_eq!(times, ["0s", "59s", "12m 3s", "4h 1m", "3d 4h"]);
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
