//! What can be typed: `clavigerd --help` is made of this.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{config::parse_duration, management::kek::KekId};

/// The Claviger identity broker.
///
/// `clavigerd run` is the daemon. The other commands administer it: those for
/// users, services, plugins and keys speak to the running daemon through its
/// Unix socket, those that make certificates and key files work on files.
#[derive(Debug, Parser)]
#[command(name = "clavigerd", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What every command knows.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Common {
    /// Configuration: a file, or a directory of which all *.toml are merged [default: /etc/claviger]
    #[arg(long, value_name = "PATH", global = true, env = "CLAVIGER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Administration socket of the daemon [default: the one that the configuration names]
    #[arg(long, value_name = "PATH", global = true, env = "CLAVIGER_ADMIN_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Answer with one JSON document on standard output; errors are JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until SIGTERM or SIGINT
    ///
    /// It then finishes what it has begun (`drain.grace`) and ends. Under
    /// systemd it says when it is ready (Type=notify).
    Run,

    /// Say whether the configuration is right, and where it is not
    ///
    /// Reads files and CLAVIGER__... variables; opens no key, certificate or plugin.
    Check,

    /// Show how the running daemon is; exits with 1 when it is not ready
    Status,

    /// Users: add, show, list, suspend, resume, delete, enrolment codes, rotation
    User {
        /// What to do with users.
        #[command(subcommand)]
        command: UserCommand,
    },

    /// Services: register, list, remove
    Service {
        /// What to do with services.
        #[command(subcommand)]
        command: ServiceCommand,
    },

    /// User stores: copy a realm from one into another
    Store {
        /// What to do with stores.
        #[command(subcommand)]
        command: StoreCommand,
    },

    /// Write the realm into an encrypted file
    ///
    /// Holds everything that the user store holds, and is encrypted as a whole for the configured
    /// key-encryption key, without which nobody reads it: keep that one apart. The daemon may go on
    /// serving. The file gets mode 0600, appears when it is whole, and replaces nothing. Any one of
    /// the key-encryption keys opens it, so all of them must be at hand.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup {
        /// The file
        file: PathBuf,
        /// Plugin of the user store [default: management.store]
        #[arg(long, value_name = "PLUGIN")]
        store: Option<String>,
        /// Read a backup to its end instead, to see whether it is whole; opens no store
        #[arg(long, conflicts_with = "store")]
        verify: bool,
        /// Encrypt it for those key-encryption keys that are at hand, if not all are; others will not open it
        #[arg(long, conflicts_with = "verify")]
        missing_keys_ok: bool,
    },

    /// Write a backup into an empty user store
    ///
    /// First reads the whole file, and writes nothing if a single byte of it is not as it was
    /// written. At the end compares the store with the file. If it is interrupted, run it again.
    ///
    /// Every terminal then has its keys rotated after its next sign-on, since whoever has the file
    /// and the key-encryption key has them too. The daemon must not run. What the backup cannot know,
    /// and what to do about it, is in docs/operations.md.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore {
        /// The file that `clavigerd backup` made
        file: PathBuf,
        /// Plugin of the user store [default: management.store]
        #[arg(long, value_name = "PLUGIN")]
        store: Option<String>,
        /// Check file and store, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not have the terminals' keys rotated
        #[arg(long)]
        keep_keys: bool,
    },

    /// Plugins: inspect a file, pin hashes, list or replace those of the running daemon; for authors: begin one, test one
    Plugin {
        /// What to do with plugins.
        #[command(subcommand)]
        command: PluginCommand,
    },

    /// Certificates of a small authority of your own
    Pki {
        /// What to make.
        #[command(subcommand)]
        command: PkiCommand,
    },

    /// Keys at rest: make, show, rotate, seal anew
    Keys {
        /// What to do with keys.
        #[command(subcommand)]
        command: KeysCommand,
    },

    /// A hardware security module that keeps unique keys: make it ready, show it
    Hsm {
        /// What to do with it.
        #[command(subcommand)]
        command: HsmCommand,
    },
}

