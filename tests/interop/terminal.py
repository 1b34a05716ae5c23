#!/usr/bin/python3
"""A terminal for the IDB1 sign-on protocol, written from the specification alone.

It exists to test the specification: an implementation in another language by another
hand, which shares nothing with the product but the text and the test vectors. It is no
product itself: Python cannot wipe secrets, and keys rest in a plain file (mode 0600).

    terminal.py vectors FILE            reproduce the login and enrolment test vectors
    terminal.py enrol    ... < code     turn an enrolment code into a credential file
    terminal.py sign-on  ...            sign on to a service, print the access key
    terminal.py get URL  ...            use a bearer key

Supported: suites 0x0001 (AES-256-GCM/SHA-256) and 0x0003 (ChaCha20-Poly1305/SHA-256),
kem 0 (none) and 1 (X25519), bind 0 (none) and 1 (challenge), plain user ids. Not
supported: rotation, directory, handles, ML-KEM. Section numbers (§) refer to the
specification. Needs Python 3.11 and the `cryptography` package (38 or later).
"""
import argparse
import contextlib
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import re
import ssl
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

MAGIC = b"IDB1"
LOGIN, T_NOTE, T_REPLY, T_E1, T_E2, T_E3, T_E4 = 1, 0x82, 0x81, 0x11, 0x12, 0x13, 0x14
SUITES = {0x0001: AESGCM, 0x0003: ChaCha20Poly1305}      # both with SHA-256
SHARE_LEN = {0: 0, 1: 32}                                # kem -> bytes of a share, either side
CODES = ("OK", "MALFORMED", "UNSUPPORTED", "WRONG_SERVICE", "AUTH_FAILED", "SKEW", "REPLAY",
         "DENIED", "CLONE", "BIND_MISMATCH", "RATE_LIMITED", "UNAVAILABLE")
SKEW = 5
MAX_OFFSET_MS = 24 * 3600 * 1000                         # §6: larger ones need the user's word
MAX_BODY = 128 * 1024
CONTENT_TYPE = "application/vnd.idb1"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Failure(Exception):
    """Whatever ends a run: one line for the user."""


class Refused(Failure):
    """The server answered, and said no."""


def need(condition, message):
    if not condition:
        raise Failure(message)


# ---- encoding (§2) -------------------------------------------------------------------------

def u(size, value):
    return value.to_bytes(size, "big")


def v8(data):
    return u(1, len(data)) + data


def v16(data):
    return u(2, len(data)) + data


class Reader:
    """Strict parser: a field that does not fit, or a byte left over, is an error."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def require(self, condition):
        need(condition, f"malformed {self.what}")

    def take(self, count):
        self.require(len(self.data) - self.at >= count)
        self.at += count
        return self.data[self.at - count:self.at]

    def uint(self, size):
        return int.from_bytes(self.take(size), "big")

    def vec(self, prefix, low=0, high=0xFFFF):
        length = self.uint(prefix)
        self.require(low <= length <= high)
        return self.take(length)

    def start(self, message_type):
        self.require(self.take(5) == MAGIC + u(1, message_type))

    def end(self):
        self.require(self.at == len(self.data))


def valid_name(text, limit, what):
    need(re.fullmatch(r"[a-z0-9.-]{1,%d}" % limit, text), f"not a valid {what}: {text!r}")
    return text.encode()


# ---- primitives (§2, §4) -------------------------------------------------------------------

def H(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def HMAC(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")


def expand(prk, info, length):
    """HKDF-Expand (RFC 5869)."""
    out, block, index = b"", b"", 1
    while len(out) < length:
        block = HMAC(prk, block, info, u(1, index))
        out, index = out + block, index + 1
    return out[:length]


def seal(suite, key_iv, aad, plain):
    return SUITES[suite](key_iv[:32]).encrypt(key_iv[32:], plain, aad)


def unseal(suite, key_iv, aad, ct, what):
    try:
        return SUITES[suite](key_iv[:32]).decrypt(key_iv[32:], ct, aad)
    except (InvalidTag, ValueError):
        raise Failure(f"the {what} is not authentic") from None


def share_of(private):
    """The public share of an ephemeral key; empty for kem 0."""
    raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return private.public_key().public_bytes(*raw) if private else b""


def agree(private, peer_share):
    """The KEM's shared secret; for kem 0 the 32 zero bytes which stand in its place."""
    if private is None:
        return bytes(32)
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(peer_share))
    except ValueError:
        secret = bytes(32)
    need(any(secret), "the peer's key share is degenerate")
    return secret


