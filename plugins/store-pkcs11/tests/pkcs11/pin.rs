//! A wrong PIN is tried once.

use std::fs;

use claviger_plugin_api::{KeyCustody, PluginError};
use claviger_servers::{SOFTHSM_PIN, SoftHsm};
use claviger_store_pkcs11::Token;

use super::{Other, configuration, on_a_token, recovers};

fn write(hsm: &SoftHsm, pin: &str) {
    fs::write(hsm.pin_file(), pin).unwrap();
}

async fn refusal(custody: &dyn KeyCustody) -> String {
    match custody.derive(b"").await {
        Err(PluginError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_pin_is_tried_once() {
    on_a_token(async |hsm| {
        let custody = Token::open(configuration(&hsm)).unwrap().custody();
        custody.initialise().await.unwrap();
        drop(custody);

        write(&hsm, "wrong");
        let custody = Token::open(configuration(&hsm)).unwrap().custody();
        let text = refusal(&custody).await;
        assert!(text.contains("refused the PIN (C_Login answered PinIncorrect)"), "{text}");
        // Were it tried again, the token would say so itself: it counts.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        assert_eq!(refusal(&custody).await, text, "it stays with the first refusal");
        write(&hsm, SOFTHSM_PIN);
        assert_eq!(refusal(&custody).await, text, "the PIN is read at start");
        drop(custody);

        // The token remembers that a wrong one was tried: no PIN is tried, not
        // even the right one.
        let custody = Token::open(configuration(&hsm)).unwrap().custody();
        let text = refusal(&custody).await;
        assert!(text.contains("a wrong PIN was tried") && text.contains("no PIN is tried"), "{text}");
        clear(&hsm);
        // That is looked at again, as it costs no try.
        recovers(&custody).await;
    });
}

/// Logs in with the right PIN in another process, which clears the flag.
fn clear(hsm: &SoftHsm) {
    drop(Other::start("pin::child_that_logs_in", hsm, "log in"));
}

/// Not a test of its own: the module's own tool.
#[test]
fn child_that_logs_in() {
    use cryptoki::{
        context::{CInitializeArgs, CInitializeFlags, Pkcs11},
        session::UserType,
        types::AuthPin,
    };
    if Other::what().is_none() {
        return;
    }
    let client = Pkcs11::new(SoftHsm::module()).unwrap();
    client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = client.get_slots_with_initialized_token().unwrap()[0];
    assert!(client.get_token_info(slot).unwrap().user_pin_count_low());
    let session = client.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(SOFTHSM_PIN.into()))).unwrap();
    assert!(!client.get_token_info(slot).unwrap().user_pin_count_low());
    Other::ready_and_wait();
}
