//! The commands but `curl`.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use claviger_terminal::{
    Credential, CredentialFile, EnrolOptions, EnrolmentCode, EnrolmentLink, Error, Naming, Origin, Realm, Scope,
    Service, SignOnOptions, Source, Terminal, client, session_cache::SessionCache,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    args::{Args, Command, Enrol, Services, ServicesCommand, Share, SignOn},
    curl,
    output::{self, Failure, print},
};

type Outcome = Result<(), Failure>;

pub(crate) async fn run(args: Args) -> Outcome {
    let Args { credential, json, command } = args;
    let path = credential.map_or_else(CredentialFile::default_path, Ok)?;
    match command {
        Command::Enrol(enrol) => self::enrol(path, enrol, json).await,
        Command::Services(services) => self::services(path, services, json).await,
        Command::SignOn(sign_on) => self::sign_on(path, sign_on, json).await,
        Command::Curl(curl) => curl::run(path, curl, json).await,
        Command::Rotate => rotate(path, json).await,
        Command::Status => status(path, json),
    }
}

impl Share {
    /// The options of a sign-on that shares these, with sessions kept on disk.
    pub(crate) fn options(&self) -> Result<SignOnOptions, Failure> {
        let names = self.names.iter().filter(|name| !name.is_empty());
        let share = Scope::new(names).map_err(|error| Failure::local(error.to_string()))?;
        Ok(SignOnOptions { share, cache: true })
    }
}

/// Opens the credential. Where its enrolment is held, waits as `enrol` does.
pub(crate) async fn open(path: PathBuf) -> Result<Terminal, Failure> {
    let terminal = Terminal::open(path).await?;
    let credential = terminal.credential().await?;
    if credential.is_pending()
        && let Err(Error::Held { comparison }) = terminal.await_activation(Duration::ZERO).await
    {
        wait(&terminal, &comparison).await?;
    }
    Ok(terminal)
}

/// Waits for the administrator.
async fn wait(terminal: &Terminal, comparison: &str) -> Outcome {
    let (left, right) = comparison.split_at(comparison.len().min(3));
    eprintln!("Tell your administrator: {left} {right}. Waiting until the digits are compared; Ctrl-C loses nothing.");
    Ok(terminal.await_activation(HELD_LIMIT).await?)
}

async fn enrol(path: PathBuf, enrol: Enrol, json: bool) -> Outcome {
    // Before the code is asked for.
    match CredentialFile::new(&path).try_load()? {
        Some(before) if before.is_pending() => {
            let terminal = open(path.clone()).await?;
            let credential = terminal.credential().await?;
            if !credential.is_pending() {
                return enrolled(&terminal, &credential, json);
            }
        }
        Some(before) if !enrol.replace => return Err(Error::AlreadyEnrolled { path, user: before.user() }.into()),
        _ => {}
    }
    let text = read_code(enrol.user_code_file.as_deref())?;
    let EnrolmentLink { server, realm, spki, code } = link(text.trim(), enrol.server, enrol.realm)?;
    let options = EnrolOptions {
        server,
        realm,
        code,
        ca: enrol.ca.as_deref().map(certificates).transpose()?,
        spki,
        path: path.clone(),
        suite: enrol.suite,
        kem: enrol.kem.map(Into::into),
        replace: enrol.replace,
    };
    let terminal = match Terminal::enrol(options).await {
        Err(Error::Held { comparison }) => {
            let terminal = Terminal::open(path).await?;
            wait(&terminal, &comparison).await?;
            terminal
        }
        outcome => outcome?,
    };
    let credential = terminal.credential().await?;
    enrolled(&terminal, &credential, json)
}

/// What a code with the options, or a link without them, says.
fn link(text: &str, server: Option<Origin>, realm: Option<Realm>) -> Result<EnrolmentLink, Failure> {
    if EnrolmentLink::is_link(text) {
        let link = EnrolmentLink::parse(text)?;
        let differs = |given: Option<&str>, link: &str| given.filter(|given| *given != link).map(str::to_owned);
        let other = differs(server.as_ref().map(Origin::as_str), link.server.as_str())
            .or_else(|| differs(realm.as_ref().map(Realm::as_str), link.realm.as_str()));
        return match other {
            Some(other) => Err(Failure::local(format!(
                "the link is for {} and the realm {}, not for {other}",
                link.server, link.realm
            ))),
            None => Ok(link),
        };
    }
    let code = EnrolmentCode::parse(text).map_err(|error| Failure::local(error.to_string()))?;
    match (server, realm) {
        (Some(server), Some(realm)) => Ok(EnrolmentLink { server, realm, spki: None, code }),
        _ => Err(Failure::local("a code needs `--server URL` and `--realm REALM` too; a link has them in it")),
    }
}

