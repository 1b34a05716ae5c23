//! Vectors of kind `enrol`.

use super::{Checker, Result, show};
use crate::{
    enrolment_code::EnrolmentCode,
    kem::{self, TerminalKey},
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

    // The parties' states. The realm is in E1, the box's content in E2.
    let (expected_e1, expected_e2) = (checker.expected("E1")?, checker.expected("E2")?);
    let realm: Realm = Enrol1::decode(&expected_e1).map_err(show)?.realm.parse()?;
    let nonce = checker.array("n_t")?;
    let seed = checker.bytes_or_empty("t_mlkem_seed")?;
    let key = || TerminalKey::from_seed(kem_id, &terminal_seed, &seed).map_err(show);
    let (ephemeral, share) = key()?;
    let (e1, awaiting) =
        terminal::start_with(suite, id, &realm, &code, (kem_id, ephemeral, &share), &nonce).map_err(show)?;
    checker.equal("E1", &e1);
    // The management server's share is an input where it cannot be made from a seed.
    let m_share = checker.expected("m_share")?;
    let (own, _) = key()?;
    let shared = own.agree(&m_share).map_err(show)?;
    if kem_id != KemId::X25519MlKem768 {
        let (made, secret) = kem::respond(kem_id, &share, &management_seed).map_err(show)?;
        checker.that("the management server's share differs", made == m_share);
        checker.that("the shared secrets differ", secret.expose() == shared.expose());
    }
    let hash = schedule::hash(suite, &e1).map_err(show)?;
    let offer = Enrol2::decode(&expected_e2).map_err(show)?;
    let secrets = Secrets::derive(suite, &code.psk(), shared.expose(), &hash, offer.body).map_err(show)?;
    // What E2's box says is in none of the inputs: it is opened with the terminal's keys.
    let plain = secrets.box_key(suite).and_then(|key| key.open(suite, offer.body, offer.ciphertext));
    let details = EnrolBox::decode(&plain.map_err(show)?).map_err(show)?;
    let verified = management::receive(&e1, &realm, &[id], &[kem_id])
        .and_then(|request| request.verify(suite, &code.psk(), true))
        .map_err(show)?;
    let (e2, pending) = verified
        .offer_with(suite, &code.psk(), &details, &checker.array("n_m")?, &m_share, shared.expose())
        .map_err(show)?;
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

    checker.equal("m_share", &m_share);
    checker.equal("ss", if kem_id == KemId::None { &[] } else { shared.expose() });
    checker.equal("th", secrets.transcript().as_slice());
    Ok(())
}
