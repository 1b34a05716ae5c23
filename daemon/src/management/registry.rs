//! The service registry: which services may ask, in memory for the hot path.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use claviger_plugin_api::PluginError;
use tokio::sync::Mutex;

use super::{
    model::{AdminError, Service},
    record::{ServiceRecord, service_key},
    repository::{ChangeError, Repository},
};

/// The registered services, read from the store at start, at each change and
/// every few seconds, since another daemon may have changed them.
pub struct ServiceRegistry {
    repository: Repository,
    services: ArcSwap<HashMap<String, Arc<ServiceRecord>>>,
    /// One reading at a time: one that began before a change must not replace
    /// what was read after it.
    reading: Mutex<()>,
}

impl ServiceRegistry {
    /// Reads all services.
    pub async fn load(repository: Repository) -> Result<Self, PluginError> {
        let registry = Self { repository, services: ArcSwap::default(), reading: Mutex::new(()) };
        registry.refresh().await?;
        Ok(registry)
    }

    /// Reads all services again.
    pub async fn refresh(&self) -> Result<(), PluginError> {
        let _reading = self.reading.lock().await;
        let all = self.repository.all::<ServiceRecord>().await?;
        self.services.store(Arc::new(all.into_iter().map(|s| (s.id.clone(), Arc::new(s))).collect()));
        Ok(())
    }

    /// The service of that id.
    pub fn get(&self, id: &str) -> Option<Arc<ServiceRecord>> {
        self.services.load().get(id).cloned()
    }

    /// All services, in the order of their ids, as they were read last.
    pub fn all(&self) -> Vec<Arc<ServiceRecord>> {
        let mut all: Vec<_> = self.services.load().values().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// All services in the order of their ids.
    pub async fn list(&self) -> Result<Vec<Service>, AdminError> {
        self.refresh().await.map_err(away)?;
        Ok(self.all().iter().map(|service| Service::from(&**service)).collect())
    }

    /// Registers a service.
    pub async fn add(&self, service: Service) -> Result<Service, AdminError> {
        let record = check(service)?;
        let created = self.repository.create(&service_key(&record.id), &record).await.map_err(away)?;
        if !created {
            return Err(AdminError::Exists(format!("service {}", record.id)));
        }
        self.refresh().await.map_err(away)?;
        Ok(Service::from(&record))
    }

    /// Removes a service: from its next request on it is refused.
    pub async fn remove(&self, id: &str) -> Result<(), AdminError> {
        let removed = self.repository.remove::<ServiceRecord>(&service_key(id)).await;
        self.refresh().await.map_err(away)?;
        match removed {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(ChangeError::NotFound | ChangeError::Refused(())) => {
                Err(AdminError::NotFound(format!("service {id}")))
            }
            Err(ChangeError::Conflict) => Err(AdminError::Conflict(format!("service {id}"))),
            Err(ChangeError::Store(error)) => Err(away(error)),
        }
    }
}

impl From<&ServiceRecord> for Service {
    fn from(record: &ServiceRecord) -> Self {
        Self {
            id: record.id.clone(),
            origins: record.origins.clone(),
            release: record.release.clone(),
            allow_groups: record.allow_groups.clone(),
            key_pin: record.key_pin.as_deref().map(|pin| data_encoding::HEXLOWER.encode(pin)),
        }
    }
}

/// Attributes that a service can be given.
pub const ATTRIBUTES: [&str; 4] = ["user", "name", "email", "groups"];

fn check(service: Service) -> Result<ServiceRecord, AdminError> {
    let invalid = |message: String| AdminError::Invalid(message);
    let id: claviger_protocol::ServiceId = service.id.parse().map_err(invalid)?;
    for origin in &service.origins {
        let uri: http::Uri = origin.parse().map_err(|_| invalid(format!("`{origin}` is not an origin")))?;
        let bare = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !bare || uri.host().is_none() {
            return Err(invalid(format!("`{origin}` is not an origin; expected https://HOST or https://HOST:PORT")));
        }
    }
    for name in &service.release {
        if !ATTRIBUTES.contains(&name.as_str()) {
            return Err(invalid(format!("`{name}` is not an attribute; expected {}", ATTRIBUTES.join(", "))));
        }
    }
    let key_pin = match &service.key_pin {
        None => None,
        Some(hex) => Some(
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(hex.as_bytes())
                .ok()
                .filter(|pin| pin.len() == 32)
                .ok_or_else(|| invalid("the key pin is not a SHA-256; expected 64 hex digits".into()))?,
        ),
    };
    Ok(ServiceRecord {
        id: id.as_str().into(),
        origins: service.origins.iter().map(|o| o.trim_end_matches('/').to_owned()).collect(),
        release: service.release,
        allow_groups: service.allow_groups,
        key_pin,
    })
}

fn away(error: PluginError) -> AdminError {
    AdminError::Unavailable(error.to_string())
}
