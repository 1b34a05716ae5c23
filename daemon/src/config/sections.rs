//! The tables of the configuration: which keys each has, their ranges and defaults.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    DEFAULT_SOCKET,
    problem::Problem,
    reader::{Table, nearest},
    types::{
        AdminConfig, Binding, Config, DrainConfig, KekSource, LogConfig, LogFormat, ManagementConfig, ManagementLimits,
        ManagerConfig, PluginConfig, PluginTrust, Roles, ServiceConfig, ServiceLimits, ServicesListener, StateChoice,
        TelemetryConfig, TerminalsListener,
    },
    values::{
        boolean, choice, duration, integer, json, kek_source, kem, label, list, name, one_or_more, origin, path, set,
        sha256, socket, socket_or_off, suite, text, trusted_key,
    },
};

/// Reads everything. `None`, or anything at all, after a problem was reported.
pub(super) fn config(root: &mut Table<'_>) -> Option<Config> {
    let roles = root.required("roles", "[\"management\"], [\"service\"] or both", |node| {
        set(choice(&[("management", Role::Management), ("service", Role::Service)]))(node)
    });
    let roles = roles
        .map(|list| Roles { management: list.contains(&Role::Management), service: list.contains(&Role::Service) });
    let realm = root.required("realm", "1 to 64 of a-z 0-9 . -", label(64));
    let log = root.section("log", log);
    let telemetry = root.section("telemetry", |table| TelemetryConfig {
        listen: table.or("listen", Some(SocketAddr::from(([127, 0, 0, 1], 9464))), socket_or_off),
    });
    let admin = root.section("admin", |table| AdminConfig {
        socket: table.or("socket", DEFAULT_SOCKET.into(), path),
        allow_uids: table.or("allow_uids", Vec::new(), list(integer(0..=u32::MAX - 1))),
    });
    let drain = root.section("drain", |table| DrainConfig {
        grace: table.or("grace", seconds(20), duration(Duration::ZERO..=seconds(3600))),
    });
    let trust = Arc::new(root.section("plugins", trust));
    let plugins = plugins(root, &trust);
    let names: Vec<&str> = plugins.iter().map(|p| p.name.as_str()).collect();

    let mut management = root.optional_section("management", |table| management(table, &names));
    let mut service = root.optional_section("service", |table| service(table, &names, roles));
    // A table without its role is read, so that its mistakes are found, and then set aside:
    // one file may serve two daemons that differ in CLAVIGER__ROLES.
    let roles = roles?;
    for (wanted, name, found) in
        [(roles.management, "management", root.has("management")), (roles.service, "service", root.has("service"))]
    {
        if wanted && !found {
            let problem = Problem::new(format!("the role `{name}` has no table [{name}]"));
            root.refuse("roles", problem.expected(format!("needs [{name}]")));
        }
    }
    if roles == (Roles { management: true, service: false })
        && management.as_ref().is_some_and(|m| m.services.is_none())
        && !root.has("service")
    {
        let problem = Problem::new("no service could reach this daemon: [management.services] is missing");
        root.refuse("management", problem.help("add [management.services], or the role \"service\""));
    }
    management = management.filter(|_| roles.management);
    service = service.filter(|_| roles.service);
    let config = Config { roles, realm: realm?, log, telemetry, admin, drain, trust, plugins, management, service };
    listeners(root, &config);
    Some(config)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Management,
    Service,
}

fn log(table: &mut Table<'_>) -> LogConfig {
    let formats = &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig {
        level: table.or("level", "info".to_owned(), |node| {
            let level = text(node)?;
            let level_word = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
            // `Targets` takes a lone word that is no level for a target: here that is a slip.
            match level.split(',').all(level_word) && level.parse::<Targets>().is_ok() {
                true => Ok(level),
                false => Err(node.wrong(
                    format_args!("is {level:?}"),
                    "error, warn, info, debug, trace or off, or directives such as \"info,claviger_daemon::net=debug\"",
                )),
            }
        }),
        format: table.or("format", LogFormat::Auto, choice(formats)),
    }
}

fn trust(table: &mut Table<'_>) -> PluginTrust {
    let trust = PluginTrust {
        trusted_keys: table.or("trusted_keys", Vec::new(), list(trusted_key)),
        require_signature: table.or("require_signature", false, boolean),
    };
    if trust.require_signature && trust.trusted_keys.is_empty() {
        let problem = Problem::new("`plugins.require_signature` without a key that could have signed");
        table.refuse("require_signature", problem.help("name the public keys in `trusted_keys`"));
    }
    trust
}

