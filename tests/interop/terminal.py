#!/usr/bin/python3
"""A terminal for the IDB1 sign-on protocol, written from the specification alone.

It tests the specification: another language, another hand, nothing shared but the text and
the vectors. No product: Python cannot wipe secrets, the keys rest in a plain file (0600).

Supported: suites 0x0001 (AES-256-GCM) and 0x0003 (ChaCha20-Poly1305), both with SHA-256;
kem 0 and 1 (X25519); bind 0 and 1 (challenge); plain user ids. Not: rotation, directory,
handles, ML-KEM. § refers to the specification. Needs Python 3.11, `cryptography` >= 38.
"""
import argparse, contextlib, fcntl, hashlib, hmac, http.client, json, os, re, ssl, sys, time
from collections import namedtuple
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LOGIN, NOTE, REPLY, E1, E2, E3, E4 = (b"IDB1" + bytes([t]) for t in (1, 0x82, 0x81, 0x11, 0x12, 0x13, 0x14))
SUITES = {0x0001: AESGCM, 0x0003: ChaCha20Poly1305}
SHARE_LEN = {0: 0, 1: 32}                                # kem -> length of a share, either side's
CODES = ("OK", "MALFORMED", "UNSUPPORTED", "WRONG_SERVICE", "AUTH_FAILED", "SKEW", "REPLAY",
         "DENIED", "CLONE", "BIND_MISMATCH", "RATE_LIMITED", "UNAVAILABLE")
MAX_OFFSET_MS, MAX_BODY = 24 * 3600 * 1000, 128 * 1024   # §6; a limit of our own
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

class Failure(Exception): """Whatever ends a run: one line for the user."""
class Refused(Failure): """The server answered, and said no."""

def need(condition, message):
    if not condition:
        raise Failure(message)

# ---- encoding (§2) -------------------------------------------------------------------------
def u(size, value): return value.to_bytes(size, "big")
def v8(data): return u(1, len(data)) + data
def v16(data): return u(2, len(data)) + data

def name(text, limit, what):
    need(re.fullmatch(r"[a-z0-9.-]{1,%d}" % limit, text), f"not a valid {what}: {text!r}")
    return v8(text.encode())

class Reader:
    """Strict parser: a field that does not fit, or a byte left over, is an error."""
    def __init__(self, data, what, start=b""):
        self.data, self.at, self.what = data, 0, what
        self.require(self.take(len(start)) == start)

    def require(self, condition): need(condition, f"malformed {self.what}")
    def uint(self, size): return int.from_bytes(self.take(size), "big")
    def end(self): self.require(self.at == len(self.data))

    def take(self, count):
        self.require(len(self.data) - self.at >= count)
        self.at += count
        return self.data[self.at - count:self.at]

    def vec(self, prefix, low=0, high=0xFFFF):
        length = self.uint(prefix)
        self.require(low <= length <= high)
        return self.take(length)

# ---- primitives (§2, §4) -------------------------------------------------------------------
def H(*parts): return hashlib.sha256(b"".join(parts)).digest()
def HMAC(key, *parts): return hmac.digest(key, b"".join(parts), "sha256")    # also HKDF-Extract(salt, ikm)

def expand(prk, info, length):
    """HKDF-Expand (RFC 5869)."""
    out = block = b""
    while len(out) < length:
        block = HMAC(prk, block, info, u(1, len(out) // 32 + 1))
        out += block
    return out[:length]

def seal(suite, key_iv, aad, plain): return SUITES[suite](key_iv[:32]).encrypt(key_iv[32:], plain, aad)

def unseal(suite, key_iv, aad, ct, what):
    try:
        return SUITES[suite](key_iv[:32]).decrypt(key_iv[32:], ct, aad)
    except (InvalidTag, ValueError):                     # ValueError: shorter than a tag
        raise Failure(f"the {what} is not authentic") from None

def new_ephemeral(kem): return X25519PrivateKey.generate() if kem == 1 else None
def private_key(raw): return X25519PrivateKey.from_private_bytes(raw) if raw else None
def share_of(key): return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) if key else b""

def agree(private, peer_share):
    """The KEM's shared secret; for kem 0 the 32 zero bytes which stand in its place."""
    if private is None:
        return bytes(32)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer_share))
    except ValueError:                                   # OpenSSL refuses an all-zero output
        raise Failure("the peer's key share is degenerate") from None