/// `clavigerd user`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user, who then needs an enrolment code
    Add {
        /// User id: 1 to 128 bytes, printable, without white space and `/`
        id: String,
        /// Full name
        #[arg(long)]
        name: Option<String>,
        /// Mail address
        #[arg(long)]
        email: Option<String>,
        /// A group; repeat for more
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Show one user
    Show {
        /// User id
        id: String,
    },
    /// List all users
    List,
    /// Keep a user from signing on
    Suspend {
        /// User id
        id: String,
        /// Why, for other administrators
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a suspended user sign on again
    Resume {
        /// User id
        id: String,
    },
    /// Delete a user and all keys
    Delete {
        /// User id
        id: String,
        /// Do not ask; needed where standard input is no terminal
        #[arg(long)]
        yes: bool,
    },
    /// Make an enrolment code, shown this once; it replaces an earlier one
    EnrolCode {
        /// User id
        id: String,
        /// How long it may be used, 1m to 30d
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        valid: Duration,
        /// Draw a QR code of the enrolment link, for a terminal with a camera
        #[arg(long)]
        qr: bool,
    },
    /// Confirm an enrolment that waits, where `confirm_enrolments` is set
    ///
    /// Have the user read out the six digits that the terminal shows. Where they are not those of
    /// the terminal that waits, somebody else has used the code.
    Confirm {
        /// User id
        id: String,
        /// The six digits, with or without a space
        #[arg(required = true, num_args = 1..=2)]
        digits: Vec<String>,
    },
    /// Have the keys of a user's terminal rotated after its next sign-on
    ///
    /// After an exposure of keys, or a restore of the store from a backup.
    RequireRotation {
        /// User id
        id: String,
    },
}

/// `clavigerd service`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Register a service
    Add {
        /// Service id: 1 to 128 of a-z 0-9 . -
        id: String,
        /// An https origin under which terminals reach it, such as `https://shop.example`; repeat for more
        #[arg(long = "origin", value_name = "URL")]
        origins: Vec<String>,
        /// An attribute that it may receive where the user agrees: user, name, email, groups; repeat for more
        #[arg(long = "release", value_name = "ATTRIBUTE")]
        release: Vec<String>,
        /// A group whose members may sign on; repeat for more [default: everybody]
        #[arg(long = "allow-group", value_name = "GROUP")]
        allow_groups: Vec<String>,
        /// SHA-256 of its certificate's public key, as `clavigerd pki issue` prints it [default: any certificate of the authority]
        #[arg(long, value_name = "HEX", value_parser = sha256)]
        key_pin: Option<String>,
    },
    /// List all services
    List,
    /// Remove a service: nobody can sign on to it any more
    Remove {
        /// Service id
        id: String,
    },
}

/// `clavigerd store`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy the realm from one user store into another
    ///
    /// Both are stores of plugins that the configuration loads, whichever they are. Copies all records and
    /// all counters, so that nobody has to enrol again and no envelope can be replayed, and compares
    /// both at the end. The target must be empty, or hold what an earlier run has left there: what
    /// is there already is left alone, so an interrupted copy is ended by the same command.
    ///
    /// The daemon must not run, but for a first pass with --online. Then make the target
    /// `management.store`, start the daemon, and take the former store out of use for good.
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate {
        /// Plugin of the store that has the realm
        #[arg(long, value_name = "PLUGIN")]
        from: String,
        /// Plugin of the store that is to have it
        #[arg(long, value_name = "PLUGIN")]
        to: String,
        /// Say what would be copied, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Bring an earlier copy of the same realm up to date: also replace and delete records in the target
        #[arg(long)]
        overwrite: bool,
        /// Copy while the daemon serves, without the comparison at the end; a last run without it must follow
        #[arg(long)]
        online: bool,
    },
}

/// `clavigerd plugin`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Say what a plugin file is, without running anything of it
    Inspect {
        /// The shared library
        file: PathBuf,
    },
    /// List the plugins of the running daemon, and whether their files are others now
    List,
    /// Write the sha256 of the plugins' files into the configuration
    ///
    /// Changes nothing but these values: comments and layout stay. A file that is no plugin for this
    /// daemon, or whose signature is refused, is not pinned, and then nothing is written.
    Pin {
        /// Plugins by their names in the configuration [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Show what would be written
        #[arg(long)]
        dry_run: bool,
    },
    /// Replace a plugin of the running daemon by what its file is now, while users sign on
    ///
    /// The daemon reads its configuration again for this plugin, with the same rules as at its start. When
    /// the new version cannot be taken, the one that runs goes on. For root and the daemon's own user.
    Reload {
        /// The plugin's name in the configuration
        name: String,
    },
    /// Begin a plugin: write a crate that builds, with tests that pass
    ///
    /// The crate lies anywhere and belongs to no workspace. It is built against claviger-plugin-api,
    /// which is not on crates.io: --api says where it is.
    #[command(after_help = NEW_EXAMPLES)]
    New(NewPlugin),
    /// Test a built plugin: the conformance suites of all that it delivers
    ///
    /// Loads the library as the daemon does. Each check has a process of its own, so a plugin that
    /// aborts or hangs fails that check alone. Exits with 1 where a check fails.
    ///
    /// --config is here the plugin's own settings, as in [plugin.config]: a JSON object, or a file *.json.
    /// A store must be new and empty for each check: write {fresh} where its path stands, for which a
    /// new directory is put in each time, or {unique} for a name; --prepare makes what else it needs.
    #[command(after_help = TEST_EXAMPLES)]
    Test(TestPlugin),
}

