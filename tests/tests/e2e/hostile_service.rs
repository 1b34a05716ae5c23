//! A compromised service, with its own good certificate, at the management
//! server's mutual TLS listener.

use std::process::Command;

use bytes::Bytes;
use claviger_daemon::net::{client::https_client, full, tls::client_config};
use claviger_protocol::{CONTENT_TYPE, Code, message::Answer};
use claviger_testkit::{Layout, SERVICE, run};
use http_body_util::BodyExt;

use crate::{
    independent_terminal::PythonTerminal,
    support::{Running, counter, start},
};

/// Posts an envelope as the service whose certificate files have that name.
async fn decrypt(running: &Running, certificate: &str, envelope: &[u8]) -> Result<(u16, Bytes), String> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pki = running.deployment.directory().join("pki");
    let (pem, key) = (pki.join(format!("{certificate}.pem")), pki.join(format!("{certificate}.key")));
    let identity = (!certificate.is_empty()).then_some((pem.as_path(), key.as_path()));
    let tls = client_config(Some(&pki.join("ca.pem")), identity, Some("idb://example/manager".into())).unwrap();
    let url = format!("https://{}/idb/v1/decrypt", running.deployment.services_address());
    let request = http::Request::post(url).header("content-type", CONTENT_TYPE);
    let request = request.body(full(envelope.to_vec())).unwrap();
    let response = https_client(tls).request(request).await.map_err(|error| format!("{error:?}"))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, body))
}

fn issue(running: &Running, id: &str) {
    let pki = running.deployment.directory().join("pki").display().to_string();
    let mut command = Command::new(running.deployment.binaries().clavigerd());
    run(command.args(["pki", "issue", &pki, "service", id, "--dns", "localhost"])).unwrap();
}

#[tokio::test]
async fn it_gets_nothing_from_anothers_envelope() {
    let running = start(Layout::Split);
    let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "1");
    let file = running.deployment.directory().join("envelope");
    terminal.sign_on(&["--save-envelope", &file.display().to_string()]).unwrap();
    let envelope = std::fs::read(&file).unwrap();

    // A certificate of a service that is not registered.
    issue(&running, "evil.example");
    let (status, _) = decrypt(&running, "evil.example", &envelope).await.unwrap();
    assert_eq!(status, 403);

    // Registered, and relaying what was meant for another.
    running.deployment.admin(&["service", "add", "evil.example", "--release", "user"]).unwrap();
    let (status, body) = decrypt(&running, "evil.example", &envelope).await.unwrap();
    let answer = Answer::decode(&body).unwrap();
    assert_eq!((status, answer.code), (421, Code::WrongService));
    assert!(answer.grant.is_none() && answer.note.is_empty());
    assert!(running.deployment.logs().contains("relayed_envelope"));

    // The rightful service still is only told that it is a replay.
    let (status, body) = decrypt(&running, SERVICE, &envelope).await.unwrap();
    assert_eq!((status, Answer::decode(&body).unwrap().code), (401, Code::Replay));

    // No certificate, and one that names no service.
    assert!(decrypt(&running, "", &envelope).await.is_err());
    let manager = decrypt(&running, "manager", &envelope).await;
    assert!(manager.is_err() || manager.is_ok_and(|(status, _)| status == 403));

    // Removed from the registry: effective with the next request.
    running.deployment.admin(&["service", "remove", "evil.example"]).unwrap();
    let (status, _) = decrypt(&running, "evil.example", &envelope).await.unwrap();
    assert_eq!(status, 403);
    let metrics = running.deployment.metrics().unwrap();
    let label = |outcome: &str| format!("claviger_reply_processor_requests_total{{outcome=\"{outcome}\"}}");
    assert_eq!(counter(&metrics, &label("wrong_service")), 1.0);
    assert_eq!(counter(&metrics, &label("not_registered")), 2.0);
}

#[tokio::test]
async fn rubbish_gets_a_protocol_answer_of_one_size() {
    let running = start(Layout::Split);
    let terminal = PythonTerminal::enrol(&running.deployment, "alice", "0x0001", "0");
    let file = running.deployment.directory().join("envelope");
    terminal.sign_on(&["--save-envelope", &file.display().to_string()]).unwrap();
    let envelope = std::fs::read(&file).unwrap();
    let mut unknown_user = envelope.clone();
    let at = unknown_user.windows(5).position(|window| window == b"alice").unwrap();
    unknown_user[at] = b'b';
    let mut bad_tag = envelope.clone();
    *bad_tag.last_mut().unwrap() ^= 1;
    let mut sizes = Vec::new();
    for (bytes, code) in [
        (&envelope[..100], Code::Malformed),
        (b"rubbish".as_slice(), Code::Malformed),
        (&[], Code::Malformed),
        (unknown_user.as_slice(), Code::AuthFailed),
        (bad_tag.as_slice(), Code::AuthFailed),
    ] {
        let (status, body) = decrypt(&running, SERVICE, bytes).await.unwrap();
        assert_eq!(Answer::decode(&body).unwrap().code, code);
        assert_eq!(status, code.http_status());
        sizes.push(body.len());
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    let (status, _) = decrypt(&running, SERVICE, &[0; 4097]).await.unwrap();
    assert_eq!(status, 413);
}