fn enrolled(terminal: &Terminal, credential: &Credential, json: bool) -> Outcome {
    let value = json!({
        "user": credential.user(),
        "realm": credential.realm.as_str(),
        "server": credential.server.as_str(),
        "credential": terminal.path(),
    });
    print(json, &value, || {
        format!(
            "enrolled {} of realm {}; the credential is in {}",
            credential.user(),
            credential.realm,
            terminal.path().display()
        )
    })
}

async fn services(path: PathBuf, services: Services, json: bool) -> Outcome {
    match services.command.unwrap_or(ServicesCommand::List) {
        ServicesCommand::List => {
            let credential = CredentialFile::new(path).load()?;
            print(json, &json!(services_json(&credential.services)), || {
                if credential.services.is_empty() {
                    return "no services; fetch them with `claviger services refresh`, or add one with `claviger \
                            services add SERVICE_ID ORIGIN`"
                        .into();
                }
                credential.services.iter().map(row).collect()
            })
        }
        ServicesCommand::Refresh => {
            let terminal = open(path).await?;
            let rows = terminal.refresh_directory().await?;
            print(json, &json!(services_json(&rows)), || match rows.len() {
                0 => "the directory has no services for you".into(),
                _ => rows.iter().map(row).collect(),
            })
        }
        ServicesCommand::Add { service: id, origin, ca, bind } => {
            let ca = ca.as_deref().map(certificates).transpose()?;
            let service = Service { ca, bind: bind.into(), ..Service::new(id, origin) };
            let text = format!("{} is at {}", service.id, service.origin);
            let value = json!({ "service": service.id.as_str(), "origin": service.origin.as_str() });
            Terminal::open(path).await?.add_service(service).await?;
            print(json, &value, || text)
        }
        ServicesCommand::Remove { origin } => {
            let service = CredentialFile::new(path).update(|credential| credential.remove_service(&origin))?;
            let value = json!({ "service": service.id.as_str(), "origin": service.origin.as_str() });
            print(json, &value, || format!("{} is no longer at {origin}", service.id))
        }
    }
}

async fn sign_on(path: PathBuf, sign_on: SignOn, json: bool) -> Outcome {
    let options = sign_on.share.options()?;
    let terminal = open(path).await?;
    let session = terminal.sign_on_with(&sign_on.target, options).await?;
    output::warn(&terminal);
    let credential = terminal.credential().await?;
    let key = session.key().await?;
    let shown = sign_on.show_key.then(|| Zeroizing::new(String::from_utf8_lossy(key.expose()).into_owned()));
    let value = json!({
        "user": credential.user(),
        "service": key.service,
        "origin": key.origin.as_str(),
        "until": output::time(key.until_ms),
        "key": shown.as_deref(),
    });
    print(json, &value, || {
        let mut text = format!(
            "{} is signed on to {} at {} until {}",
            credential.user(),
            key.service,
            key.origin,
            output::time(key.until_ms)
        );
        if let Some(shown) = shown.as_deref() {
            text.push('\n');
            text.push_str(shown);
        }
        text
    })
}

async fn rotate(path: PathBuf, json: bool) -> Outcome {
    let terminal = open(path).await?;
    let rotated = terminal.rotate().await?;
    print(json, &json!({ "epoch": rotated.epoch, "in_use": rotated.in_use }), || {
        let state = if rotated.in_use { "in use" } else { "stored, and used from the next sign-on on" };
        format!("new keys of epoch {} are {state}", rotated.epoch)
    })
}

