//! Our words in etcd's, and back.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, Error, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use crate::{Expect, Operation, Record, Revision, StoreError};

/// gRPC's numbers for what went wrong, as etcd uses them.
const OUT_OF_RANGE: i32 = 11;
const RESOURCE_EXHAUSTED: i32 = 8;

/// A key as etcd has it.
pub fn full(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, key].concat()
}

/// The first key behind all that begin with this.
pub fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys there are.
    vec![0]
}

/// Something in an answer that cannot be.
pub fn broken(what: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Io { source: Arc::new(what) }
}

fn missing(what: &'static str) -> StoreError {
    broken(io::Error::new(io::ErrorKind::InvalidData, format!("etcd's answer has no {what}")))
}

pub fn signed(revision: Revision) -> Result<i64, StoreError> {
    i64::try_from(revision.0).map_err(broken)
}

pub fn unsigned(revision: i64) -> Result<Revision, StoreError> {
    u64::try_from(revision).map(Revision).map_err(broken)
}

pub fn revision(header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
    unsigned(header.ok_or_else(|| missing("header"))?.revision())
}

/// The records in an answer.
pub fn pairs<'p>(
    prefix: &'p [u8],
    pairs: &'p [KeyValue],
) -> impl Iterator<Item = Result<Record, StoreError>> + 'p {
    pairs.iter().map(|pair| record(prefix, pair))
}

pub fn record(prefix: &[u8], pair: &KeyValue) -> Result<Record, StoreError> {
    Ok(Record {
        key: key(prefix, pair.key())?,
        value: Bytes::copy_from_slice(pair.value()),
        revision: unsigned(pair.mod_revision())?,
        created: unsigned(pair.create_revision())?,
    })
}

pub fn key(prefix: &[u8], key: &[u8]) -> Result<Bytes, StoreError> {
    let own = key.strip_prefix(prefix).ok_or_else(|| missing("prefix before a key"))?;
    Ok(Bytes::copy_from_slice(own))
}

/// One commit. When it is refused, etcd answers with what the keys are.
pub fn transaction(prefix: &[u8], operations: &[Operation]) -> Result<Txn, StoreError> {
    let mut when = Vec::new();
    for operation in operations {
        let key = full(prefix, operation.key());
        match operation.expect() {
            Expect::Any => {}
            Expect::Absent => when.push(Compare::create_revision(key, CompareOp::Equal, 0)),
            Expect::Revision(revision) => {
                when.push(Compare::mod_revision(key, CompareOp::Equal, signed(revision)?));
            }
        }
    }
    let then = operations.iter().map(|operation| match operation {
        Operation::Put { key, value, .. } => TxnOp::put(full(prefix, key), value.to_vec(), None),
        Operation::Delete { key, .. } => TxnOp::delete(full(prefix, key), None),
    });
    let otherwise =
        operations.iter().map(|operation| TxnOp::get(full(prefix, operation.key()), None));
    Ok(Txn::new()
        .when(when)
        .and_then(then.collect::<Vec<_>>())
        .or_else(otherwise.collect::<Vec<_>>()))
}

/// Which expectation did not hold.
pub fn conflict(
    prefix: &[u8],
    operations: &[Operation],
    answer: &TxnResponse,
) -> Result<StoreError, StoreError> {
    for (operation, answer) in operations.iter().zip(answer.op_responses()) {
        let TxnOpResponse::Get(found) = answer else { return Err(missing("key")) };
        let actual = pairs(prefix, found.kvs()).next().transpose()?.map(|record| record.revision);
        let holds = match operation.expect() {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(wanted) => actual == Some(wanted),
        };
        if !holds {
            return Ok(StoreError::Conflict { key: operation.key().clone(), actual });
        }
    }
    Err(missing("conflict"))
}

/// etcd's errors. Which revision was asked for is left to the caller.
pub fn failed(error: Error) -> StoreError {
    if let Error::GRpcStatus(status) = &error {
        let (code, message) = (status.code() as i32, status.message());
        if code == RESOURCE_EXHAUSTED && message.contains("space") {
            return StoreError::Full { source: Arc::new(io::Error::other(error)) };
        }
        if code == OUT_OF_RANGE && message.contains("compacted") {
            let (requested, compacted) = (Revision(0), Revision(0));
            return StoreError::Compacted { requested, compacted };
        }
        if code == OUT_OF_RANGE && message.contains("future") {
            let (requested, current) = (Revision(0), Revision(0));
            return StoreError::Future { requested, current };
        }
    }
    broken(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_lies_behind_all_keys_of_a_prefix() {
        assert_eq!(end(b"/a/"), b"/a0");
        assert_eq!(end(b"a\xff"), b"b");
        assert_eq!(end(b"\xff\xff"), [0]);
    }
}
