//! What the node tells about its use, on the paths of a kubelet: `/stats/summary` in JSON, and texts for Prometheus at
//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor`.
//!
//! Every request reads afresh. The summary's processor entries carry one field a kubelet does not have, `windowNanoSeconds`:
//! the time the rate is the mean of, which whoever shows rates has to say.

mod summary;
mod text;

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};

use crate::access::{Body, Query, Refusal, full};
use crate::agent::Shared;
use crate::usage::NodeUse;

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    Summary { disks: bool },
    Own,
    Resource,
    Containers,
}

impl Document {
    /// The document of a path, if it is one.
    pub fn of(path: &str, query: &Query) -> Option<Self> {
        Some(match path.trim_matches('/') {
            "stats/summary" => Self::Summary { disks: !query.flag("only_cpu_and_memory") },
            "metrics" => Self::Own,
            "metrics/resource" => Self::Resource,
            "metrics/cadvisor" => Self::Containers,
            _ => return None,
        })
    }

    fn render(self, shared: &Shared) -> std::io::Result<(String, &'static str)> {
        const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
        let read: NodeUse = shared.meter.read()?;
        Ok(match self {
            Self::Summary { disks } => {
                (summary::summary(shared, &read, disks).to_string(), "application/json")
            }
            Self::Own => {
                let counts = text::Counts {
                    evictions: shared.tally.evictions(),
                    refusals: shared.tally.refusals(),
                    mirrors: shared.mirrors.count(),
                };
                (text::own(&shared.settings.node, &read, &counts), TEXT)
            }
            Self::Resource => (text::resource(&read), TEXT),
            Self::Containers => (text::containers(&read), TEXT),
        })
    }

    /// Reads and writes it down.
    pub async fn answer(self, shared: Arc<Shared>) -> Result<Response<Body>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal {
            code: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("cannot read what the node uses: {error}"),
        };
        let rendered = tokio::task::spawn_blocking(move || self.render(&shared)).await;
        let (body, kind) =
            rendered.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let mut response = Response::new(full(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}