fn plugins(root: &mut Table<'_>, trust: &Arc<PluginTrust>) -> Vec<PluginConfig> {
    let mut names: Vec<String> = Vec::new();
    root.sections("plugin", |table| {
        let name = table.required("name", "a unique name such as \"store-sqlite\"", name);
        if let Some(name) = &name {
            if names.contains(name) {
                table.refuse("name", Problem::new(format!("two plugins are named `{name}`")));
            }
            names.push(name.clone());
        }
        let path = table.required("path", "the file of the shared library", path);
        // A plugin that is wrong elsewhere still has its name: what refers to it is not wrong.
        let known = name.is_some();
        let default = PluginConfig::new(name.unwrap_or_default(), path.unwrap_or_default());
        let plugin = PluginConfig {
            sha256: table.optional("sha256", sha256),
            trust: trust.clone(),
            required: table.or("required", default.required, boolean),
            deadline: table.or("deadline", default.deadline, duration(milliseconds(1)..=seconds(60))),
            max_in_flight: table.or("max_in_flight", 256, integer(1..=65_536)) as usize,
            retries: table.or("retries", default.retries, integer(0..=5)),
            breaker_failures: table.or("breaker_failures", default.breaker_failures, integer(0..=1000)),
            configuration: table.or("config", default.configuration, json),
            ..default
        };
        known.then_some(plugin)
    })
}

fn management(table: &mut Table<'_>, plugins: &[&str]) -> Option<ManagementConfig> {
    let store = plugin_name(table, "store", plugins);
    let custody = table.optional("custody", name);
    if let Some(custody) = &custody {
        known_plugin(table, "custody", custody, plugins, "");
    }
    let suites = table.or("suites", SUITES.to_vec(), set(suite));
    let kems = table.or("kems", KEMS.to_vec(), set(kem));
    let keks = "a list of the files that `clavigerd keys init` made";
    let key_encryption_keys = table.required("key_encryption_keys", keks, set(kek_source));
    for source in key_encryption_keys.iter().flatten() {
        if let KekSource::Custody(plugin) = source {
            known_plugin(table, "key_encryption_keys", plugin, plugins, "after \"custody:\" ");
        }
    }
    let enrolment_suite_floor = table.or("enrolment_suite_floor", 0x0001, suite);
    let enrolment_kem_floor = table.or("enrolment_kem_floor", 0, kem);
    if suites.iter().all(|suite| *suite < enrolment_suite_floor) {
        let problem = Problem::new("no enabled suite reaches `management.enrolment_suite_floor`");
        table.refuse("enrolment_suite_floor", problem.help("lower it, or enable another of the `suites`"));
    }
    if kems.iter().all(|kem| *kem < enrolment_kem_floor) {
        let problem = Problem::new("no enabled key exchange reaches `management.enrolment_kem_floor`");
        table.refuse("enrolment_kem_floor", problem.help("lower it, or enable another of the `kems`"));
    }
    let clock_window = table.or("clock_window", seconds(120), duration(seconds(1)..=seconds(3600)));
    let max_session = table.or("max_session", hours(12), duration(seconds(60)..=hours(24 * 30)));
    let rotate_after = table.or("rotate_after", hours(24 * 90), duration(seconds(1)..=hours(24 * 3650)));
    let private_user_ids = table.or("private_user_ids", false, boolean);
    let confirm_enrolments = table.or("confirm_enrolments", false, boolean);
    let terminals = table.optional_section("terminals", |table| {
        let (listen, certificate, private_key) = tls_listener(table);
        let url = table.optional("url", origin("https"));
        Some(TerminalsListener { listen: listen?, certificate: certificate?, private_key: private_key?, url })
    });
    if !table.has("terminals") {
        table.missing("terminals", "a table [management.terminals] with listen, certificate and private_key");
    }
    let services = table.optional_section("services", |table| {
        let (listen, certificate, private_key) = tls_listener(table);
        let client_ca = table.required("client_ca", "the PEM file of the services' authority", path);
        Some(ServicesListener {
            listen: listen?,
            certificate: certificate?,
            private_key: private_key?,
            client_ca: client_ca?,
        })
    });
    let limits = table.section("limits", |table| ManagementLimits {
        per_service_per_second: table.or("per_service_per_second", 10_000, integer(1..=10_000_000)),
        per_source_per_second: table.or("per_source_per_second", 50, integer(1..=10_000_000)),
        per_source_burst: table.or("per_source_burst", 100, integer(1..=10_000_000)),
    });
    Some(ManagementConfig {
        store: store?,
        custody,
        suites,
        kems,
        key_encryption_keys: key_encryption_keys?,
        enrolment_suite_floor,
        enrolment_kem_floor,
        clock_window,
        max_session,
        rotate_after,
        private_user_ids,
        confirm_enrolments,
        terminals: terminals?,
        services,
        limits,
    })
}

