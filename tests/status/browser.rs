//! Chromium without a window, spoken to over its DevTools protocol.

use std::cell::RefCell;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::common::until;

/// A browser with one page; killed when dropped.
pub struct Browser {
    child: Child,
    talk: RefCell<Talk>,
    _directory: TempDir,
}

struct Talk {
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    number: u64,
    errors: Vec<String>,
}

impl Browser {
    pub fn start() -> Browser {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromium");
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", directory.path().display())).arg("about:blank");
        command.env("HOME", directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("chromium, which tests/needs.sh installs");
        let port = directory.path().join("DevToolsActivePort");
        let read = || std::fs::read_to_string(&port).unwrap_or_default();
        until("chromium listens", || read().lines().count() == 2);
        let text = read();
        let (port, path) = text.split_once('\n').unwrap();
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{}", path.trim()), stream).unwrap();
        let talk = Talk { socket, session: None, number: 0, errors: Vec::new() };
        let browser = Browser { child, talk: RefCell::new(talk), _directory: directory };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.talk.borrow_mut().session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Asks, and returns the result.
    pub fn call(&self, method: &str, parameters: Value) -> Value {
        let Talk { socket, session, number, errors } = &mut *self.talk.borrow_mut();
        *number += 1;
        let mut call = json!({ "id": number, "method": method, "params": parameters });
        if let Some(session) = session {
            call["sessionId"] = json!(session);
        }
        socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let Message::Text(text) = socket.read().unwrap() else { continue };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == json!(number) {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            let is_error = match said["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => said["params"]["type"] == "error",
                Some("Log.entryAdded") => said["params"]["entry"]["level"] == "error",
                _ => false,
            };
            if is_error {
                errors.push(said["params"].to_string());
            }
        }
    }

    /// What the page has complained of.
    pub fn errors(&self) -> Vec<String> {
        self.talk.borrow().errors.clone()
    }

    /// A window of this size, light or dark.
    pub fn look(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn open(&self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of a JavaScript expression.
    pub fn value(&self, expression: &str) -> Value {
        let result = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text that is shown of what a selector finds.
    pub fn text(&self, selector: &str) -> String {
        let found = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        self.value(&found).as_str().unwrap_or_default().to_owned()
    }

    /// Writes what is shown to a file, where one is wanted.
    pub fn keep_screenshot(&self, name: &str) {
        let Some(directory) = std::env::var_os("SCREENSHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let path = Path::new(&directory).join(name);
        std::fs::write(path, from_base64(shot["data"].as_str().unwrap())).unwrap();
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | DIGITS.iter().position(|it| *it == digit).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its helpers end with its pipes.
        let _ = self.talk.get_mut().socket.get_mut().read(&mut [0]);
    }
}