def new_ephemeral(kem):
    return X25519PrivateKey.generate() if kem == 1 else None


# ---- login (§3, §4, §5) --------------------------------------------------------------------

@dataclass(repr=False)
class Run:
    """One sign-on attempt: what the terminal must remember of it."""
    suite: int
    kem: int
    service: str
    sp: bytes
    ephemeral: object
    header: bytes
    inner: bytes
    ms: bytes
    envelope: bytes

    @property
    def note_keys(self):
        return note_keys(self.ms, self.envelope)

    def reply_keys(self, head, ss):
        th = H(b"IDB1 th\0", H(self.envelope), head)
        return th, expand(HMAC(self.sp, ss), b"IDB1 rep\0" + th, 44)


@dataclass
class Reply:
    head: bytes
    status: int
    share: bytes
    note: bytes
    ct: bytes


@dataclass
class Note:
    code: int
    server_time: int
    service: bytes


def root(k_u, user_id, header):
    return HMAC(k_u, b"IDB1 root\0", v16(user_id), header, b"\x01")


def note_keys(ms, envelope):
    return expand(ms, b"IDB1 note\0" + H(envelope), 44)


def build(cred, service, scope, time_ms, bind=b"", nonce=None, sp=None, ephemeral=None):
    """Build the login envelope. The last three arguments are for the vectors only."""
    suite, kem, user_id = cred["suite"], cred["kem"], cred["user_id"].encode()
    nonce, sp = nonce or os.urandom(32), sp or os.urandom(32)
    ephemeral = ephemeral or new_ephemeral(kem)
    need(1 <= len(user_id) <= 128, "the credential's user id is too long")
    need(all(0 < len(name.encode()) <= 255 for name in scope), "bad attribute name in the scope")
    wanted = b"".join(v8(name.encode()) for name in scope)
    need(len(wanted) <= 512, "the scope is too long")
    header = (MAGIC + u(1, LOGIN) + u(1, 0) + u(2, suite) + u(4, cred["epoch"]) + u(8, time_ms)
              + nonce + u(1, 1 if bind else 0) + (bind or bytes(32))
              + v8(valid_name(cred["realm"], 64, "realm"))
              + v8(valid_name(service, 128, "service id"))
              + u(1, 0) + v8(user_id) + u(1, kem) + v16(share_of(ephemeral)) + v16(b""))
    inner = sp + bytes.fromhex(cred["a_u"]) + u(8, cred["counter"]) + v16(wanted)
    ms = root(bytes.fromhex(cred["k_u"]), user_id, header)
    ct = seal(suite, expand(ms, b"IDB1 msg\0", 44), header, inner)
    envelope = v16(header) + v16(ct)
    return Run(suite, kem, service, sp, ephemeral, header, inner, ms, envelope)


def parse_reply(data):
    r = Reader(data, "reply")
    r.start(T_REPLY)
    status = r.uint(1)
    r.require(status < len(CODES))
    r.take(32)                                           # s_nonce: only ever hashed, in `head`
    share, note = r.vec(2), r.vec(2, high=1400)
    head, ct = data[:r.at], r.vec(2)
    r.end()
    r.require(status == 0 or not ct)
    return Reply(head, status, share, note, ct)


def open_note(suite, ms, envelope, sealed):
    r = Reader(sealed, "note")
    r.start(T_NOTE)
    ct = r.vec(2)
    r.end()
    plain = unseal(suite, note_keys(ms, envelope), b"IDB1 note\0" + H(envelope), ct, "note")
    r = Reader(plain, "note")
    code, server_time, epoch, flags = r.uint(1), r.uint(8), r.uint(4), r.uint(1)
    service, handle, share = r.vec(1, high=128), r.vec(1), r.vec(2)
    r.end()
    r.require(code < len(CODES) and epoch >= 1 and flags & ~3 == 0)
    r.require(len(handle) in (0, 16) and not share)      # a share belongs to ROTATE only
    return Note(code, server_time, service)


