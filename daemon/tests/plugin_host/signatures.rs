//! Signatures that minisign made, and what was done to them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use claviger_daemon::{
    config::types::{PluginTrust, TrustedKey},
    plugin_host::{PluginConfig, inspect::inspect_with},
};
use tempfile::TempDir;

use crate::support::{CIPHER, config, library, load, reason};

/// A copy of a plugin, and keys to sign it with.
struct Bench {
    directory: TempDir,
    file: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cipher.so");
        fs::copy(library(CIPHER), &file).unwrap();
        let bench = Self { directory, file };
        for key in ["good", "other"] {
            bench.minisign(&["-G", "-W", "-p", &format!("{key}.pub"), "-s", &format!("{key}.key")]);
        }
        bench
    }

    fn minisign(&self, args: &[&str]) {
        let mut minisign = Command::new("minisign");
        let output = minisign.args(args).current_dir(&self.directory).output();
        let output = output.expect("minisign is missing: run `cargo xtask test`, or install it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Signs the file with a key; `more` are further options.
    fn sign(&self, key: &str, more: &[&str]) {
        let key = format!("{key}.key");
        self.minisign(&[&["-S", "-s", key.as_str(), "-m", "cipher.so"], more].concat());
    }

    fn signature(&self) -> PathBuf {
        self.directory.path().join("cipher.so.minisig")
    }

    fn key(&self, name: &str) -> TrustedKey {
        TrustedKey::File(self.directory.path().join(format!("{name}.pub")))
    }

    /// The last line of the public key's file.
    fn line(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join(format!("{name}.pub"))).unwrap();
        text.lines().last().unwrap().to_owned()
    }

    /// The id that minisign wrote into the public key's file.
    fn id(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join(format!("{name}.pub"))).unwrap();
        text.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned()
    }

    fn config(&self, trusted_keys: &[TrustedKey], require_signature: bool) -> PluginConfig {
        let trust = PluginTrust { trusted_keys: trusted_keys.to_vec(), require_signature };
        PluginConfig { trust: Arc::new(trust), ..config("signed", &self.file) }
    }

    /// What is shown of a plugin that loads.
    async fn loaded(&self, config: PluginConfig) -> String {
        let inspected = inspect_with(&config.path, &config.trust).unwrap();
        assert_eq!(inspected.problem, None);
        let status = load(config).await.list().remove(0);
        assert_eq!(status.signature.as_ref(), Some(&inspected.signature), "both say the same");
        status.signature.unwrap().to_string()
    }

    /// Why one does not load.
    async fn refused(&self, config: PluginConfig) -> String {
        let inspected = inspect_with(&config.path, &config.trust).unwrap();
        let refused = reason(config).await;
        assert_eq!(inspected.problem.as_deref(), Some(refused.as_str()), "both say the same");
        assert!(refused.starts_with(&format!("signature {}: ", self.signature().display())), "{refused}");
        refused
    }
}

#[tokio::test]
async fn a_good_signature_is_taken_in_both_formats_and_with_keys_of_both_kinds() {
    let bench = Bench::new();
    let trusted = format!("trusted {}", bench.id("good"));
    for format in [&[][..], &["-l"]] {
        bench.sign("good", format);
        for keys in [vec![bench.key("good")], vec![bench.key("other"), TrustedKey::Key(bench.line("good"))]] {
            for required in [false, true] {
                assert_eq!(bench.loaded(bench.config(&keys, required)).await, trusted, "{format:?}");
            }
        }
    }
    let text = fs::read_to_string(bench.signature()).unwrap();
    assert!(text.lines().nth(1).unwrap().starts_with("RW"), "the last one was of the older format: {text}");
}

#[tokio::test]
async fn a_key_that_is_not_trusted_counts_as_no_signature() {
    let bench = Bench::new();
    let (good, other) = (bench.key("good"), bench.id("other"));
    assert_eq!(bench.loaded(bench.config(std::slice::from_ref(&good), false)).await, "none");
    let refused = bench.refused(bench.config(std::slice::from_ref(&good), true)).await;
    assert!(refused.ends_with("there is no such file, and require_signature demands a signature"), "{refused}");

    bench.sign("other", &[]);
    assert_eq!(bench.loaded(bench.config(&[], false)).await, format!("untrusted {other}"));
    assert_eq!(bench.loaded(bench.config(std::slice::from_ref(&good), false)).await, format!("untrusted {other}"));
    let refused = bench.refused(bench.config(&[good], true)).await;
    assert!(refused.contains(&format!("made with key {other}, which is not among")), "{refused}");
}

#[tokio::test]
async fn a_bad_signature_keeps_a_plugin_out_even_where_none_is_required() {
    let bench = Bench::new();
    let keys = [bench.key("good")];
    bench.sign("good", &[]);
    let (library, signature) = (fs::read(&bench.file).unwrap(), fs::read(bench.signature()).unwrap());

    // The plugin itself would still load: the byte lies in a note that nobody reads.
    let mut changed = library.clone();
    let at = changed.windows(4).rposition(|four| four == b"GCC:" || four == b"LLD ").unwrap();
    changed[at] ^= 1;
    fs::write(&bench.file, &changed).unwrap();
    for required in [false, true] {
        let refused = bench.refused(bench.config(&keys, required)).await;
        assert!(refused.contains(&format!("not a signature of this file by key {}", bench.id("good"))), "{refused}");
    }
    assert_eq!(bench.loaded(bench.config(&[], false)).await, "untrusted ".to_owned() + &bench.id("good"));

    fs::write(&bench.file, &library).unwrap();
    for len in [0, 1, 60, signature.len() / 2, signature.len() - 20] {
        fs::write(bench.signature(), &signature[..len]).unwrap();
        let refused = bench.refused(bench.config(&keys, false)).await;
        assert!(refused.ends_with("it is cut short, or no minisign signature"), "{len} bytes: {refused}");
        assert_eq!(bench.loaded(bench.config(&[], false)).await, "bad");
    }
    fs::remove_file(bench.signature()).unwrap();
    fs::create_dir(bench.signature()).unwrap();
    let refused = bench.refused(bench.config(&keys, false)).await;
    assert!(refused.ends_with("it cannot be read: not a regular file"), "{refused}");
    fs::remove_dir(bench.signature()).unwrap();
    fs::write(bench.signature(), &signature).unwrap();
    bench.loaded(bench.config(&keys, true)).await;
}

#[tokio::test]
async fn the_signed_comment_is_shown_escaped() {
    let bench = Bench::new();
    bench.sign("good", &["-t", "by\tgröße \u{1b}[31mred \u{202e}txt.exe"]);
    let config = bench.config(&[bench.key("good")], true);
    let shown = inspect_with(&config.path, &config.trust).unwrap().signature_comment.unwrap();
    assert_eq!(shown, "by\\tgröße \\u{1b}[31mred \\u{202e}txt.exe");
    let status = serde_json::to_value(&load(config).await.list()[0]).unwrap();
    assert_eq!(status["signature"], format!("trusted {}", bench.id("good")));
    assert_eq!(status["signature_comment"], shown);
}

#[tokio::test]
async fn a_trusted_key_that_cannot_be_read_lets_nothing_in() {
    let bench = Bench::new();
    bench.sign("good", &[]);
    let missing = TrustedKey::File(Path::new("/nonexistent/minisign.pub").to_owned());
    for required in [false, true] {
        let reason = reason(bench.config(&[bench.key("good"), missing.clone()], required)).await;
        assert!(reason.contains("plugins.trusted_keys: /nonexistent/minisign.pub: No such file"), "{reason}");
    }
}
