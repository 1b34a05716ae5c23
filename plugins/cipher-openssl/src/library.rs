//! A library context of OpenSSL with one provider, apart from what else the process does with OpenSSL.

use std::path::PathBuf;

use claviger_plugin_api::InitError;
use openssl::{error::ErrorStack, lib_ctx::LibCtx, provider, version};
use serde::Deserialize;

use crate::sys;

/// The plugin's table of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Who computes.
    #[serde(default)]
    pub provider: Provider,
    /// OpenSSL's configuration file with the section of the FIPS provider; by default that of the system.
    #[serde(default)]
    pub openssl_conf: Option<PathBuf>,
}

/// A provider of OpenSSL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// What OpenSSL computes with itself.
    #[default]
    Default,
    /// Its FIPS module, which is installed by the operator.
    Fips,
}

impl Provider {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fips => "fips",
        }
    }

    /// What each algorithm must have, in OpenSSL's language of queries.
    pub(crate) fn properties(self) -> &'static str {
        match self {
            Self::Default => "provider=default",
            Self::Fips => "provider=fips,fips=yes",
        }
    }
}

/// The library context and its provider.
pub struct Library {
    pub(crate) context: LibCtx,
    pub(crate) provider: Provider,
    loaded: provider::Provider,
}

impl Library {
    /// Opens a context and loads the provider into it.
    ///
    /// It lasts as long as the process: threads keep random generators in a context until they end.
    ///
    /// # Errors
    ///
    /// [`InitError::Configuration`] for options that contradict each other or a path that is not absolute,
    /// [`InitError::Unavailable`] when OpenSSL's file or provider cannot be loaded.
    pub fn open(configuration: &Configuration) -> Result<&'static Self, InitError> {
        openssl::init();
        let provider = configuration.provider;
        let context = LibCtx::new().map_err(|error| InitError::Failed(reason(&error)))?;
        match (provider, &configuration.openssl_conf) {
            (Provider::Default, None) => {}
            (Provider::Default, Some(_)) => {
                return Err(InitError::Configuration("openssl_conf is for provider = \"fips\" alone".into()));
            }
            (Provider::Fips, Some(path)) if !path.is_absolute() => {
                return Err(InitError::Configuration("openssl_conf: an absolute path is expected".into()));
            }
            (Provider::Fips, path) => sys::load_configuration(&context, path.as_deref()).map_err(|error| {
                let file = path.as_ref().map_or("OpenSSL's configuration".into(), |path| path.display().to_string());
                InitError::Unavailable(format!("{file} cannot be loaded: {}", reason(&error)))
            })?,
        }
        let loaded = provider::Provider::load(Some(&context), provider.name())
            .map_err(|error| unavailable(provider, &reason(&error)))?;
        if provider == Provider::Fips {
            sys::require_fips(&context).map_err(|error| unavailable(provider, &reason(&error)))?;
        }
        Ok(Box::leak(Box::new(Self { context, provider, loaded })))
    }

    /// Whose code computes, such as `OpenSSL 3.0.19, provider fips 3.0.9`.
    pub fn implementation(&self) -> String {
        // "OpenSSL 3.0.19 27 Jan 2026"
        let library = version::version().split(' ').take(2).collect::<Vec<_>>().join(" ");
        let name = self.provider.name();
        match sys::version(&self.loaded) {
            Some(version) if self.provider == Provider::Fips => format!("{library}, provider {name} {version}"),
            _ => format!("{library}, provider {name}"),
        }
    }
}

fn unavailable(provider: Provider, reason: &str) -> InitError {
    InitError::Unavailable(match provider {
        Provider::Default => format!("OpenSSL's default provider cannot be loaded: {reason}"),
        Provider::Fips => format!(
            "OpenSSL's FIPS provider cannot be loaded ({reason}). Debian has no package of it: build fips.so from a \
             validated release, run `openssl fipsinstall`, and name its file with `openssl_conf`"
        ),
    })
}

/// What OpenSSL says: its first error, which is the innermost.
pub(crate) fn reason(error: &ErrorStack) -> String {
    let Some(first) = error.errors().first() else { return "it gives no reason".into() };
    match (first.reason(), first.data()) {
        (Some(reason), Some(data)) => format!("{reason}: {data}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => first.to_string(),
    }
}