def receive(run, data, max_lifetime, kinds):
    """All that §5 "T receives" asks. Returns (note, None) on a sealed refusal, or
    (note, access) with the checked content of the reply; any other failure raises."""
    reply = parse_reply(data)
    if reply.status != 0 and not reply.note:
        raise Refused(f"refused: {CODES[reply.status]} (status {reply.status}, advisory)")
    need(reply.note, "the reply lacks the manager's note")
    note = open_note(run.suite, run.ms, run.envelope, reply.note)
    # A refusal released nothing to anybody, so it may name no service; never another one.
    service = run.service.encode()
    need(note.service == service or (note.code and not note.service),
         "the manager answered to a different service than the intended one")
    if reply.status != 0 and note.code != 0:
        return note, None
    need(reply.status == 0, f"refused by the service: {CODES[reply.status]}")
    need(note.code == 0, f"status 0, yet the note says {CODES[note.code]}")
    need(len(reply.share) == SHARE_LEN[run.kem], "the reply's key share has the wrong length")
    _, keys = run.reply_keys(reply.head, agree(run.ephemeral, reply.share))
    r = Reader(unseal(run.suite, keys, reply.head, reply.ct, "reply"), "reply")
    kind, lifetime, keyid, key, audience = r.uint(1), r.uint(4), r.vec(1), r.vec(2), r.vec(1)
    r.end()
    r.require(kind in (1, 2, 3) and keyid and key and (kind != 3 or len(key) == 32))
    need(audience == service, "the key is for a different audience")
    need(lifetime <= max_lifetime, f"the key's lifetime of {lifetime} s exceeds the maximum")
    need(kind in kinds, f"a key of kind {kind} was not asked for")
    access = {"kind": kind, "lifetime": lifetime, "keyid": keyid.hex(), "audience": run.service}
    if kind != 3:
        need(re.fullmatch(rb"[A-Za-z0-9._~+/-]+=*", key), "the bearer key is not a bearer token")
        access["key"] = key.decode()
    return note, access


# ---- enrolment (§8) ------------------------------------------------------------------------

class Enrolment:
    """The four enrolment messages, the terminal's side."""

    def __init__(self, code, realm, suite, kem, n_t=None, ephemeral=None):
        self.suite, self.kem = suite, kem
        self.ephemeral = ephemeral or new_ephemeral(kem)
        self.eid = HMAC(code, b"IDB1 eid\0")[:8]
        self.psk = HMAC(code, b"IDB1 psk\0")
        b1 = (MAGIC + u(1, T_E1) + u(2, suite) + v8(valid_name(realm, 64, "realm")) + self.eid
              + (n_t or os.urandom(32)) + u(1, kem) + v16(share_of(self.ephemeral)))
        self.e1 = b1 + HMAC(self.psk, b"IDB1 e1\0", b1)

    def on_e2(self, e2):
        """Check E2 and derive the keys, E3 and the E4 that must answer it."""
        r = Reader(e2, "enrolment answer (E2)")
        r.start(T_E2)
        r.take(32)
        self.m_share = r.vec(2)
        b2, box = e2[:r.at], r.vec(2)
        r.end()
        r.require(len(self.m_share) == SHARE_LEN[self.kem])
        self.ss = agree(self.ephemeral, self.m_share)
        self.th = H(b"IDB1 eth\0", H(self.e1), b2)
        prk = HMAC(self.psk, self.ss)
        self.box_keys = expand(prk, b"IDB1 ebox\0" + self.th, 44)
        r = Reader(unseal(self.suite, self.box_keys, b2, box, "enrolment answer (E2)"), "E2 box")
        self.user_id, self.epoch = r.vec(1, 1, 128), r.uint(4)
        self.suite_floor, self.kem_floor = r.uint(2), r.uint(1)
        r.uint(8)                                        # server_time: §6 takes time from skew notes only
        r.end()
        r.require(self.epoch >= 1 and self.kem_floor <= 2)
        need(self.suite >= self.suite_floor, f"the realm requires suite 0x{self.suite_floor:04x}")
        need(self.kem_floor in SHARE_LEN, f"the realm requires kem {self.kem_floor}")
        self.k_u = expand(prk, b"IDB1 Ku\0" + self.th, 32)
        self.a_u = expand(prk, b"IDB1 Au\0" + self.th, 32)
        th3 = H(self.th, e2)
        self.e3 = MAGIC + u(1, T_E3) + self.eid + HMAC(expand(prk, b"IDB1 ec\0" + th3, 32), b"T")
        self.e4 = MAGIC + u(1, T_E4) + HMAC(expand(prk, b"IDB1 ea\0" + th3, 32), b"M")


