//! The program as a user meets it: arguments, log, signals, exit status.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};

use crate::client::{Client, DEL_OK, GET_OK, PATIENCE, SET_OK, delete, get, id, reply, set};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_scaler_object_storage_server");

/// The program with its state, its home and its working directory in `directory`, and no variables of ours.
pub fn program(directory: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SCALER_OBJECT_STORAGE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(directory)
        .env("HOME", directory)
        .env_remove("XDG_STATE_HOME")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

fn fails(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let output = program(directory.path()).args(arguments).output().unwrap();
    assert!(!output.status.success());
    output
}

/// The one line that a failed start leaves, where its status is 1.
fn reason(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// A server that runs; killed when it is dropped.
pub struct Running {
    pub child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    /// Every line of its log so far.
    pub log: Vec<String>,
    _directory: Option<TempDir>,
}

impl Running {
    /// Starts it on a free port in a directory of its own.
    pub fn start(arguments: &[&str]) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let mut command = program(directory.path());
        let mut running = Running::spawn(command.arg("tcp://127.0.0.1:0").args(arguments));
        running._directory = Some(directory);
        running
    }

    /// Starts it and waits until its log, which must be on stdout, says that it listens.
    pub fn spawn(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
        let mut running = Running { child, stdout, stderr, log: Vec::new(), _directory: None };
        while !running.log.last().is_some_and(|line| line.contains(": listening on ")) {
            running.read_line();
        }
        running
    }

    pub fn read_line(&mut self) {
        let mut line = String::new();
        if self.stdout.read_line(&mut line).unwrap() == 0 {
            let mut stderr = String::new();
            self.stderr.read_to_string(&mut stderr).unwrap();
            panic!("it ended: {:?} {stderr}", self.log);
        }
        self.log.push(line.trim_end().to_string());
    }

    pub fn address(&self) -> &str {
        let line = self.log.last().unwrap();
        line.split("listening on ").nth(1).unwrap().split(';').next().unwrap()
    }

    pub fn client(&self, identity: &str) -> Client<TcpStream> {
        let socket = TcpStream::connect(self.address().strip_prefix("tcp://").unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { socket };
        client.greet(2, identity.as_bytes());
        client
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end: exit status, the whole log, stderr.
    pub fn ended(mut self) -> (Option<i32>, Vec<String>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.log.extend(rest.lines().map(str::to_string));
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.log), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_and_interrupt_end_it_with_status_0() {
    for signal in ["-TERM", "-INT"] {
        let running = Running::start(&[]);
        running.signal(signal);
        let (code, log, stderr) = running.ended();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{log:?}");
        assert!(log.last().unwrap().ends_with(": stopped"), "{log:?}");
    }
}

/// A terminal that closes, a reload that a unit does not define.
#[test]
fn a_hangup_ends_it_as_sigterm_does_unless_it_was_started_to_ignore_it() {
    let running = Running::start(&["--backend", "memory"]);
    running.signal("-HUP");
    let (code, log, stderr) = running.ended();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{log:?}");
    assert!(log.iter().any(|line| line.contains("SIGHUP: finishing")), "{log:?}");

    let directory = tempfile::tempdir().unwrap();
    let plain = program(directory.path());
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", PROGRAM, "--backend", "memory", "tcp://127.0.0.1:0"]);
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    let running = Running::spawn(&mut command);
    running.signal("-HUP");
    assert_eq!(running.client("still").ask(&set(id(1), b"x", 1)), reply(SET_OK, id(1), 1, b""));
    running.signal("-TERM");
    let (code, log, _) = running.ended();
    assert!(code == Some(0) && log.iter().any(|line| line.contains("SIGTERM: finishing")), "{log:?}");
}

#[test]
fn sigterm_ends_it_though_nobody_reads_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The pipe is full, so that the first line is written for ever.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while std::io::Write::write(&mut writer, &[b'\n'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let socket = directory.path().join("socket");
    let mut command = program(directory.path());
    command.args([&format!("ipc://{}", socket.display()), "--backend", "memory", "-ll", "DEBUG"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    crate::client::eventually("it listens", || socket.exists());
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    crate::client::eventually("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_address_that_a_name_stands_for_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::spawn(program(directory.path()).args(["tcp://localhost:0", "--backend", "memory"]));
    let line = running.log.last().unwrap();
    let port = line.split("tcp://localhost:").nth(1).unwrap().split(' ').next().unwrap();
    let told =
        ["127.0.0.1", "[::1]"].iter().any(|host| line.contains(&format!("tcp://localhost:{port} ({host}:{port});")));
    assert!(told && port != "0", "{line}");
}

#[test]
fn without_a_home_it_asks_for_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    let reason = reason(&command.arg("tcp://127.0.0.1:0").env_remove("HOME").output().unwrap());
    assert!(reason.contains("HOME is not set") && reason.contains("local.path"), "{reason}");
}

#[test]
fn the_directory_is_private_and_one_with_foreign_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::spawn(program(directory.path()).args(["tcp://127.0.0.1:0", "--local-path", "objects"]));
    let mut client = running.client("writer");
    for (number, data) in [(1, vec![1; 10]), (2, vec![2; 3 << 20])] {
        assert_eq!(client.ask(&set(id(number), &data, number)), reply(SET_OK, id(number), number, b""));
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("objects")), 0o700);
    for place in ["objects", "objects/journal"] {
        for entry in fs::read_dir(directory.path().join(place)).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.is_dir() || mode(&path) & 0o077 == 0 || path.ends_with("socket"), "{}", path.display());
        }
    }
    // The server's own working directory, in which `objects` stands.
    for foreign in ["/", "."] {
        let reason =
            reason(&program(directory.path()).args(["tcp://127.0.0.1:0", "--local-path", foreign]).output().unwrap());
        assert!(reason.contains("is not a store's") && reason.contains("local.path"), "{reason}");
    }
    assert_ne!(mode(Path::new("/")), 0o700);
}

#[test]
fn who_waits_for_a_directory_says_for_whom() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["tcp://127.0.0.1:0", "--local-path", "objects", "--local-lock-wait-ms"];
    let first = Running::spawn(program(directory.path()).args(options).arg("1"));
    let mut command = program(directory.path());
    let mut second = command.args(options).arg("200000").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(second.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(&format!("is in use by process {}: waiting", first.child.id())), "{line}");
    first.signal("-TERM");
    assert_eq!(first.ended().0, Some(0));
    line.clear();
    stdout.read_line(&mut line).unwrap();
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(line.contains("listening on"), "{line}");
}

#[test]
fn what_was_configured_and_has_no_effect_is_warned_of_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("scaler.toml");
    fs::write(&config, "[object_storage_sever]\nbackend = 'memory'").unwrap();
    let files = ["cert.pem", "key.pem"].map(|name| directory.path().join(name).display().to_string());
    let mut command = program(directory.path());
    command.args([
        "tcp://127.0.0.1:0",
        "-c",
        config.to_str().unwrap(),
        "--redis-url",
        "redis://h",
        "-tc",
        &files[0],
        "-tk",
        &files[1],
    ]);
    let running = Running::spawn(&mut command);
    for words in
        [["[object_storage_sever]", "[object_storage_server]"], ["backend local", "redis.url"], ["tls_cert", "tcp://"]]
    {
        let told = |line: &&String| line.contains(" WARNING ") && words.iter().all(|word| line.contains(word));
        assert_eq!(running.log.iter().filter(told).count(), 1, "{words:?} {:?}", running.log);
    }
}

#[test]
fn one_line_says_where_it_listens_and_what_it_found() {
    let running = Running::start(&["--backend", "memory"]);
    let line = running.log.last().unwrap().clone();
    let port = running.address().strip_prefix("tcp://127.0.0.1:").unwrap().parse::<u16>().unwrap();
    assert_ne!(port, 0);
    assert!(line.ends_with("; memory backend in memory, 0 objects found"), "{line}");
}

#[test]
fn log_lines_have_the_form_of_the_stock_server() {
    let running = Running::start(&[]);
    let line = running.log.last().unwrap();
    let (time, rest) = line.split_at(24);
    let form: String = time.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    assert_eq!(form, "0000-00-00 00:00:00+0000");
    assert!(rest.starts_with(&format!(" INFO object_storage_server[{}]: ", running.child.id())), "{line}");
}

#[test]
fn the_log_goes_to_every_path_and_is_appended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.log");
    fs::write(&file, "before\n").unwrap();
    let running = Running::start(&["-lp", "/dev/stdout", file.to_str().unwrap(), "-ll", "INFO"]);
    running.signal("-TERM");
    let (_, log, _) = running.ended();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("before\n{}\n", log.join("\n")));
}

