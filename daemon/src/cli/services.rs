//! `clavigerd service`

use serde_json::json;

use super::{
    args::{Common, ServiceCommand},
    daemon::{block_on, client},
    failure::Failure,
    output::Output,
};
use crate::management::model::Service;

pub(super) fn service(command: &ServiceCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    let client = client(common)?;
    match command {
        ServiceCommand::Add { id, origins, release, allow_groups, key_pin } => {
            let service = Service {
                id: id.clone(),
                origins: origins.clone(),
                release: release.clone(),
                allow_groups: allow_groups.clone(),
                key_pin: key_pin.clone(),
            };
            let service = block_on(async { Ok(client.add_service(&service).await?) })?;
            output.answer(&service, |service, out| out.line(format!("added {}", service.id)))
        }
        ServiceCommand::List => {
            let services = block_on(async { Ok(client.services().await?) })?;
            output.answer(&json!({ "services": services }), |_, out| {
                out.table(
                    ["ID", "ORIGINS", "RELEASE", "ALLOW GROUPS", "KEY PIN"],
                    services.iter().map(|service| {
                        let everybody = service.allow_groups.is_empty();
                        [
                            service.id.clone(),
                            service.origins.join(","),
                            service.release.join(","),
                            if everybody { "(everybody)".to_owned() } else { service.allow_groups.join(",") },
                            service.key_pin.clone().unwrap_or_default(),
                        ]
                    }),
                );
            })
        }
        ServiceCommand::Remove { id } => {
            block_on(async { Ok(client.remove_service(id).await?) })?;
            output.answer(&json!({ "removed": id }), |_, out| out.line(format!("removed {id}")))
        }
    }
}