/// `clavigerd plugin new`
#[derive(Debug, Args)]
pub struct NewPlugin {
    /// Name of the crate and of the plugin: a-z 0-9 - _, beginning with a letter
    #[arg(value_parser = crate_name)]
    pub name: String,
    /// What it is to deliver
    #[arg(long, value_enum)]
    pub kind: PluginKind,
    /// Where the crate is to lie; must be empty or not there [default: NAME in the current directory]
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// claviger-plugin-api: its directory, the URL of a Git repository, or a version of a registry [default: the source
    /// tree of this clavigerd where it is still there, otherwise this version]
    #[arg(long, value_name = "PATH_OR_VERSION")]
    pub api: Option<String>,
}

/// What a new plugin delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PluginKind {
    /// A cipher suite: AES-256-GCM with SHA-256, on aws-lc
    Cipher,
    /// A user store: one journal file
    Store,
    /// An issuer of service authentication keys: opaque keys, of which the hash is kept
    Issuer,
}

/// `clavigerd plugin test`
#[derive(Debug, Args)]
pub struct TestPlugin {
    /// The built library
    pub file: PathBuf,
    /// Make only the checks whose name contains this; repeat for more
    #[arg(long, value_name = "TEXT")]
    pub filter: Vec<String>,
    /// A shell command that is run before each new instance; has $FRESH and $UNIQUE
    #[arg(long, value_name = "COMMAND")]
    pub prepare: Option<String>,
    /// The longest that one call may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub deadline: Duration,
    /// The longest that one check may take
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
    /// Make one check in this process, as standard input says; for the command itself
    #[arg(long, hide = true, value_name = "NAME")]
    pub check: Option<String>,
}

/// `clavigerd pki`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make an authority: ca.pem, ca.key (mode 0600) and the realm, valid for ten years
    Init {
        /// Where; made with mode 0700 if there is none
        directory: PathBuf,
        /// The realm, 1 to 64 of a-z 0-9 . -
        #[arg(long)]
        realm: String,
    },
    /// Issue a certificate: NAME.pem and NAME.key (mode 0600)
    Issue {
        /// The directory of `pki init`
        directory: PathBuf,
        /// For whom.
        #[command(subcommand)]
        subject: SubjectCommand,
    },
}

/// For whom a certificate is.
#[derive(Debug, Subcommand)]
pub enum SubjectCommand {
    /// For `management.services`: manager.pem with the URI idb://REALM/manager
    Manager {
        /// How it is reached, and so on.
        #[command(flatten)]
        names: IssueArgs,
    },
    /// For `service` and `service.manager`: ID.pem with the URI idb://REALM/service/ID, server and client
    Service {
        /// Service id
        id: String,
        /// How it is reached, and so on.
        #[command(flatten)]
        names: IssueArgs,
    },
    /// For `management.terminals` or any other TLS server: NAME.pem
    Server {
        /// Name of the files, a-z 0-9 . -
        name: String,
        /// How it is reached, and so on.
        #[command(flatten)]
        names: IssueArgs,
    },
}

/// How a server is reached, and how its certificate is made.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// A DNS name; repeat for more
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
    /// An IP address; repeat for more
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    pub days: u32,
    /// Renew the certificate of an earlier key, which stays: pins and enrolment links go on to hold
    #[arg(long, conflicts_with = "force")]
    pub renew: bool,
    /// Replace an earlier key and certificate
    #[arg(long)]
    pub force: bool,
}

