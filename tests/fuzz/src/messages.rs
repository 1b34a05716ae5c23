//! Each decoder of a wire message or of a sealed part: none panics, none takes
//! a message that is cut short or has a byte too many, and what one takes is
//! encoded to the same bytes again.

use claviger_protocol::message::{
    AccountInner, Answer, Directory, DirectoryMessage, Enrol1, Enrol2, Enrol3, Enrol4, EnrolBox, Envelope, Header,
    Held, KeyGrant, LoginInner, Note, NoteMessage, Refusal, Reply, Scope, reply_head,
};
use claviger_protocol::{Realm, ServiceId};

/// Hands `data` to each decoder.
pub fn run(data: &[u8]) {
    macro_rules! check {
        ($message:ident, $encode:expr) => {
            if let Ok(message) = $message::decode(data) {
                let name = stringify!($message);
                let encode: fn($message<'_>, &[u8]) -> Vec<u8> = $encode;
                assert_eq!(encode(message, data), data, "{name} has two encodings");
                check!(strict $message);
            }
        };
        (owned $message:ident, $encode:expr) => {
            if let Ok(message) = $message::decode(data) {
                let name = stringify!($message);
                let encode: fn($message) -> Vec<u8> = $encode;
                assert_eq!(encode(message), data, "{name} has two encodings");
                check!(strict $message);
            }
        };
        (strict $message:ident) => {
            let name = stringify!($message);
            assert!($message::decode(&data[..data.len() - 1]).is_err(), "{name} was cut short");
            assert!($message::decode(&[data, &[0]].concat()).is_err(), "{name} has a trailing byte");
        };
    }
    check!(Header, |header, _| header_bytes(&header));
    check!(Envelope, |envelope, _| {
        assert_eq!(header_bytes(&envelope.header), envelope.header_bytes);
        let start = Envelope::start(envelope.header_bytes, envelope.ciphertext.len()).unwrap();
        [start.as_slice(), envelope.ciphertext].concat()
    });
    check!(owned LoginInner, |inner| {
        let names: Vec<_> = inner.scope.names().collect();
        assert_eq!(Scope::new(&names).unwrap(), inner.scope);
        inner.encode().to_vec()
    });
    check!(owned AccountInner, |inner| inner.encode().to_vec());
    check!(owned Directory, |directory| directory.encode().unwrap());
    check!(DirectoryMessage, |message, _| {
        [DirectoryMessage::start(message.ciphertext.len()).as_slice(), message.ciphertext].concat()
    });
    check!(Answer, |answer, _| {
        assert_eq!(answer.grant.is_some(), answer.code.to_wire() == 0);
        answer.encode()
    });
    check!(owned Note, |note| note.encode());
    check!(NoteMessage, |message, _| {
        [NoteMessage::start(message.ciphertext.len()).as_slice(), message.ciphertext].concat()
    });
    check!(Reply, |reply, data| {
        let nonce = data[6..38].try_into().unwrap();
        let head = reply_head(reply.code, nonce, reply.kem_share, reply.note);
        assert_eq!(head, reply.head);
        [&head, v16(reply.ciphertext).as_slice()].concat()
    });
    check!(owned KeyGrant, |grant| grant.encode().unwrap().to_vec());
    check!(Enrol1, |e1, data| {
        let realm: Realm = e1.realm.parse().unwrap();
        let nonce = data[16 + e1.realm.len()..][..32].try_into().unwrap();
        let body = Enrol1::body(e1.suite, &realm, &e1.id, nonce, e1.kem, e1.share);
        assert_eq!(body, e1.body);
        [body.as_slice(), &e1.tag].concat()
    });
    check!(Enrol2, |e2, data| {
        let body = Enrol2::body(data[5..37].try_into().unwrap(), e2.share);
        assert_eq!(body, e2.body);
        [body.as_slice(), v16(e2.ciphertext).as_slice()].concat()
    });
    check!(owned EnrolBox, |details| details.encode());
    check!(owned Enrol3, |e3| e3.encode());
    check!(owned Enrol4, |e4| e4.encode());
    check!(owned Held, |held| held.encode());
    check!(owned Refusal, |refusal| refusal.encode());
}

fn header_bytes(header: &Header<'_>) -> Vec<u8> {
    assert!(Realm::from_bytes(header.realm.as_bytes()).is_some());
    assert!(header.service.is_empty() || ServiceId::from_bytes(header.service.as_bytes()).is_some());
    header.encode().unwrap()
}

fn v16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
