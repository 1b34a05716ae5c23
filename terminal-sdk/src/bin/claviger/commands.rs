//! The commands but `curl`.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use claviger_terminal::{
    Credential, CredentialFile, EnrolOptions, EnrolmentCode, Error, Scope, Service, SignOnOptions, Terminal, client,
    session_cache::SessionCache,
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

async fn enrol(path: PathBuf, enrol: Enrol, json: bool) -> Outcome {
    // Before the code is asked for.
    match CredentialFile::new(&path).try_load()? {
        Some(before) if before.is_pending() => {
            let terminal = Terminal::open(&path).await?;
            let credential = terminal.credential().await?;
            if !credential.is_pending() {
                return enrolled(&terminal, &credential, json);
            }
        }
        Some(before) if !enrol.replace => return Err(Error::AlreadyEnrolled { path, user: before.user() }.into()),
        _ => {}
    }
    let options = EnrolOptions {
        server: enrol.server,
        realm: enrol.realm,
        ca: enrol.ca.as_deref().map(certificates).transpose()?,
        code: read_code(enrol.user_code_file.as_deref())?,
        path,
        suite: enrol.suite,
        kem: enrol.kem.into(),
        replace: enrol.replace,
    };
    let terminal = Terminal::enrol(options).await?;
    let credential = terminal.credential().await?;
    enrolled(&terminal, &credential, json)
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
            print(json, &json!(services_json(&credential)), || {
                if credential.services.is_empty() {
                    return "no services; add one with `claviger services add SERVICE_ID ORIGIN`".into();
                }
                credential.services.iter().map(|service| format!("{}  {}\n", service.id, service.origin)).collect()
            })
        }
        ServicesCommand::Add { service: id, origin, ca } => {
            let ca = ca.as_deref().map(certificates).transpose()?;
            let service = Service { id, origin, ca };
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
    let terminal = Terminal::open(path).await?;
    let session = terminal.sign_on_with(&sign_on.target, options).await?;
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
        "epoch": credential.epoch,
        "suite": credential.suite.to_string(),
        "kem": credential.kem.to_string(),
        "clock_offset_ms": credential.clock_offset_ms,
        "credential": file.path(),
        "services": services_json(&credential),
        "sessions": sessions.iter().map(|key| json!({
            "service": key.service,
            "origin": key.origin.as_str(),
            "until": output::time(key.until_ms),
        })).collect::<Vec<_>>(),
    });
    print(json, &value, || {
        let pending = if credential.is_pending() { " (the enrolment is not confirmed yet)" } else { "" };
        let mut text = format!(
            "user          {}{pending}\nrealm         {}\nserver        {}\nepoch         {}\nsuite         {}\n\
             key agreement {}\nclock offset  {:+.3} s\ncredential    {}\n",
            credential.user(),
            credential.realm,
            credential.server,
            credential.epoch,
            credential.suite,
            credential.kem,
            credential.clock_offset_ms as f64 / 1000.0,
            file.path().display(),
        );
        for service in &credential.services {
            text.push_str(&format!("service       {} at {}\n", service.id, service.origin));
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

fn services_json(credential: &Credential) -> Vec<serde_json::Value> {
    let row = |service: &Service| json!({ "service": service.id.as_str(), "origin": service.origin.as_str() });
    credential.services.iter().map(row).collect()
}

fn certificates(path: &Path) -> Result<String, Failure> {
    let pem =
        fs::read_to_string(path).map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
    client::check_ca(&pem).map_err(|error| Failure::local(format!("{}: {error}", path.display())))?;
    Ok(pem)
}

/// Reads the enrolment code from a file, a prompt or standard input.
fn read_code(path: Option<&Path>) -> Result<EnrolmentCode, Failure> {
    // A code has 29 characters; more is never taken up.
    let mut text = Zeroizing::new(String::with_capacity(MAX_CODE));
    let read = match path {
        Some(path) => fs::File::open(path).and_then(|file| first_line(file, &mut text)),
        None => {
            if io::stdin().is_terminal() {
                eprint!("Enrolment code: ");
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
    EnrolmentCode::parse(text.trim()).map_err(|error| Failure::local(error.to_string()))
}

fn first_line(input: impl Read, text: &mut String) -> io::Result<()> {
    io::BufReader::with_capacity(MAX_CODE, input.take(MAX_CODE as u64)).read_line(text).map(|_| ())
}

const MAX_CODE: usize = 256;
