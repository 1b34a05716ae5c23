//! Rotation and enrolment over a network that loses, repeats and delays
//! messages, with a kill of either side at each step: nobody is locked out.
//!
//! A proxy stands between the real terminal and the real daemon; it follows a
//! plan for the messages of one exchange.

use std::{
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_daemon::net::{
    Body, Handler, Peer, Server, client::https_client, full, read_body, text, tls::client_config, tls::server_config,
};
use claviger_testkit::{Deployment, Layout, REALM, SERVICE, Terminal, run, run_with_input};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;

use crate::support::{Running, start};

/// What happens to one message and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// The message does not arrive.
    LoseRequest,
    /// The message arrives, its answer does not.
    LoseAnswer,
    /// The message arrives twice; the terminal gets the first answer.
    Duplicate,
    /// The answer waits until the terminal was killed.
    KillTerminal,
    /// The daemon is killed before the message arrives, and started again.
    KillBefore,
    /// The daemon is killed after it has answered; the answer is lost.
    KillAfter,
}

const FAULTS: [Fault; 6] =
    [Fault::LoseRequest, Fault::LoseAnswer, Fault::Duplicate, Fault::KillTerminal, Fault::KillBefore, Fault::KillAfter];

/// A TLS proxy in front of a daemon's listener.
struct Proxy {
    url: String,
    state: Arc<State>,
    /// Keeps it running.
    _runtime: Runtime,
}

struct State {
    target: String,
    ca: std::path::PathBuf,
    /// Paths that count as messages of the exchange.
    path: &'static str,
    plan: Mutex<Vec<Fault>>,
    holding: AtomicBool,
    killed: Notify,
    /// Set when the daemon must be killed, and cleared when it runs again.
    restart: Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Proxy {
    fn start(deployment: &Deployment, target: &str, path: &'static str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pki = deployment.directory().join("pki");
        let name = format!("proxy{}", target.rsplit(':').next().unwrap());
        let directory = pki.display().to_string();
        let mut issue = deployment.clavigerd(&["pki", "issue", &directory, "server", &name, "--dns", "localhost"]);
        run(&mut issue).unwrap();
        let tls = server_config(&pki.join(format!("{name}.pem")), &pki.join(format!("{name}.key")), None).unwrap();
        let state = Arc::new(State {
            target: target.to_owned(),
            ca: deployment.ca(),
            path,
            plan: Mutex::default(),
            holding: AtomicBool::new(false),
            killed: Notify::new(),
            restart: Mutex::default(),
        });
        let runtime = Runtime::new().unwrap();
        let guard = runtime.enter();
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        drop(guard);
        let url = format!("https://localhost:{}", server.local_addr().port());
        let handler = Arc::new(Through(state.clone()));
        runtime.spawn(server.run(Some(tls), handler, CancellationToken::new(), Duration::ZERO));
        Self { url, state, _runtime: runtime }
    }

    /// What happens to the next messages; those behind the plan pass.
    fn plan(&self, faults: &[Fault]) {
        *self.state.plan.lock().unwrap() = faults.to_vec();
        self.state.holding.store(false, Ordering::SeqCst);
    }

    /// Whether the whole plan was carried out.
    fn done(&self) -> bool {
        self.state.plan.lock().unwrap().is_empty()
    }
}

struct Through(Arc<State>);

#[async_trait]
impl Handler for Through {
    async fn handle(&self, request: Request<hyper::body::Incoming>, _: Peer) -> Response<Body> {
        self.0.pass(request).await.unwrap_or_else(|error| text(StatusCode::BAD_GATEWAY, &error))
    }
}

impl State {
    async fn pass(&self, request: Request<hyper::body::Incoming>) -> Result<Response<Body>, String> {
        let (head, body) = request.into_parts();
        let body = read_body(body, 1 << 20).await.map_err(|error| error.to_string())?;
        let fault = {
            let mut plan = self.plan.lock().unwrap();
            if head.uri.path() != self.path || plan.is_empty() { Fault::None } else { plan.remove(0) }
        };
        let lost = || Err("lost by the test".to_owned());
        match fault {
            Fault::None => self.forward(&head, body).await,
            Fault::LoseRequest => lost(),
            Fault::LoseAnswer => {
                self.forward(&head, body).await?;
                lost()
            }
            Fault::Duplicate => {
                let first = self.forward(&head, body.clone()).await;
                let _ = self.forward(&head, body).await;
                first
            }
            Fault::KillTerminal => {
                let answer = self.forward(&head, body).await;
                self.holding.store(true, Ordering::SeqCst);
                self.killed.notified().await;
                answer
            }
            Fault::KillBefore => {
                self.restart_daemon().await;
                self.forward(&head, body).await
            }
            Fault::KillAfter => {
                self.forward(&head, body).await?;
                self.restart_daemon().await;
                lost()
            }
        }
    }

    /// Has the test kill the daemon, which it owns, and start it again.
    async fn restart_daemon(&self) {
        if let Some(restart) = self.restart.lock().unwrap().as_ref() {
            restart.send(()).unwrap();
        }
        self.killed.notified().await;
    }