#[test]
fn the_log_can_go_to_stderr() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    let command = command.args(["tcp://127.0.0.1:0", "--logging-paths", "/dev/stderr"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    assert!(line.contains("listening on"), "{line}");
    assert_eq!(child.wait_with_output().unwrap().stdout, b"");
}

#[test]
fn the_level_decides_what_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("quiet.log"), directory.path().join("socket"));
    let mut child = program(directory.path())
        .args([&format!("ipc://{}", socket.display()), "-ll", "CRITICAL", "-lcf", "python.conf", "-lp"])
        .args([&file])
        .spawn()
        .unwrap();
    crate::client::eventually("it listens", || socket.exists());
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[test]
fn a_logging_config_file_is_accepted_and_said_to_be_ignored() {
    let running = Running::start(&["-lcf", "python.conf"]);
    let lines: Vec<_> = running.log.iter().filter(|line| line.contains("python.conf")).collect();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains(" WARNING ") && lines[0].contains("ignored"), "{lines:?}");
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    let running = Running::spawn(command.arg("tcp://127.0.0.1:0").env("SCALER_OBJECT_STORAGE_LOCAL_PAHT", "x"));
    assert!(running.log[0].contains(" WARNING ") && running.log[0].contains("SCALER_OBJECT_STORAGE_LOCAL_PATH"));
}

