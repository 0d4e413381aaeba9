//! Reading the config file and the environment into one table of settings.

use std::path::Path;

use toml::{Table, Value};

use super::{SECTION, Values, setting::Setting, settings};
use crate::error::Error;

/// Other names that keys have had: old name, name.
const FORMER_KEYS: [(&str, &str); 1] = [("object_storage_address", "bind_address")];

/// Settings that are gone: their keys, and what is in their place.
pub(super) const GONE: [(&str, &str); 1] = [(
    "local.slots",
    "this setting is gone: processes of one machine now share one directory by attaching to it, as linked workers do by themselves and \
     other programs with ObjectStore.attach; leave it out",
)];

/// The settings in our section of a config file; the other sections belong to other programs.
pub(super) fn read(path: &Path) -> Result<Values, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let mut file: Table = toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
        let hint = if text.lines().nth(line - 1).is_some_and(lacks_quotes) { "; a text stands in quotes" } else { "" };
        Error::Config(format!("{}, line {line}: {}{hint}", path.display(), error.message().replace('\n', "; ")))
    })?;
    match file.remove(SECTION) {
        None => Ok(Values::new()),
        Some(Value::Table(section)) => {
            checked(section, |place, reason| format!("{}: {SECTION}.{place}: {reason}", path.display()))
        }
        Some(_) => Err(Error::Config(format!("{}: {SECTION}: this is the name of a section", path.display()))),
    }
}

/// Whether the value in this line is a text without quotes. It is not shown: it may be a password.
fn lacks_quotes(line: &str) -> bool {
    let value = line.split_once('=').map(|(_, value)| value.trim()).unwrap_or_default();
    value.starts_with(|first: char| first.is_alphabetic() || "/~.$".contains(first))
        && !["true", "false"].contains(&value)
}

/// The settings in a table that is built as our section is; `describe` makes a message of the key and of what is wrong there.
pub(super) fn checked(section: Table, describe: impl Fn(&str, &str) -> String) -> Result<Values, Error> {
    let mut reader = Reader { describe, values: Values::new() };
    reader.table("", section)?;
    Ok(reader.values)
}

struct Reader<F> {
    describe: F,
    values: Values,
}

impl<F: Fn(&str, &str) -> String> Reader<F> {
    /// Takes the settings of the section (`within` is empty) or of a table in it (`within` is `local.`, say).
    fn table(&mut self, within: &str, table: Table) -> Result<(), Error> {
        for (written, value) in table {
            let name = format!("{within}{}", written.replace('-', "_"));
            let former = FORMER_KEYS.iter().find(|(former, _)| *former == name);
            let key = former.map_or(name.as_str(), |(_, key)| *key);
            let place = format!("{within}{written}");
            if let Some(setting) = settings().find(|setting| setting.key == key) {
                let value = setting.checked(value).map_err(|reason| self.error(&place, &reason))?;
                if self.values.insert(setting.key, value).is_some() {
                    return Err(self.error(&place, &format!("{key} is given twice, under two spellings; keep one")));
                }
            } else if tables().any(|table| table == key) {
                match value {
                    Value::Table(inner) => self.table(&format!("{key}."), inner)?,
                    _ => return Err(self.error(&place, &format!("this is a section: write [{SECTION}.{key}]"))),
                }
            } else {
                return Err(self.error(&place, &unknown(key, &value)));
            }
        }
        Ok(())
    }

    fn error(&self, place: &str, reason: &str) -> Error {
        Error::Config((self.describe)(place, reason))
    }
}

/// The names of the tables within the section.
fn tables() -> impl Iterator<Item = &'static str> {
    settings().filter_map(|setting| setting.key.split_once('.')).map(|(table, _)| table)
}

fn unknown(key: &str, value: &Value) -> String {
    if let Some((_, reason)) = GONE.iter().find(|(gone, _)| *gone == key) {
        return (*reason).to_owned();
    }
    if value.is_table() {
        let mut known: Vec<_> = tables().map(|table| format!("[{SECTION}.{table}]")).collect();
        known.dedup();
        return format!("there is no such section; the sections are {}", known.join(", "));
    }
    match nearest(key) {
        Some(setting) => format!("there is no such setting; the nearest is {SECTION}.{}", setting.key),
        None => "there is no such setting".to_string(),
    }
}

/// The setting whose name is most like this one.
pub(super) fn nearest(key: &str) -> Option<&'static Setting> {
    let bare = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let likeness =
        |setting: &Setting| strsim::jaro_winkler(setting.key, key).max(strsim::jaro_winkler(bare(setting.key), key));
    settings().max_by(|left, right| likeness(left).total_cmp(&likeness(right)))
}
