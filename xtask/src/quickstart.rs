//! `cargo xtask quickstart`: the main job, shown with the real programs.

use std::{
    fs,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use claviger_testkit::{Binaries, Deployment, Layout, REALM, Result, SERVICE, Terminal, Upstream};

use crate::{
    cargo::{self, build_directory, root},
    packages::{self, BUILD},
};

const USER: &str = "alice";

/// What the demonstration runs; other plugins need not be built for it.
const PROGRAMS: [&str; 5] = [
    "--package=claviger-daemon",
    "--package=claviger-terminal",
    "--package=claviger-cipher-aws-lc",
    "--package=claviger-store-sqlite",
    "--package=claviger-issuer-opaque",
];

pub(crate) fn run(once: bool, split: bool) -> Result<()> {
    let started = Instant::now();
    packages::ensure(BUILD)?;
    step("building the daemon, the terminal and the plugins");
    cargo::run(&[&["build"][..], &PROGRAMS].concat())?;
    let built = started.elapsed();

    let directory = root().join("target/quickstart");
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let layout = if split { Layout::Split } else { Layout::AllInOne };
    let upstream = Upstream::start()?;

    step(&format!("an authority, keys and a configuration below {}", relative(&directory)));
    let binaries = Binaries::in_directory(&build_directory())?;
    let mut deployment = Deployment::prepare(binaries, &directory, layout, upstream.address())?;
    show(if split { "clavigerd.toml (management role), service.toml (service role)" } else { "clavigerd.toml" });

    step(if split { "two daemons, which speak mutual TLS" } else { "one daemon with both roles" });
    deployment.start()?;
    for daemon in deployment.daemons() {
        show(&format!("clavigerd runs as process {}", daemon.id()));
    }

    step("the administrator registers the service and adds a user");
    deployment.register_service()?;
    show(&format!("clavigerd service add {SERVICE} --origin {} --release user ...", deployment.origin()));
    deployment.admin(&[
        "user",
        "add",
        USER,
        "--name",
        "Alice Adams",
        "--email",
        "alice@example.org",
        "--group",
        "staff",
    ])?;
    show(&format!("clavigerd user add {USER} --name 'Alice Adams' --email alice@example.org --group staff"));
    let code = deployment.enrolment_code(USER)?;
    show(&format!("clavigerd user enrol-code {USER}"));

    step("the user's terminal enrols with the code, which it reads from standard input");
    let terminal = deployment.terminal(USER);
    terminal.enrol(&deployment, &code)?;
    show(&format!("claviger {}", Terminal::enrol_args(&deployment).join(" ").replace(&root_prefix(), "")));

    step("a request to the service: the terminal asks where services are, signs on, and presents the key it got");
    let url = format!("{}/hello", deployment.origin());
    show(&format!("claviger curl {url}"));
    let answer = terminal.run(&["curl", &url])?;
    println!("\nThe application behind the service received:\n\n{}", answer.trim_end());
    verify(&upstream)?;

    let total = started.elapsed();
    println!(
        "\nDone: enrolled, signed on, and a request reached the application with the user's identity.\n\
         Time: {} (build {}, demonstration {}).",
        seconds(total),
        seconds(built),
        seconds(total.saturating_sub(built)),
    );
    if once {
        return if deployment.stop()? { Ok(()) } else { Err("a daemon did not end well".into()) };
    }
    print_next(&deployment, &terminal);
    wait_for_signal()?;
    println!("\nending");
    deployment.stop().map(|_| ())
}

/// The demonstration counts only if the application saw who it was.
fn verify(upstream: &Upstream) -> Result<()> {
    let seen = upstream.seen();
    let user: Vec<_> = seen.iter().flat_map(|request| request.header("remote-user")).collect();
    if user == [USER] { Ok(()) } else { Err(format!("the application did not receive the user's identity: {seen:?}")) }
}

fn print_next(deployment: &Deployment, terminal: &Terminal) {
    let programs = relative(&build_directory());
    let configuration = relative(&deployment.configuration(0));
    let home = relative(terminal.home());
    println!(
        "\n\
Everything stays up until Ctrl-C. In another terminal window, from this directory:\n\
\n\
  export CLAVIGER_CONFIG={configuration} CLAVIGER_HOME={home} PATH=$PWD/{programs}:$PATH\n\
\n\
  claviger status                                  # the terminal's credential\n\
  claviger curl -i {origin}/       # another request; -H, -d, -X as with curl\n\
  curl --cacert {ca} {origin}/     # refused: no key\n\
  clavigerd user suspend {USER}                    # the next sign-on is refused\n\
  claviger sign-on {SERVICE}\n\
  clavigerd user resume {USER}\n\
  clavigerd plugin list\n\
  curl http://{telemetry}/metrics\n\
\n\
The realm is `{REALM}`; logs and configuration lie in {directory}.",
        origin = deployment.origin(),
        ca = relative(&deployment.ca()),
        telemetry = deployment.telemetry(),
        directory = relative(deployment.directory()),
    );
}

fn wait_for_signal() -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = sender.send(()); // a second signal finds nobody waiting
    })
    .map_err(|error| format!("signals: {error}"))?;
    receiver.recv().map_err(|error| error.to_string())
}

fn step(what: &str) {
    println!("\n==> {what}");
}

fn show(what: &str) {
    println!("    {what}");
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn root_prefix() -> String {
    format!("{}/", root().display())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