def parse_code(text):
    """The 16 bytes of an enrolment code: 26 Crockford digits (128 bits and 2 zero bits), a check digit."""
    digits = re.sub(r"[\s-]", "", text).upper().translate(str.maketrans("OIL", "011"))
    need(len(digits) == 27 and all(d in CROCKFORD for d in digits), "the code must have 27 digits")
    number = 0
    for digit in digits[:26]:
        number = number << 5 | CROCKFORD.index(digit)
    code = (number >> 2).to_bytes(16, "big")
    check = H(b"IDB1 code\0", code)[0] & 31
    need(number & 3 == 0 and CROCKFORD[check] == digits[26], "the enrolment code is mistyped")
    return code


# ---- the credential file -------------------------------------------------------------------

def store(path, data):
    """Replace a file durably and atomically, readable by its owner only."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
        directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def store_credential(path, cred):
    store(path, json.dumps(cred, indent=1).encode() + b"\n")


def load_credential(path):
    with open(path, "rb") as file:
        cred = json.load(file)
    need(isinstance(cred, dict) and cred.get("format") == "idb1-credential-1",
         f"{path} is not a credential")
    return cred


@contextlib.contextmanager
def changing(path):
    """Change a credential under a lock; the file is written, durably, on leaving the block."""
    with open(os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cred = load_credential(path)
        need(cred["state"] == "active", "enrolment is unfinished: run enrol with the same code again")
        yield cred
        store_credential(path, cred)


# ---- HTTP (§14) ----------------------------------------------------------------------------

def request(ca, method, url, body=None, headers=None):
    """One request over TLS 1.3, redirects not followed. Returns (HTTP status, body)."""
    parts = urlsplit(url)
    need(parts.scheme == "https" and parts.hostname, f"not an https URL: {url}")
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        data = response.read(MAX_BODY + 1)
    finally:
        connection.close()
    need(len(data) <= MAX_BODY, "the answer is too long")
    return response.status, data


def call(args, base, path, body=None):
    method = "POST" if body is not None else "GET"
    headers = {"Content-Type": CONTENT_TYPE} if body is not None else {}
    return request(args.ca, method, base.rstrip("/") + path, body, headers)


# ---- commands ------------------------------------------------------------------------------

def enrol(args):
    code = parse_code(sys.stdin.readline())
    run = Enrolment(code, args.realm, args.suite, args.kem)

    def post(message):
        status, answer = call(args, args.server, "/idb/v1/enrol", message)
        if status != 200:
            raise Refused(f"enrolment refused (HTTP {status})")
        return answer

    def confirm(cred):
        need(hmac.compare_digest(post(bytes.fromhex(cred["e3"])), bytes.fromhex(cred["e4"])),
             "the manager's confirmation (E4) is not authentic")
        store_credential(args.credential, {k: v for k, v in cred.items() if k not in ("e3", "e4")}
                         | {"state": "active"})

    if os.path.exists(args.credential):                  # an E4 was lost: E3 may be repeated
        cred = load_credential(args.credential)
        if cred["state"] == "pending" and bytes.fromhex(cred["e3"])[5:13] == run.eid:
            with contextlib.suppress(Refused):
                return confirm(cred)
    run.on_e2(post(run.e1))
    cred = {"format": "idb1-credential-1", "state": "pending", "realm": args.realm,
            "user_id": run.user_id.decode(), "epoch": run.epoch, "suite": args.suite,
            "kem": max(args.kem, run.kem_floor), "suite_floor": run.suite_floor,
            "kem_floor": run.kem_floor, "k_u": run.k_u.hex(), "a_u": run.a_u.hex(),
            "counter": 0, "offset_ms": 0, "e3": run.e3.hex(), "e4": run.e4.hex()}
    store_credential(args.credential, cred)              # the keys first, then E3
    confirm(cred)


def sign_on(args):
    def clock():
        return int((time.time() + args.clock_offset) * 1000)

    def send(envelope):
        return call(args, args.origin, "/idb/v1/sign-on", envelope)

    def outcome(suite, ms, envelope):
        """Send an envelope whose answer is only to be looked at."""
        status, data = send(envelope)
        reply = parse_reply(data)
        note = open_note(suite, ms, envelope, reply.note) if reply.note else None
        return {"http": status, "status": reply.status, "note_code": note and note.code}

    def attempt():
        bind = b""
        if args.challenge:
            status, bind = call(args, args.origin, "/idb/v1/challenge")
            need(status == 200 and len(bind) == 32, f"no challenge to be had (HTTP {status})")
        with changing(args.credential) as cred:          # the counter is on disk before E leaves
            cred["counter"] += 1
        run = build(cred, args.service, args.scope, clock() + cred["offset_ms"], bind)
        if args.save_envelope:
            store(args.save_envelope, run.envelope)
        return run

    if args.send_envelope:
        with open(args.send_envelope, "rb") as file:
            envelope = file.read()
        cred = load_credential(args.credential)
        header = Reader(envelope, "envelope").vec(2)
        ms = root(bytes.fromhex(cred["k_u"]), cred["user_id"].encode(), header)
        return print(json.dumps(outcome(cred["suite"], ms, envelope)))
    if args.corrupt:
        run = attempt()
        return print(json.dumps(outcome(run.suite, run.ms,
                                        run.envelope[:-1] + u(1, run.envelope[-1] ^ 1))))
    for last in (False, True):
        run = attempt()
        http_status, data = send(run.envelope)
        try:
            note, access = receive(run, data, args.max_lifetime, args.kind)
        except Failure as failure:
            raise Failure(f"{failure} (HTTP {http_status})") from None
        if access:
            break
        if note.code != SKEW or last:
            raise Refused(f"refused: {CODES[note.code]} (sealed note {note.code})")
        offset = note.server_time - clock()
        need(abs(offset) <= MAX_OFFSET_MS, "the clock is off by more than 24 hours: set it first")
        with changing(args.credential) as cred:
            cred["offset_ms"] = offset
    print(json.dumps(access))
    if args.replay:
        print(json.dumps({"replay": outcome(run.suite, run.ms, run.envelope)}))


def get(args):
    status, body = request(args.ca, "GET", args.url, None, {"Authorization": f"Bearer {args.key}"})
    print(status)
    print(body.decode(errors="replace"))


def vectors(args):
    """Reproduce the vectors; the other side's part is recomputed here too, from its inputs."""
    with open(args.file, "rb") as file:
        document = json.load(file)
    need(document["format"] == "idb1-vectors-1", "unknown vector format")
    differences = 0
    for vector in document["vectors"]:
        suite, kem = int(vector["suite"], 16), vector["kem"]
        compute = {"login": login_vector, "enrol": enrol_vector}.get(vector["kind"])
        if not compute or suite not in SUITES or kem not in SHARE_LEN:
            print(f"skip {vector['name']}: {vector['kind']}, suite 0x{suite:04x}, kem {kem}")
            continue
        wanted = vector["intermediate"] | vector["outputs"]
        wanted |= {f"size of {name}": size for name, size in vector["sizes"].items()}
        got = compute(vector["inputs"], suite, kem, vector["outputs"])
        got |= {f"size of {name}": len(got[name]) for name in vector["sizes"]}
        for name, want in wanted.items():
            have = got.get(name)
            have = have.hex() if isinstance(have, bytes) else have
            differences += have != want
            print(f"{'ok  ' if have == want else 'DIFF'} {vector['name']} {name}")
        differences += got["accepted"]
        print(f"{'DIFF' if got['accepted'] else 'ok  '} {vector['name']} damaged answers refused")
    need(differences == 0, f"{differences} differences")


