//! What the command line asks of the program as a whole.

use std::path::Path;
use std::sync::Arc;

use berth_build::StepRunner;
use berth_cli::{Host, HostError, RestoreSettings, Restored, ServeSettings, Started};
use futures::future::BoxFuture;

/// This program.
pub struct Program;

impl Host for Program {
    fn ensure_server<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<Started, HostError>> {
        Box::pin(async move { Ok(crate::background::ensure(data).await?) })
    }

    fn step_runner(&self, _data: &Path) -> Arc<dyn StepRunner> {
        Arc::new(crate::runner::Runner)
    }

    fn serve(&self, settings: ServeSettings) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move { Ok(crate::serve::serve(settings).await?) })
    }

    fn restore(&self, settings: RestoreSettings) -> BoxFuture<'_, Result<Restored, HostError>> {
        Box::pin(async move { Ok(crate::restore::restore(settings).await?) })
    }

    fn teardown<'a>(&'a self, data: &'a Path) -> BoxFuture<'a, Result<(), HostError>> {
        Box::pin(async move { Ok(crate::teardown::teardown(data).await?) })
    }
}