/// `clavigerd keys`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key-encryption key: 32 random bytes as 64 hex digits, mode 0600; never replaces a file
    Init {
        /// A file for `management.key_encryption_keys`
        file: PathBuf,
    },
    /// Show key-encryption keys, data keys, and how many secrets are sealed under each
    Status,
    /// Make a new data key, wrapped for all configured key-encryption keys
    ///
    /// It seals from half a minute later on, when every daemon has read it. Run `keys rewrap` then.
    Rotate {
        /// A key-encryption key, by its id, that shall open nothing any more; repeat for more
        #[arg(long = "drop", value_name = "KEK_ID", value_parser = kek_id)]
        drop: Vec<String>,
        /// No other daemon uses the store: wait for none
        #[arg(long)]
        sole_daemon: bool,
    },
    /// Seal all secrets under the current data key, and drop data keys that nothing is sealed under
    ///
    /// Also wraps the data keys for key-encryption keys that were configured since. Users sign on
    /// meanwhile. May be interrupted: run it again and it goes on.
    Rewrap {
        /// No other daemon uses the store: wait for none
        #[arg(long)]
        sole_daemon: bool,
        /// Records in one call to the daemon, 1 to 1000
        #[arg(long, value_name = "RECORDS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=1000))]
        page: u16,
    },
    /// Show keys in the custody of a module that no record names, or destroy them
    ///
    /// They are left behind where a daemon or a store fails between a key and its record; they open
    /// nothing, and take room in the module.
    Orphans {
        /// Destroy those that no record names, now and half a minute later
        #[arg(long)]
        destroy: bool,
        /// Destroy them even where they are more than half of the realm's keys (and more than 10),
        /// which looks like a wrong or incomplete user store
        #[arg(long, requires = "destroy")]
        many: bool,
    },
}

fn kek_id(text: &str) -> Result<String, String> {
    text.parse::<KekId>().map(|id| id.to_string())
}

/// `clavigerd hsm`
#[derive(Debug, Subcommand)]
pub enum HsmCommand {
    /// Make the master key in the module, and what proves that its storage is whole
    ///
    /// Leaves alone what is there. Make a backup of the module's token afterwards, with the tool of
    /// its maker: who loses the master key loses all users.
    Init {
        /// The plugin's name [default: the only one that provides custody]
        #[arg(long, value_name = "NAME")]
        plugin: Option<String>,
    },
    /// Show the module: names, versions, counts
    Status {
        /// The plugin's name [default: the only one that provides custody]
        #[arg(long, value_name = "NAME")]
        plugin: Option<String>,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it as 30m, 24h or 7d".to_owned())
}

fn crate_name(text: &str) -> Result<String, String> {
    let well = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    match well && text.len() <= 64 {
        true => Ok(text.to_owned()),
        false => Err("1 to 64 of a-z 0-9 - _ are expected, a letter first".to_owned()),
    }
}

fn sha256(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("64 hex digits are expected".to_owned()),
    }
}

const MIGRATE_EXAMPLES: &str = "\
Examples:
  With a pause as long as the copy:
    systemctl stop clavigerd
    clavigerd store migrate --from store-sqlite --to store-postgres
  With a short one: copy while the daemon serves, then what has changed since
    clavigerd store migrate --from store-sqlite --to store-postgres --online
    systemctl stop clavigerd
    clavigerd store migrate --from store-sqlite --to store-postgres --overwrite";

const BACKUP_EXAMPLES: &str = "\
Examples:
  clavigerd backup /backup/realm-$(date +%F)
  clavigerd backup --verify /backup/realm-2026-11-23";

const RESTORE_EXAMPLES: &str = "\
Examples:
  clavigerd restore --dry-run /backup/realm-2026-11-23
  systemctl stop clavigerd && clavigerd restore /backup/realm-2026-11-23";

const NEW_EXAMPLES: &str = "\
Examples:
  clavigerd plugin new my-cipher --kind cipher
  clavigerd plugin new my-store --kind store --path ~/src/my-store --api ~/src/claviger/plugin-api";

const TEST_EXAMPLES: &str = "\
Examples:
  clavigerd plugin test target/debug/libmy_cipher.so
  clavigerd plugin test target/debug/libmy_store.so --config '{\"path\": \"{fresh}/users.journal\"}'
  clavigerd plugin test libmy_pg.so --config pg.json --prepare 'createdb $UNIQUE' --filter user_store --json";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed (for status: not ready)
  2  wrong usage
  3  the configuration is wrong
  4  the daemon cannot be reached";
