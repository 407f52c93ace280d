//! Chromium without a window, driven over its own protocol. It must not know the page.
//!
//! The protocol comes over two pipes, which the shell makes of the child's input and output: neither a
//! port nor a WebSocket is needed, and a browser whose test has died ends by itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<Value>,
    number: u64,
    session: String,
    /// What the page complained of, and what it asked of the network.
    pub complaints: Vec<String>,
    pub addresses: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The browser's program, if there is one.
fn program() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    })
}

impl Browser {
    /// A browser with an empty page; none, and a word of it, where there is no Chromium.
    pub fn start(test: &str) -> Option<Browser> {
        let Some(program) = program() else {
            eprintln!(
                "SKIPPED {test}: no chromium, chromium-browser or google-chrome is installed"
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .arg("-c")
            .arg("exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1")
            .args(["sh", program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--hide-scrollbars"])
            .args(["--disable-component-update", "--disable-sync", "--remote-debugging-pipe"])
            .args(["--disable-dev-shm-usage", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, replies) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                let end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
                let Ok(value) = serde_json::from_slice(&message[..end]) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let (complaints, addresses) = (Vec::new(), Vec::new());
        let mut browser = Browser {
            child,
            requests,
            replies,
            number: 0,
            session: String::new(),
            complaints,
            addresses,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_string();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Asks for something and waits for the answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut request = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        self.requests.flush().unwrap();
        loop {
            let mut message = self.replies.recv_timeout(PATIENCE).expect("the browser is gone");
            if message["id"] == self.number {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => {
                self.complaints.push(parameters["exceptionDetails"].to_string());
            }
            "Runtime.consoleAPICalled" => self.complaints.push(parameters["args"].to_string()),
            "Log.entryAdded" => self.complaints.push(parameters["entry"].to_string()),
            "Network.requestWillBeSent" => {
                let address = parameters["request"]["url"].as_str().unwrap_or_default();
                self.addresses.push(address.to_string());
            }
            _ => {}
        }
    }

    pub fn size(&mut self, width: u32, height: u32, is_phone: bool) {
        let metrics = json!({"width": width, "height": height, "mobile": is_phone,
            "deviceScaleFactor": 1, "screenWidth": width, "screenHeight": height});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.call("Emulation.setTouchEmulationEnabled", json!({"enabled": is_phone}));
    }

    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.wait("document.readyState === 'complete' && location.protocol !== 'about:'");
    }

    /// The value of an expression.
    pub fn value(&mut self, script: &str) -> Value {
        let parameters = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut reply = self.call("Runtime.evaluate", parameters);
        assert!(reply.get("exceptionDetails").is_none(), "{script}: {}", reply["exceptionDetails"]);
        reply["result"]["value"].take()
    }

    pub fn text(&mut self, script: &str) -> String {
        self.value(script).as_str().unwrap_or_default().to_string()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, script: &str) {
        let begun = Instant::now();
        // A page that is being left has no values.
        let script =
            format!("(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()");
        while self.value(&script) != true {
            if begun.elapsed() > PATIENCE {
                let page = self.text("document.body.innerText");
                panic!("never true: {script}\n{page}\n{:?}", self.complaints);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn click(&mut self, selector: &str) {
        let selector = json!(selector);
        self.wait(&format!("document.querySelector({selector})"));
        self.value(&format!("document.querySelector({selector}).click()"));
    }

    /// Types a text where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            _ => panic!("no code for {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key,
                "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// A picture of what is seen, into the folder that `FUNGIBLE_PICTURES` names, if it does.
    pub fn picture(&mut self, name: &str) {
        let Ok(folder) = std::env::var("FUNGIBLE_PICTURES") else { return };
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let script = json!(picture["data"].as_str().unwrap());
        // The browser decodes its own base64, a byte per character.
        let bytes = self.text(&format!("atob({script})"));
        let bytes: Vec<u8> = bytes.chars().map(|character| character as u8).collect();
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
