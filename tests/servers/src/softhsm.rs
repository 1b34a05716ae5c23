//! A token of SoftHSM, Debian's package: a PKCS#11 module whose storage is files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// The label of the token.
pub const SOFTHSM_TOKEN: &str = "claviger test";
/// The user's PIN.
pub const SOFTHSM_PIN: &str = "a PIN of the test";

/// A directory with one token, its PIN and SoftHSM's configuration.
///
/// The module reads `SOFTHSM2_CONF` of its process once, and is there once for
/// a process: set it before the module is loaded, one token for a process.
pub struct SoftHsm {
    directory: TempDir,
}

impl SoftHsm {
    /// A new token.
    pub fn new() -> Self {
        // In memory where that can be: it writes much, and nobody cuts the power.
        let memory = Path::new("/dev/shm");
        let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
        let hsm = Self { directory };
        fs::create_dir(hsm.tokens()).unwrap();
        let settings = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n\
             slots.removable = false\nlibrary.reset_on_fork = true\n",
            hsm.tokens().display()
        );
        fs::write(hsm.configuration(), settings).unwrap();
        fs::write(hsm.pin_file(), format!("{SOFTHSM_PIN}\n")).unwrap();
        fs::set_permissions(hsm.pin_file(), fs::Permissions::from_mode(0o600)).unwrap();
        hsm.add_token(SOFTHSM_TOKEN);
        hsm
    }

    /// One more token, with the same PIN.
    pub fn add_token(&self, label: &str) {
        let mut util = Command::new("softhsm2-util");
        util.args(["--init-token", "--free", "--label", label, "--so-pin", "the officer's PIN", "--pin", SOFTHSM_PIN]);
        let output = util.env("SOFTHSM2_CONF", self.configuration()).output().expect("apt-get install softhsm2");
        assert!(output.status.success(), "softhsm2-util: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The module.
    pub fn module() -> PathBuf {
        let usual = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"].map(PathBuf::from);
        let by_architecture = fs::read_dir("/usr/lib").into_iter().flatten();
        let by_architecture = by_architecture.map(|entry| entry.unwrap().path().join("softhsm/libsofthsm2.so"));
        usual.into_iter().chain(by_architecture).find(|file| file.exists()).expect("apt-get install softhsm2")
    }

    /// The value of `SOFTHSM2_CONF`.
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("softhsm2.conf")
    }

    /// The file of the PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.directory.path().join("pin")
    }

    /// The directory of the tokens' storage, a directory for each.
    pub fn tokens(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    /// Its directory, also for what tests put there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}
