//! The build as a whole: read, plan, run the needed stages, write the image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use berth_content::{ContentStore, Image, Reference, Session};

use crate::commit;
use crate::error::{BuildError, Problem};
use crate::ignore::Ignore;
use crate::plan::Plan;
use crate::progress::BuildProgress;
use crate::runner::StepRunner;
use crate::source::Source;
use crate::stage::StageState;

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// The folder that `COPY` and `ADD` read.
    pub context: PathBuf,
    /// The Dockerfile, relative to the context; `None` for `Dockerfile`.
    pub dockerfile: Option<PathBuf>,
    /// The stage to build; `None` for the last.
    pub target: Option<String>,
    /// Values for `ARG`.
    pub args: BTreeMap<String, String>,
    /// Names for the result.
    pub tags: Vec<Reference>,
    /// Runs every step again, and remembers the new results.
    pub no_cache: bool,
    /// When base images are fetched.
    pub pull: Pull,
    /// `SOURCE_DATE_EPOCH`: dates of the image, and the latest time a file may have. A build argument of that
    /// name counts as well.
    pub source_date_epoch: Option<i64>,
}

/// When base images are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// If the store does not have them.
    #[default]
    Missing,
    /// Every time, in case the tag has moved.
    Always,
    /// Never: what the store does not have is an error.
    Never,
}

/// Where base images come from when the store does not have them.
pub trait ImageSource: Send + Sync {
    /// Brings an image into the store and returns it. Blocks; may be called from several threads at once.
    ///
    /// # Errors
    ///
    /// When there is no such image or it cannot be had.
    fn fetch(&self, image: &Reference) -> Result<Image, Box<dyn std::error::Error + Send + Sync>>;
}

impl<F> ImageSource for F
where
    F: Fn(&Reference) -> Result<Image, Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
{
    fn fetch(&self, image: &Reference) -> Result<Image, Box<dyn std::error::Error + Send + Sync>> {
        self(image)
    }
}

/// What every stage shares.
pub(crate) struct Builder<'a, 'd> {
    pub store: &'a ContentStore,
    pub session: Session,
    pub request: &'a BuildRequest,
    pub runner: &'a dyn StepRunner,
    pub images: &'a dyn ImageSource,
    pub progress: &'a dyn BuildProgress,
    pub source: &'a Source,
    pub plan: &'a Plan<'a, 'd>,
    pub ignore: Ignore,
    pub epoch: Option<i64>,
    /// Build arguments that some stage declared.
    pub declared: Mutex<BTreeSet<String>>,
}

/// Builds an image, tags it and returns it. Blocks until done.
///
/// # Errors
///
/// With the place in the Dockerfile whenever an instruction is at fault. Steps that were done stay
/// remembered, so the next attempt goes on where this one failed.
pub fn build(
    store: &ContentStore,
    request: &BuildRequest,
    runner: &dyn StepRunner,
    images: &dyn ImageSource,
    progress: &dyn BuildProgress,
) -> Result<Image, BuildError> {
    let name = request.dockerfile.clone().unwrap_or_else(|| PathBuf::from("Dockerfile"));
    let source = Source::read(&request.context.join(name))?;
    let dockerfile = source.parse()?;
    let plan = Plan::new(&source, &dockerfile, &request.args, request.target.as_deref())?;
    let epoch = match request.args.get("SOURCE_DATE_EPOCH") {
        None => request.source_date_epoch,
        Some(text) => Some(text.parse().map_err(|_| {
            BuildError::Request(format!("SOURCE_DATE_EPOCH={text} is not a number of seconds"))
        })?),
    };
    let builder = Builder {
        store,
        session: store.session()?,
        request,
        runner,
        images,
        progress,
        source: &source,
        plan: &plan,
        ignore: Ignore::load(&request.context, &source.path)?,
        epoch,
        declared: Mutex::new(plan.globals.iter().map(|(name, _)| name.clone()).collect()),
    };
    let state = builder.run_stages()?;
    builder.warn_of_unused();
    let target = &plan.stages[plan.target];
    let last = target.instructions.last().unwrap_or(target.from);
    let image = commit::image(
        &builder.session,
        &state.layers,
        &state.settings,
        state.history,
        &state.created,
        &request.tags,
    );
    image.map_err(|problem| BuildError::at(source.place(last), problem))
}

impl Builder<'_, '_> {
    /// Runs stages as soon as what they need is done, side by side where they are independent.
    fn run_stages(&self) -> Result<StageState, BuildError> {
        let mut waiting = self.plan.needed();
        let mut done: BTreeMap<usize, StageState> = BTreeMap::new();
        while !waiting.is_empty() {
            let finished: BTreeSet<usize> = done.keys().copied().collect();
            let ready: Vec<usize> = waiting
                .iter()
                .copied()
                .filter(|stage| self.plan.stages[*stage].needs.is_subset(&finished))
                .collect();
            let states = thread::scope(|scope| {
                let done = &done;
                let running: Vec<_> = ready
                    .iter()
                    .map(|stage| scope.spawn(move || self.run_stage(*stage, done)))
                    .collect();
                running
                    .into_iter()
                    .map(|thread| match thread.join() {
                        Ok(outcome) => outcome,
                        Err(panic) => std::panic::resume_unwind(panic),
                    })
                    .collect::<Result<Vec<_>, _>>()
            })?;
            waiting.retain(|stage| !ready.contains(stage));
            done.extend(ready.into_iter().zip(states));
        }
        let target = done.remove(&self.plan.target);
        target.ok_or_else(|| BuildError::Request("the target stage was not built".to_owned()))
    }

    /// A base image, from the store or fetched.
    pub(crate) fn base(&self, reference: &Reference) -> Result<Image, Problem> {
        if self.request.pull != Pull::Always
            && let Some(manifest) = self.store.tagged(reference)?
        {
            let image = self.store.image(&manifest)?;
            let mut whole = true;
            for layer in &image.layers {
                whole &= self.session.want_layer(layer)?;
            }
            if whole {
                return Ok(image);
            }
        }
        let image = reference.familiar();
        if self.request.pull == Pull::Never {
            return Err(Problem::Missing(format!(
                "image `{image}` is not here, and must not be pulled"
            )));
        }
        self.images.fetch(reference).map_err(|source| Problem::Fetch { image, source })
    }

    fn warn_of_unused(&self) {
        let declared = self.declared.lock().map(|declared| declared.clone()).unwrap_or_default();
        for name in self.request.args.keys() {
            let known = declared.contains(name) || crate::stage::PROXIES.contains(&name.as_str());
            if !known && name != "SOURCE_DATE_EPOCH" {
                self.progress.warning(&format!("build argument `{name}` is declared by no ARG"));
            }
        }
    }
}
