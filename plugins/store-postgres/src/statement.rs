//! Statements that are written as SQL and stay prepared.
//!
//! Diesel's own `sql_query` is prepared anew each time, and its query builder
//! knows no `unnest`, which gives batches of every size the same text.

use std::marker::PhantomData;

use diesel::{
    QueryResult,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{Array, BigInt, Binary},
};

/// SQL with a `?` for each value, in the order in which they are bound; the
/// rows of its answer have the SQL types of `Row`.
pub(crate) struct Statement<Row> {
    sql: &'static str,
    values: Vec<Value>,
    row: PhantomData<Row>,
}

enum Value {
    Bytes(Vec<u8>),
    Number(i64),
    ManyBytes(Vec<Vec<u8>>),
    Numbers(Vec<i64>),
}

impl<Row> Statement<Row> {
    /// A statement without values yet. The text holds no other question mark.
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql, values: Vec::new(), row: PhantomData }
    }

    /// Binds a `bytea`.
    pub(crate) fn bytes(self, value: impl Into<Vec<u8>>) -> Self {
        self.with(Value::Bytes(value.into()))
    }

    /// Binds a `bigint`.
    pub(crate) fn number(self, value: i64) -> Self {
        self.with(Value::Number(value))
    }

    /// Binds a `bytea[]`.
    pub(crate) fn many_bytes<T: Into<Vec<u8>>>(self, values: impl IntoIterator<Item = T>) -> Self {
        self.with(Value::ManyBytes(values.into_iter().map(Into::into).collect()))
    }

    /// Binds a `bigint[]`.
    pub(crate) fn numbers(self, values: impl IntoIterator<Item = i64>) -> Self {
        self.with(Value::Numbers(values.into_iter().collect()))
    }

    fn with(mut self, value: Value) -> Self {
        self.values.push(value);
        self
    }
}

impl<Row> QueryFragment<Pg> for Statement<Row> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut values = self.values.iter();
        for (number, text) in self.sql.split('?').enumerate() {
            if number > 0 {
                match values.next() {
                    Some(Value::Bytes(value)) => out.push_bind_param::<Binary, _>(value)?,
                    Some(Value::Number(value)) => out.push_bind_param::<BigInt, _>(value)?,
                    Some(Value::ManyBytes(values)) => out.push_bind_param::<Array<Binary>, _>(values)?,
                    Some(Value::Numbers(values)) => out.push_bind_param::<Array<BigInt>, _>(values)?,
                    // The server refuses a statement that lacks a value.
                    None => out.push_sql("?"),
                }
            }
            out.push_sql(text);
        }
        Ok(())
    }
}

/// Diesel then keeps it prepared under its text.
impl<Row> QueryId for Statement<Row> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Row> Query for Statement<Row> {
    type SqlType = Row;
}

#[cfg(test)]
mod tests {
    use diesel::debug_query;

    use super::*;

    #[test]
    fn each_question_mark_is_a_value() {
        let statement = Statement::<BigInt>::new("SELECT ? + ?, ?, ?");
        let statement = statement.number(1).number(2).bytes([3]).many_bytes([[4], [5]]);
        let shown = debug_query::<Pg, _>(&statement).to_string();
        assert!(shown.starts_with("SELECT $1 + $2, $3, $4 -- binds"), "{shown}");
    }
}