#[test]
fn config_file_environment_and_command_line_meet() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("scaler.toml");
    fs::write(
        &config,
        "[scheduler]\nbind_address = 'tcp://127.0.0.1:1'\n\
         [object_storage_server]\nobject_storage_address = 'tcp://127.0.0.1:1'\nbackend = 'local'\nlogging-level = 'ERROR'",
    )
    .unwrap();
    let mut command = program(directory.path());
    command.args(["-c", config.to_str().unwrap(), "--bind-address-is-positional"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));

    let mut command = program(directory.path());
    command.env("SCALER_OBJECT_STORAGE_LOGGING_LEVEL", "INFO").env("SCALER_OBJECT_STORAGE_BACKEND", "local");
    let running =
        Running::spawn(command.args(["-c", config.to_str().unwrap(), "--backend=memory", "tcp://127.0.0.1:0"]));
    assert!(running.log.last().unwrap().contains("; memory backend"), "{:?}", running.log);
}

#[test]
fn a_port_in_use_is_one_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let reason = reason(&fails(&[&address]));
    assert!(reason.contains(&address) && reason.contains("in use"), "{reason}");
}

#[test]
fn what_is_wrong_at_start_is_one_line_and_status_1() {
    for (arguments, expected) in [
        (&["tcp://127.0.0.1"] as &[&str], "\"tcp://127.0.0.1\" is not an address"),
        (&["tls://127.0.0.1:0"], "--tls-cert"),
        (&["tls://127.0.0.1:0", "-tc", "/no/cert.pem", "-tk", "/no/key.pem"], "/no/cert.pem"),
        (&["tcp://127.0.0.1:0", "-tc", "/no/cert.pem"], "tls_cert and tls_key must be given together"),
        (&["tcp://127.0.0.1:0", "-c", "/no/such.toml"], "/no/such.toml"),
        (&["tcp://127.0.0.1:0", "--logging-paths", "/no/such/directory/log"], "/no/such/directory/log"),
        (&["-lp", "/dev/stdout", "tcp://127.0.0.1:0"], "the address comes first"),
    ] {
        let reason = reason(&fails(arguments));
        assert!(reason.starts_with("scaler_object_storage_server: ") && reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for arguments in [&["--no-such-option"] as &[&str], &["-ll", "LOUD"], &["a", "b"], &["--tls-cert"]] {
        assert_eq!(fails(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// Invariant 12: an argument with a password may stand where it does not belong.
#[test]
fn a_password_in_a_wrong_argument_is_not_shown() {
    let url = "redis://user:hush@127.0.0.1:6379/0";
    for arguments in [
        &[url] as &[&str],
        &["tcp://127.0.0.1:0", url],
        &["--backend", url],
        &["--backend=redis://user:hush@127.0.0.1:6379/0"],
        &["--redis-ulr", url],
        &["--redis-max-object-size-mb", url],
        &["--redis-key-prefix", "p:", "--no-such-option", url],
        &["-lp", "/dev/stdout", url],
        &["--redis-tls-cert", "cert.pem", "--redis-url", url],
    ] {
        let stderr = String::from_utf8(fails(arguments).stderr).unwrap();
        assert!(!stderr.is_empty() && !stderr.contains("hush"), "{stderr}");
    }
}

#[test]
fn help_and_version_are_status_0() {
    for argument in ["-h", "--help", "-V", "--version"] {
        let output = Command::new(PROGRAM).arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stderr, b"");
    }
    let help = String::from_utf8(Command::new(PROGRAM).arg("--help").output().unwrap().stdout).unwrap();
    for option in ["-c, --config", "-lp", "-lcf", "-ll", "-tc", "-tk", "--local-path", "SCALER_OBJECT_STORAGE_BACKEND"]
    {
        assert!(help.contains(option), "{option} is missing in {help}");
    }
}

#[test]
fn the_default_directory_is_in_the_home_of_the_user() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join(".local/state/scaler_object_storage");
    let running = Running::spawn(program(directory.path()).arg("tcp://127.0.0.1:0"));
    let line = running.log.last().unwrap();
    assert!(line.contains(&format!("local backend in {}, 0 objects", state.display())), "{line}");
}

/// Invariant 1: an acknowledged put or delete survives `kill -9`.
#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    command.args(["tcp://127.0.0.1:0", "--local-path", "objects", "--local-max-size-mb", "256"]);
    let content = |number: u64| vec![number as u8; [0, 1, 100, 5000, 1 << 20, 3 << 20][number as usize % 6]];

    let running = Running::spawn(&mut command);
    let mut client = running.client("writer");
    for number in 0..60 {
        assert_eq!(client.ask(&set(id(number), &content(number), number)), reply(SET_OK, id(number), number, b""));
    }
    assert_eq!(client.ask(&delete(id(7), 0)), reply(DEL_OK, id(7), 0, b""));
    running.signal("-KILL");
    assert_eq!(running.ended().0, None);

    let running = Running::spawn(&mut command);
    assert!(running.log.last().unwrap().ends_with("/objects, 59 objects found"), "{:?}", running.log);
    let mut client = running.client("reader");
    for number in (0..60).filter(|number| *number != 7) {
        assert_eq!(client.ask(&get(id(number), number)), reply(GET_OK, id(number), number, &content(number)));
    }
    client.send(&get(id(7), 0));
    client.expect_silence();
}

#[test]
fn a_client_that_waits_does_not_keep_it_from_ending() {
    let running = Running::start(&["--backend", "memory"]);
    let mut client = running.client("waiter");
    client.send(&get(id(1), 0));
    client.expect_silence();
    running.signal("-TERM");
    assert_eq!(running.ended().0, Some(0));
    client.expect_closed();
}

#[test]
fn a_second_server_on_a_directory_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    let first = Running::spawn(command.args(["tcp://127.0.0.1:0", "--local-path", "objects"]));
    let reason = reason(&command.args(["--local-lock-wait-ms", "100"]).output().unwrap());
    assert!(reason.contains(&format!("is in use by process {}", first.child.id())), "{reason}");
    assert_eq!(first.client("after").ask(&set(id(1), b"x", 1)), reply(SET_OK, id(1), 1, b""));
}

#[test]
fn a_server_that_is_told_to_clears_its_store_at_the_start_and_only_then() {
    let directory = tempfile::tempdir().unwrap();
    let found = |arguments: &[&str]| {
        let mut command = program(directory.path());
        let running = Running::spawn(command.args(["tcp://127.0.0.1:0", "--local-path", "objects"]).args(arguments));
        let mut client = running.client("one");
        assert_eq!(client.ask(&set(id(1), b"data", 1)), reply(SET_OK, id(1), 1, b""));
        let line = running.log.last().unwrap().clone();
        running.signal("-TERM");
        assert_eq!(running.ended().0, Some(0));
        line.rsplit(", ").next().unwrap().to_owned()
    };
    assert_eq!(found(&[]), "0 objects found");
    assert_eq!(found(&[]), "1 objects found");
    assert_eq!(found(&["--clear"]), "0 objects found");
    assert_eq!(found(&[]), "1 objects found");
}
