//! NIST's Cryptographic Algorithm Validation Program: SHA-2 and AES-256-GCM.

use std::collections::HashMap;

use claviger_protocol::{SuiteError, schedule};
use data_encoding::HEXLOWER;

use crate::subjects;

/// The entries of a file of answers: paragraphs of `name = value`, and single words such as `FAIL`.
fn entries(text: &'static str) -> impl Iterator<Item = HashMap<&'static str, &'static str>> {
    let lines = |paragraph: &'static str| {
        let lines = paragraph.lines().filter(|line| !line.starts_with(['#', '[']));
        lines.map(|line| line.split_once('=').unwrap_or((line, ""))).map(|(k, v)| (k.trim(), v.trim())).collect()
    };
    text.split("\n\n").map(lines).filter(|entry: &HashMap<_, _>| entry.contains_key("MD") || entry.contains_key("Key"))
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn sha_2() {
    for subject in subjects::all().await {
        let (text, number) = if subject.id >> 8 == 0 {
            (include_str!("../../vectors/cavp/SHA256ShortMsg.rsp"), 65)
        } else {
            (include_str!("../../vectors/cavp/SHA384ShortMsg.rsp"), 129)
        };
        let mut count = 0;
        for entry in entries(text) {
            // The empty message is written as a zero byte.
            let bytes = entry["Len"].parse::<usize>().unwrap() / 8;
            let hash = schedule::hash(&*subject.suite, &hex(entry["Msg"])[..bytes]).unwrap();
            assert_eq!(hash.as_slice(), hex(entry["MD"]), "{}: {bytes} bytes", subject.name);
            count += 1;
        }
        assert_eq!(count, number, "{}", subject.name);
    }
}

#[tokio::test]
async fn aes_256_gcm() {
    for subject in subjects::all().await.iter().filter(|subject| subject.id & 0xff == 1) {
        let (mut good, mut bad) = (0, 0);
        for entry in entries(include_str!("../../vectors/cavp/gcmDecrypt256.rsp")) {
            let case = format!("{}: {entry:?}", subject.name);
            let (key, nonce, aad) = (hex(entry["Key"]), hex(entry["IV"]), hex(entry["AAD"]));
            let sealed = [hex(entry["CT"]), hex(entry["Tag"])].concat();
            let mut out = vec![0xaa; sealed.len() - 16];
            let opened = subject.suite.open(&key, &nonce, &aad, &sealed, &mut out);
            if entry.contains_key("FAIL") {
                bad += 1;
                assert_eq!((opened, &out), (Err(SuiteError::Rejected), &vec![0; out.len()]), "{case}");
                continue;
            }
            good += 1;
            assert_eq!((opened, &out), (Ok(()), &hex(entry["PT"])), "{case}");
            let mut again = vec![0; sealed.len()];
            subject.suite.seal(&key, &nonce, &aad, &out, &mut again).unwrap();
            assert_eq!(again, sealed, "{case}");
        }
        println!("{}: {good} good, {bad} bad", subject.name);
        assert_eq!((good, bad), (184, 191), "{}", subject.name);
    }
}
