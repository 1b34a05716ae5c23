DROP TABLE claviger_counters;
DROP TABLE claviger_terms;
DROP TABLE claviger_records;
