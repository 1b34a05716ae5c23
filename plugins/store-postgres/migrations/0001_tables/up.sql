-- Records of the host: `value` is sealed, this store never looks into it.
-- Keys and index terms are the bytes of UTF-8 text: bytea sorts bytewise
-- whatever the database's encoding and collation, and may hold a NUL.
CREATE TABLE claviger_records (
    key     bytea  NOT NULL PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    value   bytea  NOT NULL
);

-- Sealed bytes do not shrink.
ALTER TABLE claviger_records ALTER COLUMN value SET STORAGE EXTERNAL;

-- The index of the records: the primary key is the order of a scan.
CREATE TABLE claviger_terms (
    name  bytea NOT NULL,
    value bytea NOT NULL,
    key   bytea NOT NULL REFERENCES claviger_records (key) ON DELETE CASCADE,
    PRIMARY KEY (name, value, key)
);

CREATE INDEX claviger_terms_by_key ON claviger_terms (key);

-- The replay defence. `counter` holds the unsigned counter with its highest
-- bit flipped, so that signed order is the order of the counters. `recorded`
-- is in seconds since 1970: a row is kept for some time, whatever comes after it.
CREATE TABLE claviger_counters (
    credential bytea  NOT NULL CHECK (octet_length(credential) = 16),
    epoch      bigint NOT NULL,
    counter    bigint NOT NULL,
    nonce      bytea  NOT NULL CHECK (octet_length(nonce) = 32),
    recorded   bigint NOT NULL,
    PRIMARY KEY (credential, epoch, counter)
);