def damaged(data):
    """Every single-bit-per-byte flip, every truncation, one byte appended."""
    for i in range(len(data)):
        yield data[:i] + u(1, data[i] ^ 1 << i % 8) + data[i + 1:]
        yield data[:i]
    yield data + b"\0"


def count_accepted(accept, data):
    accepted = 0
    for bad in damaged(data):
        with contextlib.suppress(Failure):
            accepted += accept(bad) is not False
    return accepted


def private_key(text):
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text)) if text else None


def login_vector(given, suite, kem, outputs):
    raw = {k: bytes.fromhex(given[k]) for k in ("nonce", "SP", "bind", "s_nonce", "SAK", "keyid", "note_plain")}
    cred = {"suite": suite, "kem": kem, "k_u": given["K_u"], "a_u": given["A_u"],
            **{k: given[k] for k in ("user_id", "realm", "epoch", "counter")}}
    run = build(cred, given["service"], given["scope"], given["time_ms"],
                raw["bind"] if given["bind_kind"] else b"", raw["nonce"], raw["SP"],
                private_key(given["t_x25519"]))
    digest = H(run.envelope)
    note = MAGIC + u(1, T_NOTE) + v16(seal(suite, run.note_keys, b"IDB1 note\0" + digest, raw["note_plain"]))
    s_share = share_of(private_key(given["s_x25519"]))
    head = MAGIC + u(1, T_REPLY) + u(1, 0) + raw["s_nonce"] + v16(s_share) + v16(note)
    ss = agree(private_key(given["s_x25519"]), share_of(run.ephemeral))
    need(ss == agree(run.ephemeral, s_share), "the two sides disagree on ss")
    th, keys = run.reply_keys(head, ss)
    plain = (u(1, given["sak_kind"]) + u(4, given["lifetime"]) + v8(raw["keyid"])
             + v16(raw["SAK"]) + v8(given["service"].encode()))
    reply = head + v16(seal(suite, keys, head, plain))

    def receive_vector(data):
        return receive(run, data, given["lifetime"], {given["sak_kind"]})[1] or False
    need(receive_vector(bytes.fromhex(outputs["reply"])), "the vector's reply is refused")
    return {"header": run.header, "MS": run.ms, "msg_key_iv": expand(run.ms, b"IDB1 msg\0", 44),
            "inner": run.inner, "envelope_hash": digest, "note_key_iv": run.note_keys,
            "s_share": s_share, "ss": ss if kem else b"", "TH": th, "reply_key_iv": keys,
            "reply_plain": plain, "envelope": run.envelope, "note": note, "reply": reply,
            "accepted": count_accepted(receive_vector, reply)}


