//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use claviger_terminal::{Bind, KemId, Origin, Realm, ServiceId, SuiteId};

/// Sign on to services with a credential that only this machine and the management server share.
///
/// A terminal is enrolled once, with a code or link from an administrator. It
/// learns from the management server which service is at which origin, or is
/// told so, and `claviger curl` makes requests as the user.
#[derive(Debug, Parser)]
#[command(name = "claviger", version, after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub(crate) struct Args {
    /// The credential's file [default: $CLAVIGER_HOME/credential.json, or claviger/credential.json in
    /// $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, global = true, value_name = "PATH", env = "CLAVIGER_CREDENTIAL")]
    pub(crate) credential: Option<PathBuf>,

    /// Print JSON, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn an enrolment code or link into this terminal's credential
    ///
    /// With a link (`idb1:enrol?…`) nothing else needs to be said. The code or link is read from a file, from a prompt or from standard input; never from the command
    /// line, where others could see it. An enrolment that was broken off after the keys were stored
    /// is finished without a code. In realms where an administrator has to compare six digits with
    /// yours first, the command shows them and waits; breaking it off loses nothing.
    Enrol(Enrol),
    /// The services this terminal may sign on to, and their origins
    Services(Services),
    /// Sign on to a service now
    SignOn(SignOn),
    /// Make an HTTP request as the user, signing on when needed
    ///
    /// The options are those of curl(1). Redirects are not followed; the key is sent to the origin
    /// in the list of services alone, and kept in credential.sessions.json until it ends.
    Curl(Curl),
    /// Get new keys from the management server now
    ///
    /// The management server also asks for it by itself, and then it happens with the next sign-on.
    Rotate,
    /// Whom this terminal belongs to, its keys' epoch, services and sessions; never secrets
    Status,
}

impl Command {
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Curl(curl) if curl.silent)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Enrol {
    /// The management server, such as `https://manager.example:8443`; a link says it
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<Origin>,

    /// The realm, such as `example`; a link says it
    #[arg(long)]
    pub(crate) realm: Option<Realm>,

    /// Certificates (PEM) to trust for every server, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Read the enrolment code or link from this file [default: a prompt or standard input]
    #[arg(long, value_name = "FILE")]
    pub(crate) user_code_file: Option<PathBuf>,

    /// Cipher suite, by its number [default: 0x0001, or the realm's first]
    #[arg(long)]
    pub(crate) suite: Option<SuiteId>,

    /// Key agreement, for forward secrecy [default: x25519mlkem768 where the realm offers it, else x25519]
    #[arg(long, value_enum)]
    pub(crate) kem: Option<Kem>,

    /// Give up the credential that is there for the new one
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kem {
    /// No public-key work on this machine
    None,
    /// X25519
    X25519,
    /// X25519 with ML-KEM-768, against quantum computers
    X25519mlkem768,
}

impl From<Kem> for KemId {
    fn from(kem: Kem) -> Self {
        match kem {
            Kem::None => Self::None,
            Kem::X25519 => Self::X25519,
            Kem::X25519mlkem768 => Self::X25519MlKem768,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Binding {
    /// Nothing, until the service demands it
    None,
    /// A challenge of the service
    Challenge,
    /// The TLS connection: needs one without a proxy in between
    TlsExporter,
}

impl From<Binding> for Bind {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::None => Self::None,
            Binding::Challenge => Self::Challenge,
            Binding::TlsExporter => Self::TlsExporter,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Services {
    #[command(subcommand)]
    pub(crate) command: Option<ServicesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServicesCommand {
    /// List them (the default)
    List,
    /// Say that a service is at an origin. Add only what your administrator has told you
    Add {
        /// Its id, such as shop.example
        service: ServiceId,
        /// Where it is, such as `https://shop.example`
        origin: Origin,
        /// Certificates (PEM) to trust for it, instead of the credential's
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Bind sign-ons to a challenge of the service or to the TLS connection from the start;
        /// otherwise that is done when the service demands it
        #[arg(long, value_enum, default_value = "none")]
        bind: Binding,
    },
    /// Fetch the list of services that you may use from the management server
    ///
    /// It replaces what came from there before. Services that were added by hand stay, and win.
    Refresh,
    /// Forget an origin
    Remove {
        /// Where it is, such as `https://shop.example`
        origin: Origin,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SignOn {
    /// A service id or an origin of the list of services
    #[arg(value_name = "SERVICE_ID|ORIGIN")]
    pub(crate) target: String,

    #[command(flatten)]
    pub(crate) share: Share,

    /// Print the key too. Whoever sees it can use the service as you until it ends
    #[arg(long)]
    pub(crate) show_key: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Share {
    /// What the service may learn of you
    #[arg(long = "share", value_name = "NAMES", value_delimiter = ',', default_value = "user,groups,name,email",
          value_parser = ["user", "groups", "name", "email"])]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Curl {
    /// The URL, at an origin of the list of services
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// The method [default: GET, or POST with data]
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) request: Option<http::Method>,

    /// Send this header, `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,

    /// Send this as a form; `@FILE` sends a file without its line ends, `@-` standard input
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    pub(crate) data: Vec<String>,

    /// Send this as it is; `@FILE` sends a file, `@-` standard input
    #[arg(long, value_name = "DATA", conflicts_with = "data")]
    pub(crate) data_binary: Option<String>,

    /// Write the body to this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Print the status and the headers too
    #[arg(short, long)]
    pub(crate) include: bool,

    /// Print no error messages
    #[arg(short, long)]
    pub(crate) silent: bool,

    /// Fail without printing the body when the status is 400 or more
    #[arg(short, long)]
    pub(crate) fail: bool,

    #[command(flatten)]
    pub(crate) share: Share,
}

const EXAMPLES: &str = "\
Examples:
  claviger enrol                       # then paste the link
  claviger enrol --server https://manager.example:8443 --realm example
  claviger services refresh
  claviger curl https://shop.example/orders";

const LONG_HELP: &str = "\
Examples:
  claviger enrol                       # then paste the link
  claviger enrol --server https://manager.example:8443 --realm example
  claviger services refresh
  claviger curl https://shop.example/orders

Exit status:
  0  done
  1  failed on this machine: files, arguments that do not fit together, a reply that is not valid
  2  the command line is wrong
  3  the management server or the service refused
  4  a server could not be reached, or the service could not reach the management server

Files, readable by their owner alone:
  credential.json           the keys and the list of services; keep it out of backups, since
                            a second live copy makes the management server suspend the user
  credential.json.lock      makes several processes use one counter
  credential.sessions.json  keys of services, until they end";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn there_is_no_way_to_give_the_code_as_an_argument() {
        let line = ["claviger", "enrol", "--server", "https://m", "--realm", "r", "--code", "X"];
        assert!(Args::try_parse_from(line).is_err());
        assert!(Args::try_parse_from(&line[..6]).is_ok());
        assert!(Args::try_parse_from(["claviger", "enrol", "idb1:enrol?code=X"]).is_err());
    }

    #[test]
    fn what_is_shared_by_default_is_the_librarys() {
        let Command::SignOn(sign_on) = Args::try_parse_from(["claviger", "sign-on", "a"]).unwrap().command else {
            panic!("another command")
        };
        assert_eq!(sign_on.share.names, claviger_terminal::terminal::DEFAULT_SCOPE);
    }
}
