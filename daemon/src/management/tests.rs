//! Races and interruptions: what users, codes and credentials become.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use claviger_plugin_api::{KeyCustody, KeyId, Record, SecretBytes, UserStore};
use claviger_protocol::{
    Code, KemId, Realm, Secret32, SuiteId,
    aws_lc::AwsLc,
    enrolment_code::EnrolmentCode,
    message::Uid,
    terminal::{
        enrol::{self, AwaitDone, Offered},
        envelope::Sender,
        rotate,
    },
};
use data_encoding::HEXLOWER;
use tokio::sync::oneshot;

use super::{
    Management, NotReady, account,
    enrolment::Answer,
    model::{AdminError, NewUser, Service, UserState},
    record::{CredentialRecord, EnrolmentRecord, Keys, Stored, UniqueKey, UserRecord, enrolment_key, user_key},
    sealing::DataKeyId,
    testing::{MemoryCustody, MemoryStore, REALM, management, with_custody},
    unique_keys::Named,
};

use crate::clock;

const DAY: Duration = Duration::from_secs(86_400);

async fn with_user() -> (Arc<MemoryStore>, Arc<Management>) {
    let store = MemoryStore::new();
    let management = management(store.clone()).await;
    management.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    (store, management)
}

async fn new_code(management: &Management) -> EnrolmentCode {
    management.enrolment().new_code("ann", DAY).await.unwrap().0
}

/// E1 and E2, as a terminal makes and takes them.
async fn offer(management: &Management, code: &EnrolmentCode) -> Result<(Offered, AwaitDone), Code> {
    let realm: Realm = REALM.parse().unwrap();
    let suite = AwsLc::suite(SuiteId(1)).unwrap();
    let random = Secret32::new([9; 32]);
    let (e1, awaited) = enrol::start(suite, SuiteId(1), &realm, code, KemId::X25519, &[8; 32], &random).unwrap();
    let Answer::Message(e2) = management.enrolment().handle(&e1).await? else { panic!("held") };
    Ok(awaited.receive(suite, &e2).unwrap())
}

async fn confirm(management: &Management, (offered, done): &(Offered, AwaitDone)) -> Result<(), Code> {
    let Answer::Message(e4) = management.enrolment().handle(&offered.confirm).await? else { panic!("held") };
    done.receive(&e4).unwrap();
    Ok(())
}

async fn enrol_anew(management: &Management) -> CredentialRecord {
    let code = new_code(management).await;
    let offered = offer(management, &code).await.unwrap();
    confirm(management, &offered).await.unwrap();
    user(management).await.credential.unwrap()
}

async fn user(management: &Management) -> UserRecord {
    management.repository.get(&user_key("ann")).await.unwrap().unwrap().value
}

async fn has_keys_of(management: &Management, (offered, _): &(Offered, AwaitDone)) -> bool {
    let Some(credential) = user(management).await.credential else { return false };
    let keys = Keys::open(&management.enrolment().keyring, REALM, "ann", &credential, 1).unwrap();
    let UniqueKey::Held(unique) = keys.unique else { return false };
    unique.ct_eq(offered.unique_key.expose()) && keys.management.ct_eq(offered.management_key.expose())
}

