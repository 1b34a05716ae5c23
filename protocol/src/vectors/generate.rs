//! Makes vectors: every suite with every KEM, for every kind.
//!
//! Keys, nonces and seeds follow from the vector's name by HMAC-SHA-256, so
//! that they repeat; only the ML-KEM ciphertexts are random, and are inputs.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::{Checker, Recorded, Result, Vector, VectorFile, runner};
use crate::{
    code::Code,
    enrolment_code::EnrolmentCode,
    message::{EnrolBox, Note, NoteFlags},
    registry::{KemId, SuiteId},
    suite::Suite,
};

/// Makes a whole file; `suite` finds the implementations.
pub fn generate<'s>(suite: impl Fn(SuiteId) -> Option<&'s dyn Suite>) -> Result<VectorFile> {
    let mut vectors = Vec::new();
    for id in SuiteId::ALL {
        let suite = suite(id).ok_or_else(|| format!("suite {id} is not offered"))?;
        for kem in KemId::ALL {
            for (kind, inputs) in [("login", login as Inputs), ("rotate", rotate), ("enrol", enrol)] {
                if kind == "rotate" && kem == KemId::None {
                    continue; // a rotation needs a KEM
                }
                let name = format!("{kind}-{id}-{}", kem.to_string().to_ascii_lowercase());
                vectors.push(record(&Seed(name), kind, (id, suite), kem, inputs)?);
            }
        }
    }
    Ok(VectorFile { format: "idb1-vectors-1".into(), vectors })
}

type Inputs = fn(&Seed, KemId) -> Value;

const INTERMEDIATE: [&str; 15] = [
    "header",
    "MS",
    "msg_key_iv",
    "inner",
    "envelope_hash",
    "note_key_iv",
    "s_share",
    "m_share",
    "ss",
    "TH",
    "reply_key_iv",
    "reply_plain",
    "eid",
    "psk",
    "th",
];

fn record(seed: &Seed, kind: &str, (id, suite): (SuiteId, &dyn Suite), kem: KemId, inputs: Inputs) -> Result<Vector> {
    let Value::Object(inputs) = inputs(seed, kem) else { return Err("inputs are an object".into()) };
    let mut vector = Vector {
        name: seed.0.clone(),
        kind: kind.to_owned(),
        suite: id.to_string(),
        kem: kem.to_wire(),
        inputs: inputs.into_iter().collect(),
        intermediate: BTreeMap::new(),
        outputs: BTreeMap::new(),
        sizes: BTreeMap::new(),
    };
    let run = runner(kind).ok_or("no such kind")?;
    let mut checker =
        Checker { vector: &vector, reproduced: 0, differences: Vec::new(), recorded: Some(Recorded::default()) };
    run(&mut checker, suite, id, kem)?;
    if !checker.differences.is_empty() {
        return Err(checker.differences.join("; "));
    }
    let recorded = checker.recorded.unwrap_or_default();
    for (name, value) in recorded.values {
        let hex = data_encoding::HEXLOWER.encode(&value).into();
        let section =
            if INTERMEDIATE.contains(&name.as_str()) { &mut vector.intermediate } else { &mut vector.outputs };
        section.insert(name, hex);
    }
    vector.sizes = recorded.sizes;
    Ok(vector)
}

/// Where a vector's keys and nonces come from.
struct Seed(String);

impl Seed {
    fn bytes(&self, name: &str, len: usize) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let blocks = (0..len.div_ceil(32)).map(|block| hmac::sign(&key, format!("{name} {block}").as_bytes()));
        let mut bytes: Vec<u8> = blocks.flat_map(|block| block.as_ref().to_vec()).collect();
        bytes.truncate(len);
        bytes
    }

    fn hex(&self, name: &str, len: usize) -> String {
        data_encoding::HEXLOWER.encode(&self.bytes(name, len))
    }

    /// A secret of the KEM; empty where it has none.
    fn x25519(&self, name: &str, kem: KemId) -> String {
        if kem == KemId::None { String::new() } else { self.hex(name, 32) }
    }

    fn ml_kem(&self, kem: KemId) -> String {
        if kem == KemId::X25519MlKem768 { self.hex("t_mlkem_seed", 64) } else { String::new() }
    }
}

const TIME: u64 = 1_790_000_000_000;

fn login(seed: &Seed, kem: KemId) -> Value {
    let note = Note {
        code: Code::Ok,
        server_time_ms: TIME + 41,
        epoch: 3,
        flags: NoteFlags::default(),
        service: "wiki.example".into(),
        next_handle: Vec::new(),
        kem_share: Vec::new(),
    };
    // Each KEM with another binding and another kind of key.
    let bind_kind = kem.to_wire();
    let bind = if bind_kind == 0 { "00".repeat(32) } else { seed.hex("bind", 32) };
    json!({
        "K_u": seed.hex("K_u", 32), "A_u": seed.hex("A_u", 32), "user_id": "zoë", "realm": "example",
        "service": "wiki.example", "epoch": 3, "time_ms": TIME, "nonce": seed.hex("nonce", 32),
        "bind_kind": bind_kind, "bind": bind, "counter": 4_294_967_296u64,
        "scope": ["user", "groups"], "SP": seed.hex("SP", 32), "t_x25519": seed.x25519("t_x25519", kem),
        "t_mlkem_seed": seed.ml_kem(kem), "s_x25519": seed.x25519("s_x25519", kem),
        "s_nonce": seed.hex("s_nonce", 32), "SAK": seed.hex("SAK", 32), "keyid": seed.hex("keyid", 16),
        "sak_kind": kem.to_wire() + 1, "lifetime": 3600,
        "note_plain": data_encoding::HEXLOWER.encode(&note.encode()),
    })
}

fn rotate(seed: &Seed, kem: KemId) -> Value {
    json!({
        "K_u": seed.hex("K_u", 32), "A_u": seed.hex("A_u", 32), "user_id": "zoë", "realm": "example", "epoch": 3,
        "time_ms": TIME, "server_time_ms": TIME + 41, "nonce": seed.hex("nonce", 32), "counter": 9,
        "t_x25519": seed.x25519("t_x25519", kem), "t_mlkem_seed": seed.ml_kem(kem),
        "m_x25519": seed.x25519("m_x25519", kem),
    })
}

fn enrol(seed: &Seed, kem: KemId) -> Value {
    let code: [u8; 16] = seed.bytes("code", 16).try_into().unwrap_or_default();
    let details = EnrolBox {
        user_id: "zoë".into(),
        epoch: 1,
        suite_floor: SuiteId::AES_256_GCM_SHA256,
        kem_floor: KemId::None,
        server_time_ms: TIME + 41,
    };
    json!({
        "code": data_encoding::HEXLOWER.encode(&code), "code_text": EnrolmentCode::new(code).expose(),
        "realm": "example", "n_t": seed.hex("n_t", 32), "n_m": seed.hex("n_m", 32),
        "t_x25519": seed.x25519("t_x25519", kem), "t_mlkem_seed": seed.ml_kem(kem),
        "m_x25519": seed.x25519("m_x25519", kem), "box": data_encoding::HEXLOWER.encode(&details.encode()),
    })
}