# ---- login (§3, §4, §5) --------------------------------------------------------------------
Run = namedtuple("Run", "suite kem service sp ephemeral header inner ms envelope")
Reply = namedtuple("Reply", "head status share note ct")
Note = namedtuple("Note", "code server_time service")

def root(cred, header):
    return HMAC(bytes.fromhex(cred["k_u"]), b"IDB1 root\0", v16(cred["user_id"].encode()), header, b"\1")

def note_keys(ms, envelope):
    """Key and IV of the note, and its AAD."""
    label = b"IDB1 note\0" + H(envelope)
    return expand(ms, label, 44), label

def reply_keys(run, head, ss):
    th = H(b"IDB1 th\0", H(run.envelope), head)
    return th, expand(HMAC(run.sp, ss), b"IDB1 rep\0" + th, 44)

def build(cred, service, scope, time_ms, bind=b"", nonce=None, sp=None, ephemeral=None):
    """Build a login envelope. The last three arguments are for the vectors only."""
    suite, kem, user_id = cred["suite"], cred["kem"], cred["user_id"].encode()
    nonce, sp, ephemeral = nonce or os.urandom(32), sp or os.urandom(32), ephemeral or new_ephemeral(kem)
    need(all(0 < len(attribute.encode()) < 256 for attribute in scope), "bad attribute name in the scope")
    wanted = b"".join(v8(attribute.encode()) for attribute in scope)
    need(len(wanted) <= 512, "the scope is too long")
    header = (LOGIN + u(1, 0) + u(2, suite) + u(4, cred["epoch"]) + u(8, time_ms) + nonce
              + u(1, 1 if bind else 0) + (bind or bytes(32)) + name(cred["realm"], 64, "realm")
              + name(service, 128, "service id") + u(1, 0) + v8(user_id) + u(1, kem)
              + v16(share_of(ephemeral)) + v16(b""))
    inner = sp + bytes.fromhex(cred["a_u"]) + u(8, cred["counter"]) + v16(wanted)
    ms = root(cred, header)
    envelope = v16(header) + v16(seal(suite, expand(ms, b"IDB1 msg\0", 44), header, inner))
    return Run(suite, kem, service, sp, ephemeral, header, inner, ms, envelope)

def parse_reply(data):
    r = Reader(data, "reply", REPLY)
    status, _s_nonce, share, note = r.uint(1), r.take(32), r.vec(2), r.vec(2, high=1400)
    head, ct = data[:r.at], r.vec(2)
    r.end()
    r.require(status < len(CODES) and (status == 0 or not ct))
    return Reply(head, status, share, note, ct)

def open_note(suite, ms, envelope, sealed):
    r = Reader(sealed, "note", NOTE)
    ct = r.vec(2)
    r.end()
    keys, aad = note_keys(ms, envelope)
    r = Reader(unseal(suite, keys, aad, ct, "note"), "note")
    code, server_time, epoch, flags = r.uint(1), r.uint(8), r.uint(4), r.uint(1)
    service, handle, share = r.vec(1, high=128), r.vec(1), r.vec(2)
    r.end()
    r.require(code < len(CODES) and epoch >= 1 and flags & ~3 == 0)
    r.require(len(handle) in (0, 16) and not share)      # a share belongs to ROTATE only
    return Note(code, server_time, service)

