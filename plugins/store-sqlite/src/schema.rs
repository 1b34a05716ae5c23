//! The tables, as `migrations/` makes them.

diesel::table! {
    records (key) {
        key -> Text,
        version -> BigInt,
        value -> Binary,
    }
}

diesel::table! {
    terms (name, value, key) {
        name -> Text,
        value -> Text,
        key -> Text,
    }
}

diesel::table! {
    counters (credential, epoch, counter) {
        credential -> Binary,
        epoch -> BigInt,
        counter -> BigInt,
        nonce -> Binary,
        recorded -> BigInt,
    }
}

diesel::joinable!(terms -> records (key));
diesel::allow_tables_to_appear_in_same_query!(records, terms);
