//! Turns errors of the layers below into API Statuses. Nothing else does.

use berth_objects::Status;
use berth_store::StoreError;

/// A store's error that is no conflict; conflicts mean different things in different places.
pub(crate) fn store(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, compacted } => {
            Status::expired(format!("too old resource version: {requested} ({compacted})"))
        }
        StoreError::Future { requested, current } => {
            let message = format!("Too large resource version: {requested}, current: {current}");
            let mut status = Status::new(504, "Timeout", message);
            status.retry_after = Some(1);
            status
        }
        StoreError::Full { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store is full");
            Status::new(507, "InsufficientStorage", "the server has no space left")
        }
        StoreError::Conflict { .. }
        | StoreError::Repeated { .. }
        | StoreError::Io { .. }
        | StoreError::Closed => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            Status::internal(error)
        }
    }
}