#[tokio::test]
async fn an_enrolment_that_was_interrupted_anywhere_can_be_ended() {
    for writes in 0..=3 {
        for again in [false, true] {
            let (store, management) = with_user().await;
            let code = new_code(&management).await;
            let first = offer(&management, &code).await.unwrap();
            store.writes_left.store(writes, Ordering::SeqCst);
            let outcome = confirm(&management, &first).await;
            store.writes_left.store(usize::MAX, Ordering::SeqCst);
            // The first write burns, the second activates, the third erases.
            let expected = if writes < 2 { Err(Code::Unavailable) } else { Ok(()) };
            assert_eq!(outcome, expected, "{writes} writes");

            let case = format!("{writes} writes, E1 again: {again}");
            match if again { offer(&management, &code).await } else { Err(Code::AuthFailed) } {
                // A terminal gives up the first keys only for an E2, which must lead to an end, too.
                Ok(second) => {
                    confirm(&management, &second).await.unwrap();
                    assert!(has_keys_of(&management, &second).await, "{case}");
                    assert_eq!(confirm(&management, &first).await, Err(Code::AuthFailed), "{case}");
                }
                Err(code) => {
                    assert_eq!(code, Code::AuthFailed, "{case}");
                    confirm(&management, &first).await.unwrap();
                    assert!(has_keys_of(&management, &first).await, "{case}");
                    confirm(&management, &first).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn a_used_code_keeps_no_keys_and_offers_nothing() {
    let (_, management) = with_user().await;
    let code = new_code(&management).await;
    let offered = offer(&management, &code).await.unwrap();
    confirm(&management, &offered).await.unwrap();
    let burnt = management.repository.get::<EnrolmentRecord>(&enrolment_key(&code.id())).await.unwrap().unwrap().value;
    assert!(burnt.psk.is_none());
    assert!(burnt.offer.unwrap().credential.keys.is_erased());
    assert_eq!(offer(&management, &code).await.unwrap_err(), Code::AuthFailed);
}

#[tokio::test]
async fn a_code_that_is_not_the_users_any_more_offers_nothing() {
    let (store, management) = with_user().await;
    let first = new_code(&management).await;
    let key = enrolment_key(&first.id());
    let kept = management.repository.get::<EnrolmentRecord>(&key).await.unwrap().unwrap().value;
    let second = new_code(&management).await;
    // As if removing the former code had failed.
    management.repository.create(&key, &kept).await.unwrap();
    assert_eq!(offer(&management, &first).await.unwrap_err(), Code::AuthFailed);
    offer(&management, &second).await.unwrap();
    let version = store.get(&[user_key("ann")]).await.unwrap()[0].as_ref().unwrap().version;
    store.delete(&user_key("ann"), version).await.unwrap();
    assert_eq!(offer(&management, &second).await.unwrap_err(), Code::AuthFailed);
}

#[tokio::test]
async fn a_clone_stays_out_whatever_administrators_do_until_it_enrols_anew() {
    let (_, management) = with_user().await;
    let credential = enrol_anew(&management).await;
    // While an administrator has suspended the user, too.
    management.suspend_user("ann", Some("left")).await.unwrap();
    let gate = management.gate();
    assert!(gate.suspend_clone("ann", credential.id).await.unwrap());
    assert!(!gate.suspend_clone("ann", credential.id).await.unwrap(), "one answer has the note");
    assert!(matches!(management.resume_user("ann").await, Err(AdminError::Invalid(_))));
    management.suspend_user("ann", None).await.unwrap();
    assert!(matches!(management.resume_user("ann").await, Err(AdminError::Invalid(_))));
    assert!(user(&management).await.is_kept_out());

    enrol_anew(&management).await;
    assert_eq!(management.user("ann").await.unwrap().state, UserState::Suspended, "the administrator's stays");
    assert_eq!(management.resume_user("ann").await.unwrap().state, UserState::Active);
}

#[tokio::test]
async fn a_late_verdict_on_a_former_credential_does_not_touch_the_new_one() {
    let (_, management) = with_user().await;
    let former = enrol_anew(&management).await;
    enrol_anew(&management).await;
    assert!(!management.gate().suspend_clone("ann", former.id).await.unwrap());
    assert!(!user(&management).await.is_kept_out());
    management.delete_user("ann").await.unwrap();
    assert!(!management.gate().suspend_clone("ann", former.id).await.unwrap());
}

#[tokio::test]
async fn keys_are_opened_for_users_that_there_are_not() {
    let (_, management) = with_user().await;
    let new = user(&management).await;
    let record = Record { key: user_key("ann"), version: 1, value: new.to_bytes(), terms: Vec::new() };
    let gate = management.gate();
    assert!(!gate.resolve(None, 1).unwrap().known);
    assert!(!gate.resolve(Some(&record), 1).unwrap().known);
    enrol_anew(&management).await;
    let record = Record { value: user(&management).await.to_bytes(), ..record };
    assert!(gate.resolve(Some(&record), 1).unwrap().known);
    assert!(!gate.resolve(Some(&record), 2).unwrap().known, "another epoch");
}

#[tokio::test]
async fn a_data_key_that_goes_takes_nobody_along_and_betrays_nobody() {
    let (_, management) = with_user().await;
    let code = new_code(&management).await;
    let former = management.keyring.ids()[0];
    let offered = offer(&management, &code).await.unwrap();
    management.rotate_data_key(&[], true).await.unwrap();
    // What goes from the code to the user goes under the current key.
    confirm(&management, &offered).await.unwrap();
    let credential = user(&management).await.credential.unwrap();
    assert_eq!(DataKeyId::of(&credential.keys.sealed), Some(management.keyring.ids()[1]));
    assert!(has_keys_of(&management, &offered).await);
    while management.rewrap(true, 1000).await.unwrap().end.is_none() {}
    management.keyring.remove(&[former]).await.unwrap();
    assert_eq!(management.keyring.ids().len(), 1);
    management.refresh().await.unwrap();
    // Users and codes that there are not get the same answer as ever.
    assert!(!management.gate().resolve(None, 1).unwrap().known);
    let unknown = EnrolmentCode::new([3; 16]);
    assert_eq!(offer(&management, &unknown).await.unwrap_err(), Code::AuthFailed);
    assert!(has_keys_of(&management, &offered).await);
}

#[tokio::test]
async fn a_removed_service_does_not_come_back_with_an_older_reading() {
    let (store, management) = with_user().await;
    let service = Service {
        id: "shop".into(),
        origins: Vec::new(),
        release: Vec::new(),
        allow_groups: Vec::new(),
        key_pin: None,
    };
    management.add_service(service).await.unwrap();
    let (release, hold) = oneshot::channel();
    *store.hold.lock().unwrap() = Some(hold);
    // A reading that has seen the service waits; meanwhile it is removed.
    let reader = management.clone();
    let older = tokio::spawn(async move { reader.refresh().await });
    tokio::task::yield_now().await;
    let remover = management.clone();
    let removed = tokio::spawn(async move { remover.remove_service("shop").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    release.send(()).unwrap();
    older.await.unwrap().unwrap();
    removed.await.unwrap().unwrap();
    assert!(management.registry.get("shop").is_none());
}

/// A rotation as ann's terminal makes it: the answer and, if there are some, the new keys.
async fn rotate(
    management: &Management,
    (epoch, counter): (u32, u64),
    unique_key: &Secret32,
    management_key: &Secret32,
) -> Result<rotate::Rotated, Code> {
    let suite = AwsLc::suite(SuiteId(1)).unwrap();
    let realm: Realm = REALM.parse().unwrap();
    let sender = Sender {
        realm: &realm,
        user_id: b"ann",
        uid: Uid::UserId(b"ann"),
        epoch,
        unique_key,
        management_key,
        suite: SuiteId(1),
        kem: KemId::X25519,
        counter,
        time_ms: clock::millis(std::time::SystemTime::now()),
    };
    let (envelope, awaited) = rotate::start(suite, &sender, [counter as u8; 32], &Secret32::new([6; 32])).unwrap();
    let answered = management.account().handle(account::Request::Rotate, &envelope).await;
    if answered.code == Code::Ok { Ok(awaited.receive(suite, &answered.bytes).unwrap()) } else { Err(answered.code) }
}

#[tokio::test]
async fn custody_holds_the_keys_that_records_name_and_no_others() {
    let custody = Arc::new(MemoryCustody::default());
    let store = MemoryStore::new();
    let management = with_custody(store.clone(), Some(custody.clone())).await;
    management.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    let held = async || custody.keys(None, 1000).await.unwrap();
    // One stands in for users that there are not.
    let dummy: Vec<KeyId> = held().await;
    assert_eq!(dummy.len(), 1);
    let users = async || held().await.into_iter().filter(|id| !dummy.contains(id)).collect::<Vec<_>>();

    let code = new_code(&management).await;
    offer(&management, &code).await.unwrap();
    let first = offer(&management, &code).await.unwrap();
    assert_eq!(users().await.len(), 1, "the second offer takes the place of the first");
    confirm(&management, &first).await.unwrap();
    let credential = user(&management).await.credential.unwrap();
    assert_eq!(users().await, credential.keys_in_custody());
    let id = credential.keys_in_custody()[0];
    assert!(custody.keys.lock().unwrap()[&id].expose() == first.0.unique_key.expose());

    let (unique, own) = (&first.0.unique_key, &first.0.management_key);
    rotate(&management, (1, 1), unique, own).await.unwrap();
    let rotated = rotate(&management, (1, 2), unique, own).await.unwrap();
    assert_eq!(users().await.len(), 2, "the current key, and the last that was handed out");
    let next = rotate(&management, (2, 1), &rotated.keys.unique_key, &rotated.keys.management_key).await.unwrap();
    assert_eq!(next.epoch, 3);
    let mut named = user(&management).await.credential.unwrap().keys_in_custody();
    named.sort();
    assert_eq!(users().await, named, "the former key is gone with its epoch");

    custody.away.store(true, Ordering::SeqCst);
    let away = rotate(&management, (2, 2), &rotated.keys.unique_key, &rotated.keys.management_key).await;
    assert_eq!(away.unwrap_err(), Code::Unavailable, "away is no refusal");
    custody.away.store(false, Ordering::SeqCst);

    let again = enrol_anew(&management).await;
    assert_eq!(users().await, again.keys_in_custody(), "a new enrolment leaves nothing of the former");
    let pending = new_code(&management).await;
    offer(&management, &pending).await.unwrap();
    assert_eq!(users().await.len(), 2);
    new_code(&management).await;
    assert_eq!(users().await, again.keys_in_custody(), "a code that was replaced takes its offer along");
    management.delete_user("ann").await.unwrap();
    assert_eq!(users().await, [] as [KeyId; 0]);
}

#[tokio::test]
async fn keys_that_no_record_names_are_found_and_destroyed_and_no_others() {
    let custody = Arc::new(MemoryCustody::default());
    let management = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    management.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    enrol_anew(&management).await;
    offer(&management, &new_code(&management).await).await.unwrap();
    // The user's, and that of an offer.
    let found = management.orphaned_keys().await.unwrap();
    assert_eq!((found.keys, found.orphans.len()), (2, 0));
    // Another realm's, whose records are in another store.
    let elsewhere = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    elsewhere.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    enrol_anew(&elsewhere).await;
    let named = custody.keys(None, 1000).await.unwrap();
    assert_eq!(named.len(), 5, "with the dummies of both");
    let lost = lose_key(&management, &custody).await;
    let found = management.orphaned_keys().await.unwrap();
    assert_eq!((found.keys, found.orphans), (3, vec![HEXLOWER.encode(&lost)]));
    let all: Vec<String> = custody.keys(None, 1000).await.unwrap().iter().map(|id| HEXLOWER.encode(id)).collect();
    assert_eq!(management.destroy_orphaned_keys(&all, true).await.unwrap(), 1, "of all, the one that nothing names");
    assert_eq!(custody.keys(None, 1000).await.unwrap(), named);
    assert!(matches!(management.destroy_orphaned_keys(&["x".into()], false).await, Err(AdminError::Invalid(_))));
}

/// A key of the realm that no record names.
async fn lose_key(management: &Management, custody: &MemoryCustody) -> KeyId {
    let id = management.gate().realm_keys().new_key_id().unwrap();
    custody.keep(id, SecretBytes::zeroed(32)).await.unwrap();
    id
}

#[tokio::test]
async fn most_keys_of_a_realm_are_destroyed_when_that_is_said_only() {
    let custody = Arc::new(MemoryCustody::default());
    let management = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    let mut lost = Vec::new();
    for _ in 0..11 {
        lost.push(HEXLOWER.encode(&lose_key(&management, &custody).await));
    }
    let refused = management.destroy_orphaned_keys(&lost[..1], false).await;
    assert!(matches!(&refused, Err(AdminError::Invalid(text)) if text.contains("--many")), "{refused:?}");
    assert_eq!(management.orphaned_keys().await.unwrap().keys, 11);
    assert_eq!(management.destroy_orphaned_keys(&lost[..1], true).await.unwrap(), 1);
    assert_eq!(management.destroy_orphaned_keys(&lost, false).await.unwrap(), 10, "ten are few");
}

/// Lets a call begin, and drops it while the custody holds it: as hyper does when a terminal hangs up.
async fn hang_up<T>(custody: &MemoryCustody, call: impl Future<Output = T>) -> oneshot::Sender<()> {
    let (go_on, hold) = oneshot::channel();
    *custody.hold.lock().unwrap() = Some(hold);
    tokio::select! {
        _ = call => panic!("it was not held"),
        () = until(async || custody.hold.lock().unwrap().is_none()) => go_on,
    }
}

async fn until(holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it never came to its end");
}

#[tokio::test]
async fn a_terminal_that_hangs_up_leaves_no_key_behind() {
    let custody = Arc::new(MemoryCustody::default());
    let management = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    management.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    let only_named = async || {
        until(async || {
            let found = management.orphaned_keys().await.unwrap();
            found.orphans.is_empty()
        })
        .await;
    };

    let code = new_code(&management).await;
    hang_up(&custody, offer(&management, &code)).await.send(()).unwrap();
    only_named().await;
    let offered = offer(&management, &code).await.unwrap();
    confirm(&management, &offered).await.unwrap();

    let (unique, own) = (&offered.0.unique_key, &offered.0.management_key);
    hang_up(&custody, rotate(&management, (1, 1), unique, own)).await.send(()).unwrap();
    only_named().await;
    let rotated = rotate(&management, (1, 2), unique, own).await.unwrap();
    let (unique, own) = (&rotated.keys.unique_key, &rotated.keys.management_key);
    // It is the former key's destruction that is held.
    hang_up(&custody, rotate(&management, (2, 1), unique, own)).await.send(()).unwrap();
    only_named().await;

    let code = new_code(&management).await;
    let offered = offer(&management, &code).await.unwrap();
    hang_up(&custody, confirm(&management, &offered)).await.send(()).unwrap();
    only_named().await;
    assert_eq!(management.orphaned_keys().await.unwrap().keys, 1);
}

#[tokio::test]
async fn a_new_key_stays_only_where_a_record_may_name_it() {
    let custody = Arc::new(MemoryCustody::default());
    let management = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    let keep = async |named: Named| management.unique_keys.keep(&Secret32::new([1; 32]), async move |_| named).await;
    let keys = async || management.orphaned_keys().await.unwrap().keys;
    assert_eq!(keep(Named::No(Code::Denied)).await, Err(Code::Denied), "as where it cannot be sealed");
    assert_eq!(keys().await, 0);
    assert_eq!(keep(Named::InDoubt(Code::Unavailable)).await, Err(Code::Unavailable));
    assert_eq!(keys().await, 1);
    assert_eq!(
        keep(Named::Yes(custody.keys(None, 1000).await.unwrap())).await,
        Ok(()),
        "takes the place of the others"
    );
    assert_eq!(custody.keys(None, 1000).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_stands_in_the_store_is_followed_while_the_custody_is_away() {
    let (store, custody) = (MemoryStore::new(), Arc::new(MemoryCustody::default()));
    let management = with_custody(store.clone(), Some(custody.clone())).await;
    let other = with_custody(store, Some(custody.clone())).await;
    let service = Service {
        id: "shop".into(),
        origins: Vec::new(),
        release: Vec::new(),
        allow_groups: Vec::new(),
        key_pin: None,
    };
    other.add_service(service).await.unwrap();
    custody.away.store(true, Ordering::SeqCst);
    assert!(matches!(management.refresh().await, Err(NotReady::Custody(_))));
    assert!(management.registry.get("shop").is_some());
    other.remove_service("shop").await.unwrap();
    assert!(matches!(management.refresh().await, Err(NotReady::Custody(_))));
    assert!(management.registry.get("shop").is_none());
}

#[tokio::test]
async fn a_key_that_the_module_lost_is_unavailable_and_no_refusal() {
    let custody = Arc::new(MemoryCustody::default());
    let management = with_custody(MemoryStore::new(), Some(custody.clone())).await;
    management.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    let code = new_code(&management).await;
    let offered = offer(&management, &code).await.unwrap();
    confirm(&management, &offered).await.unwrap();
    let named = user(&management).await.credential.unwrap().keys_in_custody();
    custody.destroy(&named).await.unwrap();
    let answer = rotate(&management, (1, 1), &offered.0.unique_key, &offered.0.management_key).await;
    assert_eq!(answer.unwrap_err(), Code::Unavailable);
}

#[tokio::test]
async fn keys_move_into_custody_with_their_next_rotation() {
    let store = MemoryStore::new();
    let before = management(store.clone()).await;
    before.add_user(NewUser { id: "ann".into(), ..NewUser::default() }).await.unwrap();
    let code = new_code(&before).await;
    let offered = offer(&before, &code).await.unwrap();
    confirm(&before, &offered).await.unwrap();
    drop(before);

    let custody = Arc::new(MemoryCustody::default());
    let after = with_custody(store, Some(custody.clone())).await;
    let (unique, own) = (&offered.0.unique_key, &offered.0.management_key);
    // Users that there are not have their key in the module, and those with a key in the record answer as they do.
    custody.away.store(true, Ordering::SeqCst);
    assert_eq!(rotate(&after, (7, 1), unique, own).await.unwrap_err(), Code::Unavailable, "no such epoch");
    assert_eq!(rotate(&after, (1, 1), unique, own).await.unwrap_err(), Code::Unavailable);
    custody.away.store(false, Ordering::SeqCst);
    assert_eq!(rotate(&after, (7, 1), unique, own).await.unwrap_err(), Code::AuthFailed);
    let rotated = rotate(&after, (1, 1), unique, own).await.unwrap();
    rotate(&after, (2, 1), &rotated.keys.unique_key, &rotated.keys.management_key).await.unwrap();
    let credential = user(&after).await.credential.unwrap();
    assert_eq!((credential.epoch, credential.keys_in_custody().len()), (2, 2));
}
