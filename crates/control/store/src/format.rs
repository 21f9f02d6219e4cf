//! Which format the content of a store has: a number in the store itself, so that it travels with backups and is the same for
//! all servers of one etcd.
//!
//! A program opens what is as old as it knows, brings it to its own format step by step, and refuses what is newer, before it has
//! changed anything.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{Expect, Operation, Range, Record, Store, StoreError};

/// Where it is written: the number, and who wrote it.
pub(crate) const KEY: &[u8] = b"/berth/format";

/// One step to the next format. It may be interrupted and is then done again, also by another server at the same time.
pub type Upgrade = for<'s> fn(&'s dyn Store) -> BoxFuture<'s, Result<(), StoreError>>;

/// Why a store is not opened.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A newer program has written it.
    #[error(
        "the store has format {found}, written by berth {program}; this one knows formats up to {known}, so use that version or a newer one (nothing was changed)"
    )]
    Newer {
        /// The store's format.
        found: usize,
        /// The newest that is known here.
        known: usize,
        /// The version that wrote it.
        program: String,
    },
    /// A restore into it was interrupted.
    #[error("a restore into this store was not finished; restore again, with `--force`")]
    Unfinished,
    /// The number is none.
    #[error("the store does not say which format it has: `{0}`")]
    Damaged(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn read(record: &Record) -> Result<(usize, String), FormatError> {
    let text = String::from_utf8_lossy(&record.value).into_owned();
    let (number, program) = text.split_once(' ').unwrap_or((&text, "?"));
    match number.parse() {
        Ok(number) if number > 0 => Ok((number, program.to_owned())),
        _ => Err(FormatError::Damaged(text)),
    }
}

/// The format of a record that says it, and who wrote it, if it is among the first `known`.
pub(crate) fn check(record: &Record, known: usize) -> Result<(usize, String), FormatError> {
    let (found, program) = read(record)?;
    if found > known {
        return Err(FormatError::Newer { found, known, program });
    }
    Ok((found, program))
}

/// Brings a store to the format that these steps lead to: the first leads from format 1 to format 2. A store that says nothing
/// has format 1, or the newest if it is empty. Returns the format it had.
///
/// # Errors
/// When the store is newer or fails.
pub async fn upgrade(
    store: &dyn Store,
    steps: &[Upgrade],
    program: &str,
) -> Result<usize, FormatError> {
    let newest = steps.len() + 1;
    let mut first = None;
    if crate::restore::unfinished(store).await? {
        return Err(FormatError::Unfinished);
    }
    loop {
        let record = store.get(Bytes::from_static(KEY), None).await?.record;
        let (format, expect) = match &record {
            Some(record) => {
                let (found, _) = check(record, newest)?;
                (found, Expect::Revision(record.revision))
            }
            None => {
                let any = store.range(Range { limit: 1, ..Range::default() }).await?;
                (if any.records.is_empty() { newest } else { 1 }, Expect::Absent)
            }
        };
        let had = *first.get_or_insert(format);
        if format == newest && record.is_some() {
            return Ok(had);
        }
        let next = match steps.get(format - 1) {
            Some(step) => {
                tracing::info!(from = format, to = format + 1, "upgrading the store");
                step(store).await?;
                format + 1
            }
            None => format,
        };
        let value = format!("{next} {program}").into();
        let note = Operation::Put { key: Bytes::from_static(KEY), value, expect };
        match store.commit(vec![note]).await {
            // Another server of the same store was faster.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::Memory;

    fn put(key: &'static str, value: &'static str) -> Operation {
        Operation::Put { key: key.into(), value: value.into(), expect: Expect::Any }
    }

    fn add_b(store: &dyn Store) -> BoxFuture<'_, Result<(), StoreError>> {
        store.commit(vec![put("b", "2")]).map(|done| done.map(drop)).boxed()
    }

    fn add_c(store: &dyn Store) -> BoxFuture<'_, Result<(), StoreError>> {
        store.commit(vec![put("c", "3")]).map(|done| done.map(drop)).boxed()
    }

    async fn text(store: &Memory, key: &'static str) -> Option<String> {
        let record = store.get(key.into(), None).await.unwrap().record;
        record.map(|record| String::from_utf8_lossy(&record.value).into_owned())
    }

    #[tokio::test]
    async fn an_old_store_is_upgraded_step_by_step_and_once() {
        let store = Memory::default();
        store.commit(vec![put("a", "1")]).await.unwrap();
        assert_eq!(upgrade(&store, &[add_b], "1.1").await.unwrap(), 1);
        assert_eq!(text(&store, "b").await.as_deref(), Some("2"));
        assert_eq!(text(&store, "/berth/format").await.as_deref(), Some("2 1.1"));
        store.commit(vec![put("b", "changed")]).await.unwrap();
        assert_eq!(upgrade(&store, &[add_b, add_c], "1.2").await.unwrap(), 2);
        assert_eq!(text(&store, "b").await.as_deref(), Some("changed"));
        assert_eq!(text(&store, "c").await.as_deref(), Some("3"));
        let current = store.current();
        assert_eq!(upgrade(&store, &[add_b, add_c], "1.2").await.unwrap(), 3);
        assert_eq!(store.current(), current, "nothing was left to do");
    }

    #[tokio::test]
    async fn an_empty_store_begins_with_the_newest_and_a_newer_one_is_refused_untouched() {
        let store = Memory::default();
        upgrade(&store, &[add_b, add_c], "9.9").await.unwrap();
        assert_eq!(text(&store, "b").await, None);
        let current = store.current();
        let refused = upgrade(&store, &[add_b], "1.0").await.unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("format 3") && said.contains("9.9") && said.contains("up to 2"));
        assert_eq!(store.current(), current);
        store.commit(vec![put("/berth/format", "soon")]).await.unwrap();
        assert!(matches!(upgrade(&store, &[], "1").await, Err(FormatError::Damaged(_))));
    }
}
