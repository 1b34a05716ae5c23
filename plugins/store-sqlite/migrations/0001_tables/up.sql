-- Records of the host: `value` is sealed, this store never looks into it.
CREATE TABLE records (
    key     TEXT    NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL CHECK (version > 0),
    value   BLOB    NOT NULL
) STRICT;

-- The index of the records: the primary key is the order of a scan.
CREATE TABLE terms (
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    key   TEXT NOT NULL REFERENCES records (key) ON DELETE CASCADE,
    PRIMARY KEY (name, value, key)
) WITHOUT ROWID, STRICT;

CREATE INDEX terms_by_key ON terms (key);

-- The replay defence. `counter` holds the unsigned counter with its highest
-- bit flipped, so that signed order is the order of the counters. `recorded`
-- is in seconds since 1970: a row is kept for some time, whatever comes after it.
CREATE TABLE counters (
    credential BLOB    NOT NULL,
    epoch      INTEGER NOT NULL,
    counter    INTEGER NOT NULL,
    nonce      BLOB    NOT NULL,
    recorded   INTEGER NOT NULL,
    PRIMARY KEY (credential, epoch, counter)
) WITHOUT ROWID, STRICT;

-- 0x434C5647 is "CLVG": the file is Claviger's. The number of the schema must
-- rise with each migration; see `connection::SCHEMA`.
PRAGMA application_id = 1129076295;
PRAGMA user_version = 1;
