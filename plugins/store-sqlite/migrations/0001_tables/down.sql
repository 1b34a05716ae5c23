DROP TABLE counters;
DROP TABLE terms;
DROP TABLE records;
PRAGMA user_version = 0;