def enrol_vector(given, suite, kem, outputs):
    code = parse_code(given["code_text"])
    need(code.hex() == given["code"], "the code's text does not decode to the code")
    e1, e2 = bytes.fromhex(outputs["E1"]), bytes.fromhex(outputs["E2"])
    realm = Reader(e1[7:], "E1").vec(1).decode()         # not among the inputs, so taken from E1
    m_private = private_key(given["m_x25519"])

    def start():
        return Enrolment(code, realm, suite, kem, bytes.fromhex(given["n_t"]), private_key(given["t_x25519"]))
    run = start()
    run.on_e2(e2)
    b2 = MAGIC + u(1, T_E2) + bytes.fromhex(given["n_m"]) + v16(share_of(m_private))
    box = unseal(suite, run.box_keys, b2, e2[len(b2) + 2:], "box")   # its content is no input either
    return {"eid": run.eid, "psk": run.psk, "ss": agree(m_private, share_of(run.ephemeral)) if kem else b"",
            "m_share": share_of(m_private), "th": run.th, "E1": run.e1,
            "E2": b2 + v16(seal(suite, run.box_keys, b2, box)), "E3": run.e3, "E4": run.e4,
            "K_u": run.k_u, "A_u": run.a_u, "accepted": count_accepted(lambda bad: start().on_e2(bad), e2)}


# ---- command line --------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failure(message)


def suite_option(text):
    if int(text, 0) not in SUITES:
        raise ValueError(text)
    return int(text, 0)


def main():
    parser = Parser(description="A terminal for the IDB1 protocol")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, *required):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        for option in required:
            sub.add_argument(option, **({"required": True} if option[0] == "-" else {}))
        return sub

    command("vectors", vectors, "file")
    command("get", get, "url", "--ca", "--key")
    sub = command("enrol", enrol, "--server", "--ca", "--realm", "--credential")
    sub.add_argument("--suite", type=suite_option, default=0x0001)
    sub.add_argument("--kem", type=int, choices=sorted(SHARE_LEN), default=1)
    sub = command("sign-on", sign_on, "--origin", "--service", "--ca", "--credential")
    sub.add_argument("--scope", type=lambda text: [s for s in text.split(",") if s], default=[])
    sub.add_argument("--kind", type=lambda text: {int(k) for k in text.split(",")}, default={1, 2, 3},
                     help="the kinds of key to accept, such as 1,2")
    sub.add_argument("--max-lifetime", type=int, default=86400, metavar="SECONDS")
    sub.add_argument("--clock-offset", type=float, default=0, metavar="SECONDS", help="pretend the clock is off")
    sub.add_argument("--save-envelope", metavar="FILE", help="store the envelope before it is sent")
    sub.add_argument("--send-envelope", metavar="FILE", help="send stored bytes instead, print the outcome")
    sub.add_argument("--challenge", action="store_true", help="bind to a challenge of the service")
    sub.add_argument("--corrupt", action="store_true", help="flip a ciphertext bit, print the outcome")
    sub.add_argument("--replay", action="store_true", help="afterwards send the same envelope again")
    try:
        args = parser.parse_args()
        args.run(args)
    except (Failure, OSError, http.client.HTTPException, ValueError, KeyError) as failure:
        text = str(failure) if isinstance(failure, Failure) else f"{type(failure).__name__}: {failure}"
        print("terminal: " + " ".join(text.split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