fn status(path: PathBuf, json: bool) -> Outcome {
    let file = CredentialFile::new(path);
    let credential = file.load()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let sessions = SessionCache::beside(&file).list(now)?;
    let value = json!({
        "user": credential.user(),
        "realm": credential.realm.as_str(),
        "server": credential.server.as_str(),
        "confirmed": !credential.is_pending(),
        "comparison": credential.comparison(),
        "epoch": credential.epoch,
        "pending_epoch": credential.pending_epoch(),
        "suite": credential.suite.to_string(),
        "kem": credential.kem.to_string(),
        "clock_offset_ms": credential.clock_offset_ms,
        "user_id_sent": credential.naming().as_str(),
        "credential": file.path(),
        "services": services_json(&credential.services),
        "sessions": sessions.iter().map(|key| json!({
            "service": key.service,
            "origin": key.origin.as_str(),
            "until": output::time(key.until_ms),
        })).collect::<Vec<_>>(),
    });
    print(json, &value, || {
        let pending = match credential.comparison().filter(|_| credential.is_pending()) {
            Some(digits) => format!(" (the enrolment is not confirmed yet; to compare: {digits})"),
            None if credential.is_pending() => " (the enrolment is not confirmed yet)".into(),
            None => String::new(),
        };
        let next = credential.pending_epoch().map(|epoch| format!(" (keys of epoch {epoch} wait for their first use)"));
        let mut text = format!(
            "user          {}{pending}\nrealm         {}\nserver        {}\nepoch         {}{}\nsuite         {}\n\
             key agreement {}\nclock offset  {:+.3} s\nuser id sent  {}\ncredential    {}\n",
            credential.user(),
            credential.realm,
            credential.server,
            credential.epoch,
            next.unwrap_or_default(),
            credential.suite,
            credential.kem,
            credential.clock_offset_ms as f64 / 1000.0,
            match credential.naming() {
                Naming::Plain => "plain",
                Naming::Sealed => "sealed to the management server",
                Naming::Handle => "as a handle that changes with each sign-on",
            },
            file.path().display(),
        );
        for service in &credential.services {
            text.push_str(&format!("service       {} at {}{}\n", service.id, service.origin, origin_of(service)));
        }
        for key in &sessions {
            text.push_str(&format!(
                "session       {} at {} until {}\n",
                key.service,
                key.origin,
                output::time(key.until_ms)
            ));
        }
        text
    })
}

/// A line of the list of services.
fn row(service: &Service) -> String {
    let name = service.name.as_deref().map(|name| format!("  {name}")).unwrap_or_default();
    format!("{}  {}{name}{}\n", service.id, service.origin, origin_of(service))
}

fn origin_of(service: &Service) -> &'static str {
    match service.source {
        Source::Hand => "",
        Source::Directory => "  (from the directory)",
    }
}

fn services_json(services: &[Service]) -> Vec<serde_json::Value> {
    let row = |service: &Service| {
        json!({
            "service": service.id.as_str(),
            "origin": service.origin.as_str(),
            "name": service.name,
            "source": service.source.as_str(),
            "bind": service.bind,
        })
    };
    services.iter().map(row).collect()
}

fn certificates(path: &Path) -> Result<String, Failure> {
    let pem =
        fs::read_to_string(path).map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
    client::check_ca(&pem).map_err(|error| Failure::local(format!("{}: {error}", path.display())))?;
    Ok(pem)
}

/// Reads the enrolment code or link from a file, a prompt or standard input.
fn read_code(path: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    // A code has 29 characters, a link a few hundred; more is never taken up.
    let mut text = Zeroizing::new(String::with_capacity(MAX_CODE));
    let read = match path {
        Some(path) => fs::File::open(path).and_then(|file| first_line(file, &mut text)),
        None => {
            if io::stdin().is_terminal() {
                eprint!("Enrolment code or link: ");
                io::stderr().flush()?;
            }
            first_line(io::stdin().lock(), &mut text)
        }
    };
    read.map_err(|error| Error::File {
        action: "read the code from",
        path: path.unwrap_or(Path::new("standard input")).into(),
        source: error,
    })?;
    Ok(text)
}

fn first_line(input: impl Read, text: &mut String) -> io::Result<()> {
    io::BufReader::with_capacity(MAX_CODE, input.take(MAX_CODE as u64)).read_line(text).map(|_| ())
}

const MAX_CODE: usize = 2048;
/// How long a command waits for the administrator.
const HELD_LIMIT: Duration = Duration::from_secs(600);