def receive(run, data, max_lifetime, kinds):
    """All that §5 "T receives" asks. Returns the note and the checked access data, which
    are None if the manager's sealed note refuses; every other failure raises."""
    reply, service = parse_reply(data), run.service.encode()
    if not reply.note:
        raise Refused(f"no note from the manager, status {CODES[reply.status]} ({reply.status}, advisory)")
    note = open_note(run.suite, run.ms, run.envelope, reply.note)
    # A refusal released nothing to anybody, so it may name no service; never another one.
    need(note.service == service or (note.code and not note.service),
         "the manager answered to a different service than the intended one")
    if reply.status != 0 and note.code != 0:
        return note, None
    need(reply.status == note.code == 0, f"status {CODES[reply.status]}, yet the note says {CODES[note.code]}")
    need(len(reply.share) == SHARE_LEN[run.kem], "the reply's key share has the wrong length")
    _, keys = reply_keys(run, reply.head, agree(run.ephemeral, reply.share))
    r = Reader(unseal(run.suite, keys, reply.head, reply.ct, "reply"), "reply")
    kind, lifetime, keyid, key, audience = r.uint(1), r.uint(4), r.vec(1), r.vec(2), r.vec(1)
    r.end()
    r.require(kind in (1, 2, 3) and (kind != 3 or len(key) == 32))
    need(audience == service, "the key is for a different audience")
    need(lifetime <= max_lifetime, f"the key's lifetime of {lifetime} s exceeds the maximum")
    need(kind in kinds, f"a key of kind {kind} was not asked for")
    access = {"kind": kind, "lifetime": lifetime, "keyid": keyid.hex(), "audience": run.service}
    if kind != 3:
        need(re.fullmatch(rb"[A-Za-z0-9._~+/-]+=*", key), "the key is not a bearer token (RFC 6750)")
        access["key"] = key.decode()
    return note, access

# ---- enrolment (§8) ------------------------------------------------------------------------
class Enrolment:
    """The enrolment messages, the terminal's side."""
    def __init__(self, code, realm, suite, kem, n_t=None, ephemeral=None):
        self.suite, self.kem, self.ephemeral = suite, kem, ephemeral or new_ephemeral(kem)
        self.eid, self.psk = HMAC(code, b"IDB1 eid\0")[:8], HMAC(code, b"IDB1 psk\0")
        b1 = (E1 + u(2, suite) + name(realm, 64, "realm") + self.eid + (n_t or os.urandom(32))
              + u(1, kem) + v16(share_of(self.ephemeral)))
        self.e1 = b1 + HMAC(self.psk, b"IDB1 e1\0", b1)

    def on_e2(self, e2):
        """Check E2; derive the keys, E3, and the E4 that must answer it."""
        r = Reader(e2, "E2", E2)
        _n_m, m_share = r.take(32), r.vec(2)
        b2, box = e2[:r.at], r.vec(2)
        r.end()
        r.require(len(m_share) == SHARE_LEN[self.kem])
        self.th = H(b"IDB1 eth\0", H(self.e1), b2)
        prk = HMAC(self.psk, agree(self.ephemeral, m_share))
        self.box_keys = expand(prk, b"IDB1 ebox\0" + self.th, 44)
        r = Reader(unseal(self.suite, self.box_keys, b2, box, "answer to the enrolment (E2)"), "E2")
        self.user_id, self.epoch, suite_floor, self.kem_floor = r.vec(1, 1, 128), r.uint(4), r.uint(2), r.uint(1)
        _server_time = r.uint(8)                         # §6: only a skew note moves the clock
        r.end()
        r.require(self.epoch >= 1)
        need(suite_floor <= self.suite, f"the realm requires suite 0x{suite_floor:04x}")
        need(self.kem_floor in SHARE_LEN, f"the realm requires kem {self.kem_floor}")
        self.k_u, self.a_u = (expand(prk, label + self.th, 32) for label in (b"IDB1 Ku\0", b"IDB1 Au\0"))
        th3 = H(self.th, e2)
        self.e3 = E3 + self.eid + HMAC(expand(prk, b"IDB1 ec\0" + th3, 32), b"T")
        self.e4 = E4 + HMAC(expand(prk, b"IDB1 ea\0" + th3, 32), b"M")

def parse_code(text):
    """An enrolment code: 26 Crockford digits (128 bits and 2 zero bits) and a check digit."""
    digits = re.sub(r"[\s-]", "", text).upper().translate(str.maketrans("OIL", "011"))
    need(re.fullmatch(f"[{CROCKFORD}]{{27}}", digits), "an enrolment code has 27 letters and digits")
    *values, check = (CROCKFORD.index(digit) for digit in digits)
    number = sum(value << 5 * (25 - i) for i, value in enumerate(values))
    code = u(16, number >> 2)
    need(number & 3 == 0 and check == H(b"IDB1 code\0", code)[0] & 31, "the enrolment code is mistyped")
    return code

