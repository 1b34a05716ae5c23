//! Vectors of kind `enrol`.

use super::{Checker, Result, show};
use crate::{
    enrolment_code::EnrolmentCode,
    kem::TerminalKey,
    management::enrol as management,
    message::{Enrol1, Enrol2, Enrol3, EnrolBox},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule::{self, enrolment::Secrets},
    suite::Suite,
    terminal::enrol as terminal,
};

pub(super) fn run(checker: &mut Checker<'_>, suite: &dyn Suite, id: SuiteId, kem_id: KemId) -> Result<()> {
    let code = EnrolmentCode::new(checker.array("code")?);
    let code_text = checker.text("code_text")?.to_owned();
    checker.that("code_text differs", code.expose() == code_text);
    checker.equal("eid", &code.id());
    checker.equal("psk", code.psk().expose());
    let (terminal_seed, management_seed) = (checker.kem_secret("t_x25519")?, checker.kem_secret("m_x25519")?);

    // The published vectors have neither the realm nor what E2's box says
    // among their inputs: they are read off E1 and, with the terminal's keys, E2.
    let realm: Realm = match checker.text("realm") {
        Ok(realm) => realm.parse()?,
        Err(_) => Enrol1::decode(&checker.expected("E1")?).map_err(show)?.realm.parse()?,
    };
    let nonce = checker.array("n_t")?;
    let seed = checker.bytes_or_empty("t_mlkem_seed")?;
    let key = || TerminalKey::from_seed(kem_id, &terminal_seed, &seed).map_err(show);
    let (ephemeral, share) = key()?;
    let (own, _) = key()?;

    // The parties' states.
    let (e1, awaiting) =
        terminal::start_with(suite, id, &realm, &code, (kem_id, ephemeral, &share), &nonce).map_err(show)?;
    checker.equal("E1", &e1);
    let (m_share, shared) = checker.agree("m_share", kem_id, &own, &share, &management_seed)?;
    let n_m = checker.array("n_m")?;
    let hash = schedule::hash(suite, &e1).map_err(show)?;
    let body = Enrol2::body(&n_m, &m_share);
    let secrets = Secrets::derive(suite, &code.psk(), shared.expose(), &hash, &body).map_err(show)?;
    let plain = match checker.bytes("box") {
        Ok(plain) => plain,
        Err(_) => {
            let expected = checker.expected("E2")?;
            let offer = Enrol2::decode(&expected).map_err(show)?;
            let opened = secrets.box_key(suite).and_then(|key| key.open(suite, offer.body, offer.ciphertext));
            opened.map_err(show)?.to_vec()
        }
    };
    let details = EnrolBox::decode(&plain).map_err(show)?;
    let verified = management::receive(&e1, &realm, &[id], &[kem_id])
        .and_then(|request| request.verify(suite, &code.psk(), true))
        .map_err(show)?;
    let (e2, pending) =
        verified.offer_with(suite, &code.psk(), &details, &n_m, &m_share, shared.expose()).map_err(show)?;
    checker.equal("E2", &e2);
    let (offered, done) = awaiting.receive(suite, &e2).map_err(show)?;
    checker.equal("E3", &offered.confirm);
    checker.that("the terminal's details differ", offered.details == details);
    let e4 = pending.confirm(&Enrol3::decode(&offered.confirm).map_err(show)?).map_err(show)?;
    checker.equal("E4", &e4);
    done.receive(&e4).map_err(show)?;
    checker.equal("K_u", offered.unique_key.expose());
    checker.equal("A_u", offered.management_key.expose());
    checker.that("K_u differs at the management server", pending.unique_key.ct_eq(offered.unique_key.expose()));
    checker.that("A_u differs at the management server", pending.management_key.ct_eq(offered.management_key.expose()));
    for (name, message) in [("E1", &e1), ("E2", &e2), ("E3", &offered.confirm), ("E4", &e4)] {
        checker.size(name, message.len());
    }

    checker.equal("th", secrets.transcript().as_slice());
    Ok(())
}
