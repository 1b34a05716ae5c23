//! What becomes of keys: they stay in the module, and in it.

use claviger_plugin_api::{KeyCustody, UserStore, Verdict};
use claviger_servers::{SOFTHSM_PIN, SOFTHSM_TOKEN, SoftHsm};
use claviger_store_pkcs11::{Configuration, Mode, Token};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};

use super::{configuration, counter_use, expected, id, key, mac, on_a_token, open, put, request};

/// Another application's session, after the plugin has gone.
fn stranger() -> (Pkcs11, Session) {
    let client = Pkcs11::new(SoftHsm::module()).unwrap();
    client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = client.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| client.get_token_info(*slot).unwrap().label() == SOFTHSM_TOKEN).unwrap();
    let session = client.open_rw_session_no_drop(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(SOFTHSM_PIN.into()))).unwrap();
    (client, session)
}

#[test]
fn keys_cannot_be_read_with_the_pin_either() {
    on_a_token(async |hsm| {
        let (custody, store) = open(&hsm).await;
        custody.keep(id(1), key(1)).await.unwrap();
        drop((custody, store));
        let (client, session) = stranger();
        let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap();
        assert_eq!(keys.len(), 2, "the master key and a unique key");
        for object in keys {
            let told = session.get_attributes(object, &[AttributeType::Value]).unwrap();
            assert!(told.is_empty(), "{told:?}");
            let info = session.get_attribute_info(object, &[AttributeType::Value]).unwrap();
            assert!(matches!(info[..], [AttributeInfo::Sensitive]), "{info:?}");
            let guarded = [
                (AttributeType::Token, Attribute::Token(true)),
                (AttributeType::Private, Attribute::Private(true)),
                (AttributeType::Sensitive, Attribute::Sensitive(true)),
                (AttributeType::Extractable, Attribute::Extractable(false)),
                (AttributeType::Sign, Attribute::Sign(true)),
            ];
            for (kind, expected) in guarded {
                assert_eq!(session.get_attributes(object, &[kind]).unwrap(), [expected]);
            }
            for weaker in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
                assert!(session.update_attributes(object, std::slice::from_ref(&weaker)).is_err(), "{weaker:?}");
            }
        }
        client.finalize().unwrap();
    });
}

#[test]
fn a_key_that_may_not_sign_costs_its_own_user_alone() {
    on_a_token(async |hsm| {
        let (custody, store) = open(&hsm).await;
        custody.keep(id(1), key(1)).await.unwrap();
        custody.keep(id(3), key(3)).await.unwrap();
        drop((custody, store));
        let (client, session) = stranger();
        let spoilt = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Label(b"claviger:key".to_vec()),
            Attribute::Id(id(2).to_vec()),
            Attribute::Value(vec![2; 48]),
            Attribute::Sign(false),
        ];
        session.create_object(&spoilt).unwrap();
        client.finalize().unwrap();
        let (custody, _store) = open(&hsm).await;
        let macs = custody.mac(&[request(1, b""), request(2, b""), request(3, b"")]).await.unwrap();
        let macs: Vec<_> = macs.iter().map(|mac| mac.as_ref().map(|mac| mac.expose().to_vec())).collect();
        assert_eq!(macs, [Some(expected(1)), None, Some(expected(3))]);
    });
}

#[test]
fn a_restart_keeps_everything() {
    on_a_token(async |hsm| {
        let (custody, store) = open(&hsm).await;
        custody.keep(id(1), key(1)).await.unwrap();
        custody.keep(id(2), key(2)).await.unwrap();
        custody.destroy(&[id(2)]).await.unwrap();
        let secret = custody.derive(b"context").await.unwrap();
        store.put(put("k", 0, b"1")).await.unwrap();
        store.put(put("k", 1, b"2")).await.unwrap();
        store.put(put("gone", 0, b"1")).await.unwrap();
        store.delete("gone", 1).await.unwrap();
        store.consume(&[counter_use(1, u64::MAX, 1), counter_use(2, 1, 1)]).await.unwrap();
        store.forget_counters([2; 16]).await.unwrap();
        drop((custody, store));

        let token = Token::open(configuration(&hsm)).unwrap();
        let (custody, store) = (token.custody(), token.user_store().unwrap());
        assert_eq!(mac(&custody, 1).await, Ok(Some(expected(1))));
        assert_eq!(mac(&custody, 2).await, Ok(None));
        assert_eq!(custody.keys(None, 10).await, Ok(vec![id(1)]));
        assert_eq!(custody.derive(b"context").await.unwrap().expose(), secret.expose());
        let records = store.list(None, 10).await.unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].version, &records[0].value[..]), (2, &b"2"[..]));
        let uses = [counter_use(1, u64::MAX, 1), counter_use(1, 3, 1), counter_use(2, 1, 1)];
        let verdicts = store.consume(&uses).await.unwrap();
        assert_eq!(verdicts, [Verdict::SameNonce, Verdict::TooOld, Verdict::Fresh]);
    });
}