fn service(table: &mut Table<'_>, plugins: &[&str], roles: Option<Roles>) -> Option<ServiceConfig> {
    let id = table.required("id", "the service id, 1 to 128 of a-z 0-9 . -", label(128));
    let (listen, certificate, private_key) = tls_listener(table);
    let issuer = plugin_name(table, "issuer", plugins);
    let state = match table.or("state", "memory".to_owned(), text).as_str() {
        "memory" => StateChoice::Memory,
        other => {
            known_plugin(table, "state", other, plugins, "\"memory\" or ");
            StateChoice::Plugin(other.to_owned())
        }
    };
    let key_lifetime = table.or("key_lifetime", hours(1), duration(seconds(1)..=hours(24 * 30)));
    let pending = table.or("pending", seconds(60), duration(seconds(1)..=seconds(600)));
    let suites = table.or("suites", SUITES.to_vec(), set(suite));
    let kems = table.or("kems", KEMS.to_vec(), set(kem));
    let bindings =
        &[("none", Binding::None), ("challenge", Binding::Challenge), ("tls-exporter", Binding::TlsExporter)];
    let binding = table.or("binding", Binding::None, choice(bindings));
    let upstream = table.required("upstream", "the server to guard, http://HOST[:PORT]", origin("http"));
    let upstream_http2 = table.or("upstream_http2", false, boolean);
    let limits = table.section("limits", |table| ServiceLimits {
        per_source_per_second: table.or("per_source_per_second", 50, integer(1..=10_000_000)),
        per_source_burst: table.or("per_source_burst", 100, integer(1..=10_000_000)),
        per_user_per_second: table.or("per_user_per_second", 100, integer(1..=10_000_000)),
        per_user_burst: table.or("per_user_burst", 200, integer(1..=10_000_000)),
    });
    let manager = table.optional_section("manager", manager);
    match roles {
        Some(Roles { management: true, service: true }) if table.has("manager") => {
            let problem = Problem::new("[service.manager] together with the role `management`");
            let expected = "both roles of one process talk in memory";
            table.refuse("manager", problem.expected(expected).help("remove the table, or the role"));
        }
        Some(Roles { management: false, service: true }) if !table.has("manager") => {
            table.missing("manager", "a table [service.manager] with url, ca, certificate and private_key");
        }
        _ => {}
    }
    Some(ServiceConfig {
        id: id?,
        listen: listen?,
        certificate: certificate?,
        private_key: private_key?,
        issuer: issuer?,
        state,
        key_lifetime,
        pending,
        suites,
        kems,
        binding,
        upstream: upstream?,
        upstream_http2,
        limits,
        manager,
    })
}

fn manager(table: &mut Table<'_>) -> Option<ManagerConfig> {
    let listener = "the manager's listener for services, https://HOST[:PORT]";
    let urls = table.required("url", listener, one_or_more(origin("https")));
    let ca = table.required("ca", "the PEM file of the manager's authority", path);
    let certificate = table.required("certificate", CERTIFICATE, path);
    let private_key = table.required("private_key", PRIVATE_KEY, path);
    Some(ManagerConfig { urls: urls?, ca: ca?, certificate: certificate?, private_key: private_key? })
}

type Listener = (Option<SocketAddr>, Option<PathBuf>, Option<PathBuf>);

fn tls_listener(table: &mut Table<'_>) -> Listener {
    (
        table.required("listen", "an address and a port such as \"0.0.0.0:8443\"", socket),
        table.required("certificate", CERTIFICATE, path),
        table.required("private_key", PRIVATE_KEY, path),
    )
}

fn plugin_name(table: &mut Table<'_>, key: &'static str, plugins: &[&str]) -> Option<String> {
    let name = table.required(key, "the name of a plugin", name)?;
    known_plugin(table, key, &name, plugins, "");
    Some(name)
}

fn known_plugin(table: &Table<'_>, key: &str, name: &str, plugins: &[&str], or: &str) {
    if !plugins.contains(&name) {
        let problem = Problem::new(format!("there is no plugin `{name}`"))
            .expected(format!("expected {or}the `name` of a [[plugin]]"));
        table.refuse(
            key,
            match nearest(name, plugins) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None if plugins.is_empty() => problem.help("no plugin is configured"),
                None => problem.help(format!("configured: {}", plugins.join(", "))),
            },
        );
    }
}

/// Refuses two listeners on one address (port 0 is another one each time).
fn listeners(root: &Table<'_>, config: &Config) {
    let management = config.management.as_ref();
    let all = [
        ("telemetry.listen", config.telemetry.listen),
        ("management.terminals.listen", management.map(|m| m.terminals.listen)),
        ("management.services.listen", management.and_then(|m| m.services.as_ref()).map(|s| s.listen)),
        ("service.listen", config.service.as_ref().map(|s| s.listen)),
    ];
    for (at, (key, address)) in all.iter().enumerate() {
        let Some(address) = address.filter(|a| a.port() != 0) else { continue };
        if let Some((other, _)) = all[..at].iter().find(|(_, a)| *a == Some(address)) {
            root.refuse(key, Problem::new(format!("`{key}` and `{other}` are the same address {address}")));
        }
    }
}

/// The suites of either role by default: those with SHA-256.
const SUITES: [u16; 3] = [0x0001, 0x0002, 0x0003];
/// The key exchanges of either role by default: all.
const KEMS: [u8; 3] = [0, 1, 2];

const CERTIFICATE: &str = "the PEM file of the certificate and its chain";
const PRIVATE_KEY: &str = "the PEM file of the certificate's private key";

const fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}