    async fn forward(&self, head: &http::request::Parts, body: Bytes) -> Result<Response<Body>, String> {
        let tls = client_config(Some(&self.ca), None, None).map_err(|error| error.to_string())?;
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::builder().method(head.method.clone()).uri(format!("{}{path}", self.target));
        for name in ["content-type", "authorization"] {
            if let Some(value) = head.headers.get(name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(full(body)).map_err(|error| error.to_string())?;
        let response = https_client(tls).request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let mut answer = Response::new(full(body));
        *answer.status_mut() = head.status;
        if let Some(kind) = head.headers.get("content-type") {
            answer.headers_mut().insert("content-type", kind.clone());
        }
        Ok(answer)
    }
}

/// Runs a terminal's command while the plan is carried out: kills it where the
/// plan says so, and restarts the daemon. Whether the command ended well.
fn run_under(proxy: &Proxy, running: &mut Running, mut child: Child) -> bool {
    let (sender, wanted) = std::sync::mpsc::channel();
    *proxy.state.restart.lock().unwrap() = Some(sender);
    loop {
        if proxy.state.holding.swap(false, Ordering::SeqCst) {
            child.kill().unwrap();
            child.wait().unwrap();
            proxy.state.killed.notify_one();
            return false;
        }
        if wanted.recv_timeout(Duration::from_millis(10)).is_ok() {
            running.deployment.kill_management();
            running.deployment.start_management().unwrap();
            proxy.state.killed.notify_one();
        }
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
    }
}

fn spawn(terminal: &Terminal, args: &[&str]) -> Child {
    let mut command = terminal.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Signs on, at most three times: each failure must be one that a retry heals.
fn must_sign_on(terminal: &Terminal, what: &str) {
    let mut failures = Vec::new();
    for _ in 0..3 {
        match terminal.run(&["sign-on", SERVICE]) {
            Ok(_) => return,
            Err(error) => failures.push(error),
        }
    }
    panic!("{what}: locked out: {failures:?}");
}

fn enrol_command(terminal: &Terminal, proxy: &Proxy, deployment: &Deployment, code: &str) -> Child {
    let file = deployment.directory().join("code");
    std::fs::write(&file, code).unwrap();
    let (ca, code) = (deployment.ca().display().to_string(), file.display().to_string());
    spawn(terminal, &["enrol", "--server", &proxy.url, "--ca", &ca, "--realm", REALM, "--user-code-file", &code])
}

/// A user enrolled through the proxy in front of the terminals' listener.
fn enrolled(running: &Running, proxy: &Proxy, id: &str) -> Terminal {
    let deployment = &running.deployment;
    deployment.admin(&["user", "add", id]).unwrap();
    let terminal = deployment.terminal(id);
    let code = deployment.enrolment_code(id).unwrap();
    let ca = deployment.ca().display().to_string();
    let args = ["enrol", "--server", &proxy.url, "--ca", &ca, "--realm", REALM];
    run_with_input(&mut terminal.command(&args), &format!("{code}\n")).unwrap();
    terminal
}

#[test]
fn a_rotation_that_fails_anywhere_locks_nobody_out() {
    let mut running = start(Layout::AllInOne);
    let manager = Proxy::start(&running.deployment, &running.deployment.terminals_url(), "/idb/v1/rotate");
    let service = Proxy::start(&running.deployment, &running.deployment.origin(), "/idb/v1/sign-on");
    for fault in FAULTS {
        // At the rotation itself, and then at the first use of the new keys.
        for at_first_use in [false, true] {
            let what = format!("{fault:?}, first use: {at_first_use}");
            let id = format!("{fault:?}{at_first_use}").to_lowercase();
            let terminal = enrolled(&running, &manager, &id);
            terminal.run(&["services", "add", SERVICE, &service.url]).unwrap();
            terminal.run(&["sign-on", SERVICE]).unwrap();
            let (proxy, args): (_, &[&str]) = if at_first_use {
                terminal.run(&["rotate"]).unwrap();
                (&service, &["sign-on", SERVICE])
            } else {
                (&manager, &["rotate"])
            };
            proxy.plan(&[fault]);
            let child = spawn(&terminal, args);
            run_under(proxy, &mut running, child);
            assert!(proxy.done(), "{what}: the fault did not happen");
            must_sign_on(&terminal, &what);
            // And a rotation after it works as ever.
            terminal.run(&["rotate"]).unwrap_or_else(|error| panic!("{what}: {error}"));
            must_sign_on(&terminal, &what);
            let status: Value = serde_json::from_str(&terminal.run(&["status", "--json"]).unwrap()).unwrap();
            let user = running.deployment.admin(&["user", "show", &id, "--json"]).unwrap();
            let user: Value = serde_json::from_str(&user).unwrap();
            assert_eq!(status["epoch"], user["epoch"], "{what}");
            assert_eq!(user["state"], "active", "{what}");
        }
    }
}

#[test]
fn an_enrolment_that_fails_anywhere_can_be_ended() {
    let mut running = start(Layout::AllInOne);
    let proxy = Proxy::start(&running.deployment, &running.deployment.terminals_url(), "/idb/v1/enrol");
    for fault in FAULTS {
        // At E1 and its E2, and at E3 and its E4.
        for message in 0..2 {
            let what = format!("{fault:?} at message {message}");
            let id = format!("{fault:?}{message}").to_lowercase();
            running.deployment.admin(&["user", "add", &id]).unwrap();
            let code = running.deployment.enrolment_code(&id).unwrap();
            let terminal = running.deployment.terminal(&id);
            let mut plan = vec![Fault::None; message];
            plan.push(fault);
            proxy.plan(&plan);
            let child = enrol_command(&terminal, &proxy, &running.deployment, &code);
            let ended = run_under(&proxy, &mut running, child);
            assert!(proxy.done(), "{what}: the fault did not happen");
            if !ended {
                // As a user would: the same command again, unless the terminal is enrolled already.
                let again = enrol_command(&terminal, &proxy, &running.deployment, &code);
                run_under(&proxy, &mut running, again);
            }
            let origin = running.deployment.origin();
            terminal.run(&["services", "add", SERVICE, &origin]).unwrap_or_else(|error| panic!("{what}: {error}"));
            must_sign_on(&terminal, &what);
            let user = running.deployment.admin(&["user", "show", &id, "--json"]).unwrap();
            assert!(user.contains("\"active\""), "{what}: {user}");
        }
    }
}
