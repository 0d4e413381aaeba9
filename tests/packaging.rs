//! What `packaging/` and the pages about running a server name exists: metrics, settings, programs, answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scaler_object_storage::ObjectStore;
use scaler_object_storage::server::StatusServer;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of a text that begin so, up to what is no letter, digit or underscore.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| text[at..].chars().take_while(|letter| is_part(*letter)).collect())
        .collect()
}

#[test]
fn every_metric_that_alerts_and_dashboards_name_exists() {
    // Which another test compares with what a server says.
    let documented: BTreeSet<String> = read("docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `scaler_object_storage_"))
        .map(|rest| format!("scaler_object_storage_{}", rest.split('`').next().unwrap()))
        .collect();
    assert!(documented.len() > 50);
    let mut named = 0;
    for file in ["packaging/prometheus/alerts.yml", "packaging/grafana/dashboard.json"] {
        for metric in words(&read(file), "scaler_object_storage_") {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            let is_there = documented.contains(&metric) || base.is_some_and(|base| documented.contains(base));
            assert!(is_there, "{file}: there is no metric {metric}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
    let dashboard: serde_json::Value = serde_json::from_str(&read("packaging/grafana/dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

#[test]
fn every_variable_that_deployments_set_is_a_setting() {
    let settings = read("docs/settings.md");
    for file in
        ["packaging/docker/Dockerfile", "packaging/docker/compose.yaml", "packaging/kubernetes/object-storage.yaml"]
    {
        let variables = words(&read(file), "SCALER_OBJECT_STORAGE_");
        assert!(!variables.is_empty(), "{file}");
        for variable in variables {
            let name = variable.strip_prefix("SCALER_OBJECT_STORAGE_").unwrap();
            assert!(settings.contains(&format!("| `{name}` |")), "{file}: there is no setting {variable}");
        }
    }
}

#[test]
fn the_units_are_what_systemd_understands() {
    let directory = tempfile::tempdir().unwrap();
    let mut units: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(top().join("packaging/systemd")).unwrap() {
        let path = entry.unwrap().path();
        let mut unit = fs::read_to_string(&path).unwrap();
        // The programs are not installed where the tests run.
        for program in [
            "/usr/local/bin/scaler_object_storage",
            "/opt/scaler/bin/scaler_scheduler",
            "/opt/scaler/bin/scaler_worker_manager",
        ] {
            unit = unit.replace(&format!("ExecStart={program} "), "ExecStart=/bin/true ");
        }
        let copy = directory.path().join(path.file_name().unwrap());
        fs::write(&copy, unit).unwrap();
        units.push(copy);
    }
    assert_eq!(units.len(), 3);
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It looks at units of the machine as well, which may have faults of their own.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("scaler")).collect();
    assert_eq!(ours, Vec::<&str>::new());
}

#[test]
fn the_images_health_check_says_whether_clients_are_served() {
    let dockerfile = read("packaging/docker/Dockerfile");
    let check = dockerfile.lines().map(str::trim).find_map(|line| line.strip_prefix("CMD [\"bash\"")).unwrap();
    let words: Vec<String> = serde_json::from_str(&format!("[\"bash\"{check}")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let status = StatusServer::listen(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let port = status.local_address().port().to_string();
    let is_healthy = || {
        let arguments = words[1..].iter().map(|word| word.replace("/9100", &format!("/{port}")));
        Command::new(&words[0]).args(arguments).status().unwrap().success()
    };
    assert!(!is_healthy(), "it is being opened");
    let store = ObjectStore::builder().memory().open().unwrap();
    let options = scaler_object_storage::server::ServerOptions::default()
        .with(|options| options.bind_address = "tcp://127.0.0.1:0".parse().unwrap());
    let server = runtime.block_on(scaler_object_storage::server::Server::bind(options, store.clone())).unwrap();
    status.serving(&store, server.watch());
    assert!(is_healthy());
    status.stopping();
    assert!(!is_healthy(), "it is being stopped");
    drop(status);
    assert!(!is_healthy(), "it is gone");
}