# ---- files and HTTP (§14) ------------------------------------------------------------------
def store(path, data):
    """Replace a file durably and atomically, readable by its owner only."""
    data = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode()
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)

def load(path, file_format="idb1-credential-1"):
    with open(path, "rb") as file:
        document = json.load(file)
    need(isinstance(document, dict) and document.get("format") == file_format, f"{path}: not {file_format}")
    return document

@contextlib.contextmanager
def changing(path):
    """Change a credential under a lock; it is on disk when the block has been left."""
    with open(path + ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cred = load(path)
        need(cred["state"] == "active", "enrolment is unfinished: run enrol with the same code again")
        yield cred
        store(path, cred)

def request(args, url, body=None, **headers):
    """GET, or POST of a body, over TLS 1.3. Redirects are not followed."""
    parts = urlsplit(url)
    need(parts.scheme == "https" and parts.hostname, f"not an https URL: {url}")
    context = ssl.create_default_context(cafile=args.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    target = (parts.path or "/") + (parts.query and f"?{parts.query}")
    headers |= {} if body is None else {"Content-Type": "application/vnd.idb1"}
    link = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)
    with contextlib.closing(link):
        link.request("GET" if body is None else "POST", target, body, headers)
        response = link.getresponse()
        data = response.read(MAX_BODY + 1)
    need(len(data) <= MAX_BODY, "the answer is too long")
    return response.status, data

# ---- commands ------------------------------------------------------------------------------
def enrol(args):
    run = Enrolment(parse_code(sys.stdin.readline()), args.realm, args.suite, args.kem)
    def post(message):
        status, answer = request(args, args.server.rstrip("/") + "/idb/v1/enrol", message)
        if status != 200:
            raise Refused(f"enrolment refused (HTTP {status})")
        return answer
    def confirm(cred):
        e3, e4 = bytes.fromhex(cred.pop("e3")), bytes.fromhex(cred.pop("e4"))
        need(hmac.compare_digest(post(e3), e4), "the manager's confirmation (E4) is not authentic")
        store(args.credential, cred | {"state": "active"})

    if os.path.exists(args.credential):                  # if an E4 was lost, E3 may be repeated
        cred = load(args.credential)
        if cred["state"] == "pending" and bytes.fromhex(cred["e3"])[5:13] == run.eid:
            with contextlib.suppress(Refused):
                return confirm(cred)
    run.on_e2(post(run.e1))
    cred = {"format": "idb1-credential-1", "state": "pending", "realm": args.realm,
            "user_id": run.user_id.decode(), "epoch": run.epoch, "suite": args.suite,
            "kem": max(args.kem, run.kem_floor), "k_u": run.k_u.hex(), "a_u": run.a_u.hex(),
            "counter": 0, "offset_ms": 0, "e3": run.e3.hex(), "e4": run.e4.hex()}
    store(args.credential, cred)                         # the keys first, then E3
    confirm(cred)

def sign_on(args):
    def clock(): return int((time.time() + args.clock_offset) * 1000)
    def call(path, body=None): return request(args, args.origin.rstrip("/") + path, body)
    def new_run():
        bind = b""
        if args.challenge:
            status, bind = call("/idb/v1/challenge")
            need(status == 200 and len(bind) == 32, f"the service gave no challenge (HTTP {status})")
        with changing(args.credential) as cred:          # the counter is on disk before E leaves
            cred["counter"] += 1
        run = build(cred, args.service, args.scope, clock() + cred["offset_ms"], bind)
        if args.save_envelope:
            store(args.save_envelope, run.envelope)
        return run
    def outcome(suite, ms, envelope):
        """Send an envelope whose answer is only to be looked at, be it a reply or not."""
        status, data = call("/idb/v1/sign-on", envelope)
        reply = parse_reply(data) if data[:5] == REPLY else None
        note = open_note(suite, ms, envelope, reply.note) if reply and reply.note else None
        return {"http": status, "status": reply and reply.status, "note_code": note and note.code}

    if args.send_envelope:
        with open(args.send_envelope, "rb") as file:
            envelope = file.read()
        cred, header = load(args.credential), envelope[2:2 + int.from_bytes(envelope[:2], "big")]
        return print(json.dumps(outcome(cred["suite"], root(cred, header), envelope)))
    if args.corrupt:
        run = new_run()
        bad = run.envelope[:-17] + u(1, run.envelope[-17] ^ 1) + run.envelope[-16:]
        return print(json.dumps(outcome(run.suite, run.ms, bad)))
    for last in (False, True):
        run = new_run()
        http_status, data = call("/idb/v1/sign-on", run.envelope)
        try:
            note, access = receive(run, data, args.max_lifetime, args.kind)
        except Failure as failure:
            raise type(failure)(f"{failure} (HTTP {http_status})") from None
        if access:
            break
        if CODES[note.code] != "SKEW" or last:
            raise Refused(f"refused: {CODES[note.code]} (sealed note, code {note.code})")
        offset = note.server_time - clock()
        need(abs(offset) <= MAX_OFFSET_MS, "the clock is off by more than 24 hours: set it first")
        with changing(args.credential) as cred:
            cred["offset_ms"] = offset
    print(json.dumps(access))
    if args.replay:
        print(json.dumps({"replay": outcome(run.suite, run.ms, run.envelope)}))

def get(args):
    status, body = request(args, args.url, Authorization=f"Bearer {args.key}")
    print(status, body.decode(errors="replace"), sep="\n")

# ---- vectors (§12): the other side's part is recomputed as well ------------------------------
def vectors(args):
    differences = 0
    for vector in load(args.file, "idb1-vectors-1")["vectors"]:
        suite, kem, label = int(vector["suite"], 16), vector["kem"], vector["name"]
        compute = {"login": login_vector, "enrol": enrol_vector}.get(vector["kind"])
        if not compute or suite not in SUITES or kem not in SHARE_LEN:
            print(f"skip {label} ({vector['kind']}, suite 0x{suite:04x}, kem {kem})")
            continue
        given = {k: (bytes.fromhex(v) if isinstance(v, str) and re.fullmatch("([0-9a-f]{2})*", v) else v)
                 for k, v in vector["inputs"].items()}
        want = vector["intermediate"] | vector["outputs"]
        got, answer, accept = compute(given, suite, kem, vector["outputs"])
        results = [(key, key in got and got[key].hex() == want[key]) for key in want]
        results.append(("damaged answers refused", refuses_damage(accept, answer)))
        for key, same in results:
            print("ok  " if same else "DIFF", label, key)
            differences += not same
    need(not differences, f"{differences} differences")

def refuses_damage(accept, data):
    """Try a bit flipped in every byte, every truncation, a byte appended."""
    flipped = [data[:i] + u(1, data[i] ^ 1 << i % 8) + data[i + 1:] for i in range(len(data))]
    for bad in flipped + [data[:i] for i in range(len(data))] + [data + b"\0"]:
        with contextlib.suppress(Failure):
            accept(bad)
            return False
    return True

def login_vector(given, suite, kem, _outputs):
    cred = {"suite": suite, "kem": kem, "k_u": given["K_u"].hex(), "a_u": given["A_u"].hex(),
            **{key: given[key] for key in ("user_id", "realm", "epoch", "counter")}}
    bind = given["bind"] if given["bind_kind"] else b""
    run = build(cred, given["service"], given["scope"], given["time_ms"], bind, given["nonce"],
                given["SP"], private_key(given["t_x25519"]))
    keys, aad = note_keys(run.ms, run.envelope)
    note = NOTE + v16(seal(suite, keys, aad, given["note_plain"]))
    s_private = private_key(given["s_x25519"])
    head = REPLY + u(1, 0) + given["s_nonce"] + v16(share_of(s_private)) + v16(note)
    th, rep_keys = reply_keys(run, head, ss := agree(s_private, share_of(run.ephemeral)))
    plain = (u(1, given["sak_kind"]) + u(4, given["lifetime"]) + v8(given["keyid"]) + v16(given["SAK"])
             + v8(given["service"].encode()))
    reply = head + v16(seal(suite, rep_keys, head, plain))
    def accept(data):
        need(receive(run, data, given["lifetime"], {given["sak_kind"]})[1], "refused by a note")
    accept(reply)
    return {"header": run.header, "MS": run.ms, "msg_key_iv": expand(run.ms, b"IDB1 msg\0", 44), "inner": run.inner,
            "envelope_hash": H(run.envelope), "note_key_iv": keys, "s_share": share_of(s_private),
            "ss": ss if kem else b"", "TH": th, "reply_key_iv": rep_keys, "reply_plain": plain,
            "envelope": run.envelope, "note": note, "reply": reply}, reply, accept

def enrol_vector(given, suite, kem, outputs):
    code, e2 = parse_code(given["code_text"]), bytes.fromhex(outputs["E2"])
    need(code == given["code"], "the code's text does not decode to the code")
    realm = Reader(bytes.fromhex(outputs["E1"])[7:], "E1").vec(1).decode()    # not among the inputs
    run = Enrolment(code, realm, suite, kem, given["n_t"], private_key(given["t_x25519"]))
    m_private = private_key(given["m_x25519"])
    m_share, ss = share_of(m_private), agree(m_private, share_of(run.ephemeral))
    run.on_e2(e2)
    b2 = E2 + given["n_m"] + v16(m_share)
    box = unseal(suite, run.box_keys, b2, e2[len(b2) + 2:], "box")            # nor is its content
    got = {"eid": run.eid, "psk": run.psk, "ss": ss if kem else b"", "m_share": m_share, "th": run.th,
           "E1": run.e1, "E2": b2 + v16(seal(suite, run.box_keys, b2, box)), "E3": run.e3, "E4": run.e4,
           "K_u": run.k_u, "A_u": run.a_u}
    return got, e2, run.on_e2

# ---- command line --------------------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    def error(self, message): raise Failure(message)

def main():
    parser = Parser(description="A terminal for the IDB1 protocol")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    def command(run, about, *required):
        sub = commands.add_parser(run.__name__.replace("_", "-"), help=about)
        sub.set_defaults(run=run)
        for option in required:
            sub.add_argument(option, **({"required": True} if option.startswith("-") else {}))
        return sub.add_argument
    command(vectors, "reproduce the login and enrolment test vectors", "file")
    command(get, "a GET with a bearer key", "url", "--ca", "--key")
    add = command(enrol, "enrol with the code on stdin", "--server", "--ca", "--realm", "--credential")
    add("--suite", type=lambda text: int(text, 0), choices=SUITES, default=0x0001)
    add("--kem", type=int, choices=SHARE_LEN, default=1, help="for enrolment and sign-on alike")
    add = command(sign_on, "sign on, print the access key", "--origin", "--service", "--ca", "--credential")
    add("--scope", type=lambda text: [s for s in text.split(",") if s], default=[], help="consented attributes")
    add("--kind", type=lambda text: {int(k) for k in text.split(",")}, default={1, 2, 3}, help="kinds to accept")
    add("--max-lifetime", type=int, default=86400, metavar="SECONDS")
    add("--clock-offset", type=float, default=0, metavar="SECONDS", help="pretend the clock is off")
    add("--save-envelope", metavar="FILE", help="store the envelope before it is sent")
    add("--send-envelope", metavar="FILE", help="send stored bytes instead, print the outcome")
    add("--challenge", action="store_true", help="bind to a challenge of the service")
    add("--corrupt", action="store_true", help="flip a ciphertext bit, print the outcome")
    add("--replay", action="store_true", help="afterwards send the same envelope again")
    try:
        args = parser.parse_args()
        args.run(args)
    except (Failure, OSError, http.client.HTTPException, ValueError, LookupError) as failure:
        text = str(failure) if isinstance(failure, Failure) else f"{type(failure).__name__}: {failure}"
        print("terminal: " + " ".join(text.split()), file=sys.stderr)
        return 1
    return 0

if __name__ == "__main__":
    sys.exit(main())
