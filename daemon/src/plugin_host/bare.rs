//! Cipher suites without their guard, for conformance tests: it would hide what
//! a plugin leaves in a buffer, and what it does with wrong sizes.

use std::path::Path;

use claviger_plugin_api::{CipherSuite, abi::HostObject};
use serde_json::Value;

use super::{
    HostServices, abi,
    error::{PluginLoadError, one_line},
    image::Image,
    load::check_version,
    services::PluginServices,
};

/// The suites of a plugin file, as they are. Starts the plugin in this process;
/// blocks.
///
/// # Errors
/// When it does not load.
pub fn suites(path: &Path, configuration: &Value) -> Result<Vec<Box<dyn CipherSuite>>, PluginLoadError> {
    let image = Image::read(path)?;
    image.check_elf()?;
    let description = image.description()?;
    check_version(&description.api)?;
    let name = one_line(&description.name);
    let (root, _) = abi::open(image, &name)?;
    let services = PluginServices::new(&name, HostServices::default().clock);
    let delivered = root.start(HostObject::new(Box::new(services)), &name, &configuration.to_string(), None)?;
    Ok(delivered.suites.into_iter().map(|suite| Box::new(suite) as Box<dyn CipherSuite>).collect())
}
