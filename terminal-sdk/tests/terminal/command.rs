//! The `claviger` command as a user runs it.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::harness::{Message, Mishap, World};

struct Ran {
    status: i32,
    out: String,
    err: String,
}

/// Runs the command with the world's credential.
async fn claviger(world: &World, args: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .args(args)
        .env("CLAVIGER_HOME", world.path().parent().unwrap())
        .env_remove("CLAVIGER_CREDENTIAL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it early.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = child.wait_with_output().await.unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn enrolled() -> World {
    let world = World::start(true).await;
    let ca = world.path().parent().unwrap().with_extension("pem");
    fs::write(&ca, &world.ca).unwrap();
    let server = world.manager.to_string();
    let args = ["enrol", "--server", &server, "--realm", "example", "--ca", ca.to_str().unwrap()];
    let ran = claviger(&world, &args, &format!("{}\n", world.new_code().expose())).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.starts_with("enrolled alice of realm example"), "{}", ran.out);
    let ran = claviger(&world, &["services", "add", "shop.example", world.shop.as_str()], "").await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_code_to_a_request() {
    let world = enrolled().await;
    for (file, mode) in [("", 0o700), ("credential.json", 0o600), ("credential.json.lock", 0o600)] {
        let path = world.path().parent().unwrap().join(file);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    let url = format!("{}/orders", world.shop);
    for _ in 0..2 {
        let ran = claviger(&world, &["curl", "-d", "a=1", "-d", "b=2", &url], "").await;
        assert_eq!((ran.status, ran.out.as_str()), (0, "POST /orders: a=1&b=2"), "{}", ran.err);
    }
    let ran = claviger(&world, &["curl", "-i", "-X", "PUT", "--data-binary", "@-", &url], "x\ny").await;
    assert!(ran.out.starts_with("HTTP/2.0 200 OK\r\n") && ran.out.ends_with("PUT /orders: x\ny"), "{}", ran.out);
    let file = world.path().with_file_name("body");
    let ran = claviger(&world, &["curl", "-o", file.to_str().unwrap(), &url], "").await;
    assert_eq!((ran.status, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert_eq!(fs::read_to_string(file).unwrap(), "GET /orders: ");
    let ran = claviger(&world, &["--json", "curl", &url], "").await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((json["status"].as_u64(), json["body"].as_str()), (Some(200), Some("GET /orders: ")));
    assert_eq!(world.seen(|seen| seen.sign_ons), 1, "the key was kept on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_only_shown_on_demand() {
    let world = enrolled().await;
    let shown = claviger(&world, &["--json", "sign-on", "shop.example", "--share", "email", "--show-key"], "").await;
    assert_eq!(world.scope(), ["email"]);
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    let key = json["key"].as_str().unwrap().to_owned();
    assert_eq!((json["user"].as_str(), json["service"].as_str()), (Some("alice"), Some("shop.example")));
    let credential: Value = serde_json::from_slice(&fs::read(world.path()).unwrap()).unwrap();
    let secrets =
        [key.as_str(), credential["unique_key"].as_str().unwrap(), credential["management_key"].as_str().unwrap()];
    for args in [&["status"][..], &["--json", "status"], &["sign-on", world.shop.as_str()], &["services"]] {
        let ran = claviger(&world, args, "").await;
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert!(ran.out.contains("shop.example"), "{}", ran.out);
        for secret in secrets {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{args:?}");
        }
    }
    let status: Value = serde_json::from_str(&claviger(&world, &["status", "--json"], "").await.out).unwrap();
    assert_eq!(status["confirmed"], true);
    assert_eq!(status["sessions"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_statuses_tell_who_is_to_blame() {
    let world = enrolled().await;
    let url = format!("{}/", world.shop);
    type Case<'a> = (&'a str, fn(&World), &'a [&'a str], i32, &'a str);
    let cases: [Case<'_>; 6] = [
        ("no such service", |_| (), &["sign-on", "bank.example"], 1, "services add"),
        ("usage", |_| (), &["sign-on"], 2, "Usage"),
        ("denied", |w| w.faults(|f| f.denied = true), &["sign-on", "shop.example"], 3, "administrator"),
        ("curl", |_| (), &["curl", &url], 3, "administrator"),
        ("silent", |_| (), &["curl", "-s", &url], 3, ""),
        ("unknown user", World::forget_user, &["--json", "sign-on", "shop.example"], 3, "\"exit\":3"),
    ];
    for (what, prepare, args, status, message) in cases {
        prepare(&world);
        let ran = claviger(&world, args, "").await;
        assert_eq!(ran.status, status, "{what}: {}", ran.err);
        assert!(ran.err.contains(message) && ran.out.is_empty(), "{what}: {}", ran.err);
    }
    claviger(&world, &["services", "add", "gone.example", "https://localhost:1"], "").await;
    assert_eq!(claviger(&world, &["sign-on", "gone.example"], "").await.status, 4);
    assert_eq!(claviger(&world, &["services", "remove", "https://localhost:1"], "").await.status, 0);
    assert_eq!(claviger(&world, &["services", "remove", "https://localhost:1"], "").await.status, 1);

    let args = ["enrol", "--server", "https://localhost:1", "--realm", "example", "--replace"];
    let ran = claviger(&world, &args, "T7ZRGMM5G-0Q0Q46JPD-M48EQ594A\n").await;
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("typing error") && !ran.err.contains("T7ZRGMM5G-0Q0Q46JPD-M48EQ594A"), "{}", ran.err);
    let ran = claviger(&world, &args[..5], "").await;
    assert!(ran.status == 1 && ran.err.contains("--replace"), "{}", ran.err);
    let ran = claviger(&world, &["--credential", "/nonexistent/c.json", "status"], "").await;
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("claviger enrol"), "{}", ran.err);
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = claviger(&world, &["status"], "").await;
    assert!(ran.status == 1 && ran.err.contains("chmod 600"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_whose_confirmation_was_lost_is_finished_without_a_code() {
    let world = World::start(true).await;
    let ca = world.path().parent().unwrap().with_extension("pem");
    fs::write(&ca, &world.ca).unwrap();
    let code = world.path().parent().unwrap().with_extension("code");
    fs::write(&code, world.new_code().expose()).unwrap();
    let (server, ca, code) = (world.manager.to_string(), ca.to_str().unwrap(), code.to_str().unwrap());
    let args = ["enrol", "--server", &server, "--realm", "example", "--ca", ca];
    world.faults(|faults| faults.lose_e4 = true);
    let ran = claviger(&world, &[&args[..], &["--user-code-file", code]].concat(), "").await;
    assert_eq!(ran.status, 4, "{}", ran.err);
    assert!(ran.err.contains("stored but not confirmed"), "{}", ran.err);
    assert!(claviger(&world, &["status"], "").await.out.contains("not confirmed yet"));
    world.faults(|faults| faults.lose_e4 = false);
    let ran = claviger(&world, &args, "").await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(!claviger(&world, &["status"], "").await.out.contains("not confirmed yet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_enough_and_the_directory_tells_the_rest() {
    let world = World::start(true).await;
    let ca = world.path().parent().unwrap().with_extension("pem");
    fs::write(&ca, &world.ca).unwrap();
    world.policy(|policy| {
        let origin = world.shop.as_str();
        policy.directory =
            serde_json::json!([{ "service": "shop.example", "origins": [origin], "name": "The shop" }]).to_string();
    });
    let ran = claviger(&world, &["enrol"], &format!("{}\n", world.new_code().expose())).await;
    assert!(ran.status == 1 && ran.err.contains("--server"), "{}", ran.err);
    let link = world.link(&world.spki);
    let ran = claviger(&world, &["enrol", "--realm", "other"], &link).await;
    assert!(ran.status == 1 && ran.err.contains("not for other") && !ran.err.contains("code="), "{}", ran.err);
    let ran = claviger(&world, &["enrol", "--ca", ca.to_str().unwrap()], &link).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.starts_with("enrolled alice of realm example"), "{}", ran.out);
    // An origin that is not in the list yet.
    let ran = claviger(&world, &["curl", &format!("{}/orders", world.shop)], "").await;
    assert_eq!((ran.status, ran.out.as_str()), (0, "GET /orders: "), "{}", ran.err);
    let ran = claviger(&world, &["services", "refresh"], "").await;
    assert!(ran.out.contains("The shop  (from the directory)"), "{} {}", ran.out, ran.err);
    let args = ["services", "add", "shop.example", world.shop.as_str(), "--bind", "tls-exporter"];
    assert_eq!(claviger(&world, &args, "").await.status, 0);
    let ran = claviger(&world, &["--json", "services"], "").await;
    let rows: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&rows[0]["source"], &rows[0]["bind"]), (&"hand".into(), &"tls-exporter".into()), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_how_far_a_rotation_is() {
    let world = enrolled().await;
    let status = || async {
        let ran = claviger(&world, &["--json", "status"], "").await;
        serde_json::from_str::<Value>(&ran.out).unwrap()
    };
    assert_eq!(status().await["kem"], "X25519MLKEM768");
    world.policy(|policy| (policy.rotate_required, policy.private_user_ids) = (true, true));
    assert_eq!(claviger(&world, &["services", "refresh"], "").await.status, 0);
    assert_eq!(status().await["user_id_sent"], "sealed");
    assert_eq!(claviger(&world, &["sign-on", "shop.example"], "").await.status, 0);
    let value = status().await;
    assert_eq!((&value["epoch"], &value["pending_epoch"]), (&1.into(), &2.into()));
    assert_eq!(value["user_id_sent"], "handle");
    assert!(claviger(&world, &["status"], "").await.out.contains("1 (keys of epoch 2 wait for their first use)"));
    let ran = claviger(&world, &["rotate"], "").await;
    assert_eq!(ran.out, "new keys of epoch 3 are in use\n", "{}", ran.err);
    let value = status().await;
    assert_eq!((&value["epoch"], &value["pending_epoch"]), (&3.into(), &Value::Null));

    // A rotation that fails is a warning beside the outcome.
    let lost = [Mishap::LoseRequest; 2];
    world.mishaps(Message::Rotate, &lost);
    let ran = claviger(&world, &["sign-on", "shop.example"], "").await;
    assert!(ran.status == 0 && ran.err.starts_with("claviger: warning: "), "{}", ran.err);
    world.mishaps(Message::Rotate, &lost);
    assert_eq!(claviger(&world, &["rotate"], "").await.status, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_enrolment_shows_the_digits_and_waits_and_may_be_broken_off() {
    let world = World::start(true).await;
    let ca = world.path().parent().unwrap().with_extension("pem");
    fs::write(&ca, &world.ca).unwrap();
    world.policy(|policy| policy.held = true);
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
        command.args(args).env("CLAVIGER_HOME", world.path().parent().unwrap()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let digits = |world: &World| world.seen(|seen| format!("{} {}", &seen.comparison[..3], &seen.comparison[3..]));
    let mut child = start(&["enrol", "--ca", ca.to_str().unwrap()]);
    child.stdin.take().unwrap().write_all(world.link(&world.spki).as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.contains(&digits(&world)), "{line}");
    child.kill().await.unwrap();
    assert!(claviger(&world, &["status"], "").await.out.contains(&world.seen(|seen| seen.comparison.clone())));

    // Any other command goes on where it was.
    let child = start(&["sign-on", "shop.example"]);
    world.policy(|policy| {
        let origin = world.shop.as_str();
        policy.directory = serde_json::json!([{ "service": "shop.example", "origins": [origin] }]).to_string();
    });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    world.policy(|policy| policy.held = false);
    let output = child.wait_with_output().await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.contains(&digits(&world)), "{err}");
}
