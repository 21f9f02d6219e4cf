//! What the node tells about its use, on the paths of a kubelet: `/stats/summary` in JSON, and texts for Prometheus at
//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor`.
//!
//! Every request reads afresh, but for the summary with disks: directories are walked for it, so those who ask at once or within a
//! second share one, and no two walks go on at once whoever gives up waiting. The summary's processor entries carry one field a kubelet does not have, `windowNanoSeconds`:
//! the time the rate is the mean of, which whoever shows rates has to say.

mod summary;
mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode, header};

use crate::access::{Body, Query, Refusal, full};
use crate::agent::Shared;
use crate::usage::NodeUse;

/// A text and its type.
type Rendered = (String, &'static str);
/// What was read last, and when.
pub(crate) type Recent = Option<(Instant, Rendered)>;
/// How long that is good enough.
const RECENT: Duration = Duration::from_secs(1);

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

    fn render(self, shared: &Shared) -> std::io::Result<Rendered> {
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

    /// Reads and writes it down. Blocks.
    fn read(self, shared: &Shared, recent: Option<&mut Recent>) -> std::io::Result<Rendered> {
        match recent {
            Some(recent) => anew(recent, Instant::now(), || self.render(shared)),
            None => self.render(shared),
        }
    }

    /// Answers with it.
    pub async fn answer(self, shared: Arc<Shared>) -> Result<Response<Body>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal {
            code: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("cannot read what the node uses: {error}"),
        };
        // Held until it is read, also where nobody waits any more.
        let mut recent = match self {
            Self::Summary { disks: true } => Some(shared.summary.clone().lock_owned().await),
            _ => None,
        };
        let read = move || self.read(&shared, recent.as_deref_mut());
        let rendered = tokio::task::spawn_blocking(read).await;
        let (body, kind) =
            rendered.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let mut response = Response::new(full(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

/// What was made a moment ago, else what is made now.
fn anew<T: Clone, E>(
    recent: &mut Option<(Instant, T)>,
    now: Instant,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    if let Some((at, known)) = &*recent
        && now.duration_since(*at) < RECENT
    {
        return Ok(known.clone());
    }
    let made = make()?;
    // How long the making takes does not count against it.
    *recent = Some((Instant::now().max(now), made.clone()));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_within_a_moment_gets_what_the_other_got() {
        let mut recent = None;
        let begun = Instant::now();
        assert_eq!(anew(&mut recent, begun, || Err::<u8, _>("no")), Err("no"));
        assert_eq!(anew(&mut recent, begun, || Ok::<_, ()>(1)), Ok(1));
        assert_eq!(anew(&mut recent, begun, || Ok::<_, ()>(2)), Ok(1));
        let later = Instant::now() + RECENT;
        assert_eq!(anew(&mut recent, later, || Ok::<_, ()>(3)), Ok(3));
    }
}
