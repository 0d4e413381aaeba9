//! The config of the server: three sources, their order, and what is said when one is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::path::PathBuf;

use scaler_object_storage::config::{CommandLine, Kind, LoggingLevel, ServerConfig, misspelt_variables, settings};
use scaler_object_storage::{BackendKind, Compression, Durability, Error, ValueFormat};
use tempfile::TempDir;

struct Sources {
    directory: TempDir,
    command_line: CommandLine,
    environment: Vec<(String, String)>,
}

/// No config file, no variables, no arguments.
fn nothing() -> Sources {
    Sources { directory: tempfile::tempdir().unwrap(), command_line: CommandLine::default(), environment: Vec::new() }
}

fn file(text: &str) -> Sources {
    let mut sources = nothing();
    let path = sources.directory.path().join("scaler.toml");
    std::fs::write(&path, text).unwrap();
    sources.command_line.config = Some(path);
    sources
}

impl Sources {
    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((format!("SCALER_OBJECT_STORAGE_{name}"), value.to_string()));
        self
    }

    fn argument(mut self, key: &'static str, words: &[&str]) -> Self {
        self.command_line.settings.insert(key, words.iter().map(ToString::to_string).collect());
        self
    }

    fn load(&self) -> Result<ServerConfig, Error> {
        ServerConfig::load(&self.command_line, self.environment.clone())
    }

    fn config(&self) -> ServerConfig {
        self.load().unwrap()
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn nothing_given_means_the_defaults() {
    let config = nothing().config();
    assert_eq!(config, ServerConfig::default());
    assert_eq!(config.bind_address, "tcp://127.0.0.1:2346");
    assert_eq!(config.identity, "ObjectStorageServer");
    assert_eq!(config.logging_paths, [PathBuf::from("/dev/stdout")]);
    assert_eq!(config.logging_level, LoggingLevel::Info);
    assert_eq!(config.store.backend, BackendKind::Local);
}

#[test]
fn the_defaults_that_the_help_states_are_the_ones_in_effect() {
    let mut sources = nothing();
    for setting in settings() {
        let value = setting.default.split(':').next().unwrap();
        match setting.kind {
            Kind::Number | Kind::Choice(_) => sources = sources.argument(setting.key, &[value]),
            Kind::Text if value == "none" => {}
            Kind::Text | Kind::Paths => sources = sources.argument(setting.key, &[setting.default]),
            Kind::Path => {}
        }
    }
    assert_eq!(sources.config(), ServerConfig::default());
}

#[test]
fn the_command_line_goes_over_the_environment_and_the_environment_over_the_file() {
    let sources = file("[object_storage_server]\nidentity = 'file'\nlogging_level = 'ERROR'\nlocal.path = '/file'")
        .variable("IDENTITY", "environment")
        .variable("LOGGING_LEVEL", "DEBUG")
        .argument("identity", &["command line"]);
    let config = sources.config();
    assert_eq!(config.identity, "command line");
    assert_eq!(config.logging_level, LoggingLevel::Debug);
    assert_eq!(config.store.local.path, PathBuf::from("/file"));
}

#[test]
fn every_setting_can_come_from_each_of_the_three_sources() {
    for setting in settings() {
        let (word, toml) = match setting.kind {
            Kind::Text | Kind::Path => ("/some/text", "'/some/text'"),
            Kind::Paths => ("/some/text", "['/some/text']"),
            Kind::Number => ("4711", "4711"),
            Kind::Choice(words) => (*words.last().unwrap(), &*format!("'{}'", words.last().unwrap()).leak()),
        };
        let complete = |sources: Sources| match setting.key {
            "tls_cert" => sources.argument("tls_key", &["key"]),
            "tls_key" => sources.argument("tls_cert", &["cert"]),
            "redis.tls_cert" => sources.argument("redis.tls_key", &["key"]),
            "redis.tls_key" => sources.argument("redis.tls_cert", &["cert"]),
            _ => sources,
        };
        let from_file = complete(file(&format!("[object_storage_server]\n{} = {toml}", setting.key))).config();
        let name = setting.variable();
        let name = name.strip_prefix("SCALER_OBJECT_STORAGE_").unwrap();
        let from_environment = complete(nothing().variable(name, word)).config();
        let from_command_line = complete(nothing().argument(setting.key, &[word])).config();
        assert_ne!(from_file, ServerConfig::default(), "{}", setting.key);
        assert_eq!(from_file, from_environment, "{}", setting.key);
        assert_eq!(from_file, from_command_line, "{}", setting.key);
    }
}

#[test]
fn a_file_for_a_whole_cluster_is_read_in_either_spelling() {
    let config = file(
        "[scheduler]\nbind_address = 'tcp://127.0.0.1:2345'\nwhatever = true\n\
         [object_storage_server]\nbind-address = 'tcp://10.0.0.1:1'\nlogging-level = 'debug'\nlogging_paths = ['/a', '/b']\n\
         [object_storage_server.local]\npath = '/objects'\nmax-size-mb = 64\ndurability = 'disk'\n\
         [object_storage_server.memory]\nmax_size_mb = 32\n\
         [[worker_manager]]\ntype = 'baremetal_native'",
    )
    .config();
    assert_eq!(config.bind_address, "tcp://10.0.0.1:1");
    assert_eq!(config.logging_level, LoggingLevel::Debug);
    assert_eq!(config.logging_paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.store.local.path, PathBuf::from("/objects"));
    assert_eq!(config.store.local.max_size_mb, 64);
    assert_eq!(config.store.local.durability, Durability::Disk);
    assert_eq!(config.store.memory.max_size_mb, 32);
}

#[test]
fn the_older_name_of_the_address_is_understood() {
    let older = file("[object_storage_server]\nobject_storage_address = 'tcp://10.0.0.1:1'");
    assert_eq!(older.config().bind_address, "tcp://10.0.0.1:1");
    let both = file("[object_storage_server]\nobject-storage-address = 'a'\nbind_address = 'b'").error();
    assert!(both.contains("bind_address is given twice"), "{both}");
}

#[test]
fn logging_paths_may_be_one_path() {
    assert_eq!(file("[object_storage_server]\nlogging_paths = '/a'").config().logging_paths, [PathBuf::from("/a")]);
    let several = nothing().variable("LOGGING_PATHS", "/a:/b").config();
    assert_eq!(several.logging_paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
}

#[test]
fn no_logging_path_is_the_default_one() {
    assert_eq!(nothing().argument("logging_paths", &[]).config().logging_paths, [PathBuf::from("/dev/stdout")]);
}

#[test]
fn an_unknown_setting_is_refused_with_the_nearest_one_and_the_file() {
    for (text, written, nearest) in [
        ("logging_pats = 'x'", "object_storage_server.logging_pats", "object_storage_server.logging_paths"),
        ("bind_adress = 'x'", "object_storage_server.bind_adress", "object_storage_server.bind_address"),
        ("durability = 'disk'", "object_storage_server.durability", "object_storage_server.local.durability"),
        (
            "[object_storage_server.local]\npth = 'x'",
            "object_storage_server.local.pth",
            "object_storage_server.local.path",
        ),
        (
            "[object_storage_server.memory]\nmax-size-gb = 1",
            "object_storage_server.memory.max-size-gb",
            "object_storage_server.memory.max_size_mb",
        ),
    ] {
        let sources = file(&format!("[object_storage_server]\n{text}"));
        let error = sources.error();
        assert!(error.contains(&format!("{written}: there is no such setting; the nearest is {nearest}")), "{error}");
        assert!(error.contains("scaler.toml"), "{error}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_name_and_the_file() {
    for (text, expected) in [
        ("identity = 7", "object_storage_server.identity: 7 is not text"),
        ("logging_paths = [1]", "object_storage_server.logging_paths: 1 is not a list of paths"),
        ("logging_level = 'LOUD'", "object_storage_server.logging_level: \"LOUD\" is not one of CRITICAL, ERROR"),
        ("local.max_size_mb = '1'", "object_storage_server.local.max_size_mb: \"1\" is not a whole number"),
        ("local.max_size_mb = -1", "object_storage_server.local.max_size_mb: -1 is not a whole number"),
        ("local = 1", "object_storage_server.local: this is a section"),
        ("local.durability = true", "object_storage_server.local.durability: true is not one of process, disk"),
    ] {
        let error = file(&format!("[object_storage_server]\n{text}")).error();
        assert!(error.contains(expected) && error.contains("scaler.toml: "), "{error}");
    }
    let error = file("object_storage_server = 1").error();
    assert!(error.contains("this is the name of a section"), "{error}");
}

#[test]
fn a_wrong_value_elsewhere_is_refused_with_the_name_of_its_source() {
    let variable = nothing().variable("MEMORY_MAX_SIZE_MB", "lots").error();
    assert_eq!(variable, "SCALER_OBJECT_STORAGE_MEMORY_MAX_SIZE_MB: \"lots\" is not a whole number from 0");
    let argument = nothing().argument("local.max_size_mb", &["-1"]).error();
    assert_eq!(argument, "--local-max-size-mb: -1 is not a whole number from 0");
    let swallowed = nothing().argument("logging_paths", &["/a", "tcp://127.0.0.1:0"]).error();
    assert!(swallowed.contains("the address comes first"), "{swallowed}");
}

#[test]
fn a_backend_that_does_not_exist_is_refused_with_the_ones_that_do() {
    let error = file("[object_storage_server]\nbackend = 'disk'").error();
    assert!(error.contains("\"disk\" is not one of local, memory, redis, tiered"), "{error}");
    let error = file("[object_storage_server.s3]\nbucket = 'objects'").error();
    for section in ["[object_storage_server.local]", "[object_storage_server.memory]", "[object_storage_server.redis]"]
    {
        assert!(error.contains(section), "{error}");
    }
}

#[test]
fn the_tables_of_every_backend_are_read_whichever_is_chosen() {
    for (backend, kind) in [
        ("local", BackendKind::Local),
        ("memory", BackendKind::Memory),
        ("redis", BackendKind::Redis),
        ("tiered", BackendKind::Tiered),
    ] {
        let config = file(&format!(
            "[object_storage_server]\nbackend = '{backend}'\n[object_storage_server.local]\nlock_wait_ms = 3\n\
             [object_storage_server.redis]\nurl = 'rediss://10.0.0.1'\nkey-prefix = 'p:'\ncompression = 'NONE'\n\
             value_format = 'python'\nobject_ttl_seconds = 60\nwait_replicas = 1\ntls_ca = '/ca.pem'"
        ))
        .config();
        assert_eq!(config.store.backend, kind);
        assert_eq!(config.store.local.lock_wait_ms, 3);
        let redis = config.store.redis;
        assert_eq!((redis.url.as_str(), redis.key_prefix.as_str()), ("rediss://10.0.0.1", "p:"));
        assert_eq!((redis.compression, redis.value_format), (Compression::None, ValueFormat::Python));
        assert_eq!((redis.object_ttl_seconds, redis.wait_replicas), (60, 1));
        assert_eq!(redis.tls_ca, Some(PathBuf::from("/ca.pem")));
    }
}

/// Invariant 12: well-formed or not, where it belongs or not.
#[test]
fn the_password_of_a_url_is_never_shown() {
    for url in [
        "redis://user:hush@localhost:6379/0",
        "redis://:hush@localhost",
        "redis://user:hu sh@localhost hush@somewhere",
        "redis://user:p/hush@localhost",
        "redis://user:p@hush@localhost",
        "redis:/user:hush@localhost",
        "user:hush@localhost",
        ":hush@",
        "redis+unix:///run/redis.sock?db=1&user=me&pass=hush",
        "redis+unix:///run/redis.sock?password=hush&db=1",
    ] {
        let config = nothing().argument("redis.url", &[url]).config();
        assert_eq!(config.store.redis.url, url);
        let mut shown = vec![format!("{config:?}")];
        for setting in settings().filter(|setting| matches!(setting.kind, Kind::Number | Kind::Choice(_))) {
            shown.push(nothing().argument(setting.key, &[url]).error());
            let variable = setting.variable();
            shown.push(nothing().variable(variable.strip_prefix("SCALER_OBJECT_STORAGE_").unwrap(), url).error());
            shown.push(file(&format!("[object_storage_server]\n{} = '{url}'", setting.key)).error());
        }
        if url.contains("://") {
            shown.push(nothing().argument("logging_paths", &["/a", url]).error());
        }
        for text in [
            format!("redis.url = ['{url}']"),
            format!("redis.url = {{ url = '{url}' }}"),
            format!("redis.url = {url}"),
            format!("redis.url = '{url}"),
            format!("redis.url = '{url}'\nredis.url = '{url}'"),
            format!("redis = '{url}'"),
            format!("redis.ulr = '{url}'"),
            format!("local.redis = {{ url = '{url}' }}"),
        ] {
            shown.push(file(&format!("[object_storage_server]\n{text}")).error());
        }
        for shown in shown {
            assert!(!shown.contains("hush") && !shown.contains("hu sh"), "{url}: {shown}");
        }
    }
}

#[test]
fn a_number_that_is_too_large_is_refused_with_its_name() {
    let error = nothing().argument("redis.wait_replicas", &["5000000000"]).error();
    assert!(error.contains("redis.wait_replicas"), "{error}");
}

#[test]
fn a_setting_that_is_gone_names_what_is_in_its_place() {
    for error in [
        file("[object_storage_server]\nlocal.slots = 3").error(),
        file("[object_storage_server.local]\nslots = 1").error(),
        nothing().variable("LOCAL_SLOTS", "3").error(),
    ] {
        assert!(error.to_lowercase().contains("local") && error.contains("ObjectStore.attach"), "{error}");
    }
    nothing().variable("LOCAL_SLOTS", "").config();
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let mut missing = nothing();
    missing.command_line.config = Some("/no/such/file.toml".into());
    assert!(missing.error().contains("/no/such/file.toml"), "{}", missing.error());
    let broken = file("[object_storage_server]\n\nidentity = unquoted").error();
    assert!(broken.contains("scaler.toml, line 3: ") && !broken.contains('\n'), "{broken}");
}

#[test]
fn the_environment_can_name_the_file() {
    let mut sources = file("[object_storage_server]\nidentity = 'file'");
    let path = sources.command_line.config.take().unwrap();
    let sources = sources.variable("CONFIG", path.to_str().unwrap());
    assert_eq!(sources.config().identity, "file");
}

#[test]
fn an_empty_variable_is_none() {
    assert_eq!(nothing().variable("IDENTITY", "").variable("CONFIG", "").config(), ServerConfig::default());
}

#[test]
fn certificate_and_key_belong_together() {
    for (one, other) in [("tls_cert", "tls_key"), ("redis.tls_cert", "redis.tls_key")] {
        for given in [one, other] {
            let error = nothing().argument(given, &["file.pem"]).error();
            assert!(error.contains(&format!("{one} and {other} must be given together")), "{error}");
        }
    }
}

#[test]
fn a_tilde_is_the_home_directory() {
    let home = std::env::home_dir().unwrap();
    assert_eq!(nothing().argument("local.path", &["~/objects"]).config().store.local.path, home.join("objects"));
}

#[test]
fn a_relative_path_is_made_absolute() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(nothing().argument("local.path", &["objects"]).config().store.local.path, here.join("objects"));
}

#[test]
fn misspelt_variables_are_noticed_and_those_of_a_container_platform_are_not() {
    let names = [
        "SCALER_OBJECT_STORAGE_LOCAL_PAHT",
        "SCALER_OBJECT_STORAGE_IDENTITY",
        "SCALER_OBJECT_STORAGE_SERVICE_HOST",
        "SCALER_OBJECT_STORAGE_PORT",
        "SCALER_OBJECT_STORAGE_PORT_2346_TCP_ADDR",
        "HOME",
    ];
    let meant = ("SCALER_OBJECT_STORAGE_LOCAL_PAHT".to_string(), "SCALER_OBJECT_STORAGE_LOCAL_PATH".to_string());
    assert_eq!(misspelt_variables(names.map(str::to_string)), [meant]);
}

#[test]
fn the_page_of_settings_lists_every_setting() {
    let page = include_str!("../docs/settings.md");
    for setting in settings() {
        let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("| `{}` |", setting.key)));
        let row = row.unwrap_or_else(|| panic!("{} is missing", setting.key));
        assert!(setting.key == "bind_address" || row.contains(&format!("`--{}`", setting.flag())), "{row}");
        let default = setting.default.split([':', ' ']).next().unwrap();
        assert!(default == "none" || row.contains(default), "{row}");
    }
}

fn without_effect(sources: &Sources) -> Vec<String> {
    ServerConfig::without_effect(&sources.command_line, sources.environment.clone()).unwrap()
}

#[test]
fn what_has_no_effect_is_named() {
    let told = |text: &str| without_effect(&file(text)).join("\n");
    for (text, words) in [
        ("[object_storage_sever]\nbackend = 'memory'", "[object_storage_sever] has no effect"),
        ("[object-storage-server]\nbackend = 'memory'", "[object-storage-server] has no effect"),
        ("[scheduler]\nx = 1", "there is no section [object_storage_server]"),
        ("backend = 'memory'\n[object_storage_server]", "backend stands outside"),
        ("[object_storage_server.redis]\nurl = 'redis://h'\nkey_prefix = 'a:'", "redis.url, redis.key_prefix"),
        ("[object_storage_server]\nbackend = 'redis'\n[object_storage_server.local]\npath = '/x'", "local.path"),
        ("[object_storage_server]\ntls_cert = '/c'\ntls_key = '/k'", "tls_cert and tls_key have no effect"),
        (
            "[object_storage_server]\nbackend = 'tiered'\n[object_storage_server.redis]\ntls_ca = '/c'",
            "redis.tls_ca has no effect",
        ),
        (
            "[object_storage_server]\nbackend = 'tiered'\n[object_storage_server.local]\nobject_ttl_seconds = 5",
            "there is no effect of local.object_ttl_seconds",
        ),
        (
            "[object_storage_server]\nbackend = 'redis'\n[object_storage_server.redis]\nurl = 'redis+cluster://h'\nwait_replicas = 1",
            "redis.wait_replicas has no effect",
        ),
    ] {
        let told = told(text);
        assert!(told.contains(words) && told.lines().count() == 1, "{text}: {told}");
    }
    let variable = without_effect(&nothing().variable("MEMORY_MAX_SIZE_MB", "5"));
    assert!(variable.len() == 1 && variable[0].contains("memory.max_size_mb"), "{variable:?}");
}

#[test]
fn nothing_is_said_of_what_has_an_effect() {
    for text in [
        "[scheduler]\nbind_address = 'x'\n[object_storage_server]\nbackend = 'local'\n[object_storage_server.local]\npath = '/x'",
        "[object_storage_server]\nbackend = 'local'\n[object_storage_server.local]\nobject_ttl_seconds = 5",
        "[object_storage_server]\nbackend = 'tiered'\nbind_address = 'tls://127.0.0.1:1'\ntls_cert = '/c'\ntls_key = '/k'\n\
         [object_storage_server.local]\npath = '/x'\n[object_storage_server.redis]\nurl = 'rediss://h'\ntls_ca = '/c'",
    ] {
        assert_eq!(without_effect(&file(text)), [] as [&str; 0], "{text}");
    }
    assert_eq!(without_effect(&nothing()), [] as [&str; 0]);
}

#[test]
fn what_a_shell_would_replace_in_a_path_is_refused() {
    for path in ["$HOME/objects", "/data/$USER", "~other/objects"] {
        let error = file(&format!("[object_storage_server.local]\npath = '{path}'")).error();
        assert!(error.contains(path) && error.contains("local.path"), "{error}");
    }
    let home = std::env::home_dir().unwrap();
    assert_eq!(file("[object_storage_server.local]\npath = '~/x'").config().store.local.path, home.join("x"));
}

#[test]
fn small_mistakes_are_told_in_words() {
    let unquoted = file("[object_storage_server]\nbackend = tiered").error();
    assert!(unquoted.contains("line 2") && unquoted.contains("quotes"), "{unquoted}");
    let negative = file("[object_storage_server.local]\nmax_size_mb = -5").error();
    assert!(negative.contains("local.max_size_mb: -5 is not a whole number from 0"), "{negative}");
    let negative = nothing().argument("local.max_size_mb", &["-5"]).error();
    assert!(negative.contains("-5") && negative.contains("is not a whole number from 0"), "{negative}");
}