#[test]
fn keys_of_either_mode_are_good_in_the_other() {
    on_a_token(async |hsm| {
        let configuration =
            |mode| Configuration { mode, ..Configuration::new(SoftHsm::module(), SOFTHSM_TOKEN, hsm.pin_file(), mode) };
        let derived = Token::open(configuration(Mode::Derived)).unwrap().custody();
        derived.initialise().await.unwrap();
        let token = derived.keep(id(1), key(1)).await.unwrap();
        drop(derived);
        let objects = Token::open(configuration(Mode::Objects)).unwrap().custody();
        assert_eq!(objects.keep(id(2), key(2)).await, Ok(Vec::new()));
        let both = [request(1, &token), request(2, b"")];
        let answers = objects.mac(&both).await.unwrap();
        drop(objects);
        let derived = Token::open(configuration(Mode::Derived)).unwrap().custody();
        for answers in [answers, derived.mac(&both).await.unwrap()] {
            let macs: Vec<_> = answers.iter().map(|mac| mac.as_ref().unwrap().expose().to_vec()).collect();
            assert_eq!(macs, [expected(1), expected(2)]);
        }
    });
}

#[test]
fn prefixes_are_apart() {
    on_a_token(async |hsm| {
        let with = |prefix: &str| Configuration { prefix: prefix.to_owned(), ..configuration(&hsm) };
        let first = Token::open(with("one")).unwrap().custody();
        first.initialise().await.unwrap();
        first.keep(id(1), key(1)).await.unwrap();
        let secret = first.derive(b"").await.unwrap();
        drop(first);
        let token = Token::open(with("two")).unwrap();
        let second = token.custody();
        second.initialise().await.unwrap();
        assert_eq!(mac(&second, 1).await, Ok(None));
        assert_eq!(second.keys(None, 10).await, Ok(Vec::new()));
        assert_ne!(second.derive(b"").await.unwrap().expose(), secret.expose());
        second.destroy(&[id(1)]).await.unwrap();
        drop((second, token));
        assert_eq!(mac(&Token::open(with("one")).unwrap().custody(), 1).await, Ok(Some(expected(1))));
    });
}

#[test]
fn the_status_tells_what_there_is() {
    on_a_token(async |hsm| {
        let token = Token::open(configuration(&hsm)).unwrap();
        let custody = token.custody();
        let status = async || serde_json::from_str::<serde_json::Value>(&custody.status().await.unwrap()).unwrap();
        let before = status().await;
        assert_eq!((&before["initialised"], &before["keys"]), (&false.into(), &0.into()), "{before}");
        custody.initialise().await.unwrap();
        custody.keep(id(1), key(1)).await.unwrap();
        let after = status().await;
        assert_eq!((&after["initialised"], &after["keys"]), (&true.into(), &1.into()), "{after}");
        assert_eq!((&after["token"], &after["mode"]), (&SOFTHSM_TOKEN.into(), &"objects".into()), "{after}");
        assert_eq!((&after["model"], &after["max_keys"]), (&"SoftHSM v2".into(), &2000.into()), "{after}");
        assert_eq!(after["mechanisms"].as_array().unwrap().len(), 3, "{after}");
        assert!(after["serial"].as_str().is_some_and(|serial| serial.len() == 16), "{after}");
        assert!(!after.to_string().contains(SOFTHSM_PIN));
    });
}
