//! Which stages there are, what each needs, and which of them are needed at all.

use std::collections::{BTreeMap, BTreeSet};

use berth_content::Reference;
use parse_dockerfile::{Dockerfile, Flag, Instruction};

use crate::error::{BuildError, Problem};
use crate::expand::{Variables, expand, pairs, set, value, words};
use crate::flags::Flags;
use crate::source::Source;

pub(crate) const PLATFORM: &str = "linux/amd64";

/// What a stage begins with, or copies from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Scratch,
    Stage(usize),
    Image(Reference),
}

/// One stage.
pub(crate) struct Stage<'a, 'd> {
    pub name: String,
    pub origin: Origin,
    pub from: &'a Instruction<'d>,
    pub instructions: &'a [Instruction<'d>],
    /// Stages that must be done before.
    pub needs: BTreeSet<usize>,
}

/// The whole Dockerfile.
pub(crate) struct Plan<'a, 'd> {
    pub stages: Vec<Stage<'a, 'd>>,
    /// Variables for `FROM`, which a stage sees after `ARG name`.
    pub globals: Variables,
    /// The stage whose image is wanted.
    pub target: usize,
    pub escape: char,
}

/// Platform variables that exist without being passed.
pub(crate) fn platform_variables() -> Variables {
    let mut variables = Variables::new();
    for side in ["TARGET", "BUILD"] {
        for (name, value) in
            [("PLATFORM", PLATFORM), ("OS", "linux"), ("ARCH", "amd64"), ("VARIANT", "")]
        {
            variables.push((format!("{side}{name}"), value.to_owned()));
        }
    }
    variables
}

impl<'a, 'd> Plan<'a, 'd> {
    pub(crate) fn new(
        source: &Source,
        dockerfile: &'a Dockerfile<'d>,
        args: &BTreeMap<String, String>,
        target: Option<&str>,
    ) -> Result<Self, BuildError> {
        let escape =
            dockerfile.parser_directives.escape.as_ref().map_or('\\', |one| one.value.value);
        let mut plan =
            Self { stages: Vec::new(), globals: platform_variables(), target: 0, escape };
        let mut rest = &dockerfile.instructions[..];
        while let Some((first, after)) = rest.split_first() {
            let next = after.iter().position(|one| matches!(one, Instruction::From(_)));
            let (own, later) = after.split_at(next.unwrap_or(after.len()));
            let at = |problem| BuildError::at(source.place(first), problem);
            match first {
                Instruction::Arg(arg) => {
                    plan.global(&arg.arguments.value, args).map_err(at)?;
                    rest = after;
                }
                Instruction::From(_) => {
                    plan.stage(source, first, own)?;
                    rest = later;
                }
                _ => return Err(at(Problem::Syntax("an image must begin with FROM".to_owned()))),
            }
        }
        if plan.stages.is_empty() {
            return Err(BuildError::Request(format!(
                "{}: there is no FROM",
                source.path.display()
            )));
        }
        plan.target = match target {
            None => plan.stages.len() - 1,
            Some(target) => plan.stage_named(target, plan.stages.len()).ok_or_else(|| {
                let file = source.path.display();
                BuildError::Request(format!("{file}: there is no stage `{target}`"))
            })?,
        };
        Ok(plan)
    }

    fn global(&mut self, text: &str, args: &BTreeMap<String, String>) -> Result<(), Problem> {
        for word in words(text, self.escape) {
            let (name, default) = argument(&word, &self.globals, self.escape)?;
            if let Some(value) = args.get(&name).cloned().or(default) {
                set(&mut self.globals, &name, &value);
            }
        }
        Ok(())
    }

    fn stage(
        &mut self,
        source: &Source,
        first: &'a Instruction<'d>,
        instructions: &'a [Instruction<'d>],
    ) -> Result<(), BuildError> {
        let Instruction::From(from) = first else { return Ok(()) };
        let at = |problem| BuildError::at(source.place(first), problem);
        let mut flags = Flags::new(&from.options, &self.globals, self.escape).map_err(at)?;
        if let Some(platform) = flags.take("platform").map_err(at)?
            && platform != PLATFORM
        {
            let what = format!("--platform={platform} (this machine builds {PLATFORM})");
            return Err(at(Problem::Unsupported(what)));
        }
        flags.finish().map_err(at)?;
        let image = expand(&from.image.value, &self.globals, self.escape).map_err(at)?;
        let index = self.stages.len();
        let name =
            from.as_.as_ref().map_or(index.to_string(), |(_, name)| name.value.to_lowercase());
        let origin = if image == "scratch" {
            Origin::Scratch
        } else {
            self.origin_named(&image, index).map_err(at)?
        };
        let mut needs = BTreeSet::new();
        needs.extend(stage_of(&origin));
        for one in instructions {
            let at = |problem| BuildError::at(source.place(one), problem);
            for origin in self.origins(one, index).map_err(at)? {
                needs.extend(stage_of(&origin));
            }
        }
        self.stages.push(Stage { name, origin, from: first, instructions, needs });
        Ok(())
    }

    /// Other stages and images that an instruction reads from.
    fn origins(
        &self,
        instruction: &Instruction<'_>,
        before: usize,
    ) -> Result<Vec<Origin>, Problem> {
        let options: &[Flag<'_>] = match instruction {
            Instruction::Copy(copy) => &copy.options,
            Instruction::Run(run) => &run.options,
            _ => return Ok(Vec::new()),
        };
        let mut origins = Vec::new();
        for flag in options {
            let value = flag.value.as_ref().map_or("", |value| &value.value);
            let from = match &*flag.name.value {
                "from" => Some(value),
                "mount" => value.split(',').find_map(|part| part.strip_prefix("from=")),
                _ => None,
            };
            if let Some(from) = from {
                origins.push(self.origin_named(from, before)?);
            }
        }
        Ok(origins)
    }

    /// A stage before `before` by name or number, or an image.
    pub(crate) fn origin_named(&self, name: &str, before: usize) -> Result<Origin, Problem> {
        if name.contains('$') {
            return Err(Problem::Unsupported(format!("a variable in `{name}`")));
        }
        if let Some(stage) = self.stage_named(name, before) {
            return Ok(Origin::Stage(stage));
        }
        if name.parse::<usize>().is_ok() {
            return Err(Problem::Missing(format!("there is no stage {name} before this one")));
        }
        let parsed = name.parse().map(Origin::Image);
        parsed.map_err(|error: berth_content::ReferenceError| Problem::Missing(error.to_string()))
    }

    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let earlier = &self.stages[..before.min(self.stages.len())];
        let named = earlier.iter().rposition(|stage| stage.name.eq_ignore_ascii_case(name));
        named.or_else(|| name.parse().ok().filter(|index| *index < earlier.len()))
    }

    /// The stages the target needs, itself included.
    pub(crate) fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut todo = vec![self.target];
        while let Some(stage) = todo.pop() {
            if needed.insert(stage) {
                todo.extend(&self.stages[stage].needs);
            }
        }
        needed
    }
}

fn stage_of(origin: &Origin) -> Option<usize> {
    match origin {
        Origin::Stage(stage) => Some(*stage),
        Origin::Scratch | Origin::Image(_) => None,
    }
}

/// `name` or `name=default` of an `ARG`.
pub(crate) fn argument(
    word: &str,
    variables: &Variables,
    escape: char,
) -> Result<(String, Option<String>), Problem> {
    if !word.contains('=') {
        return Ok((expand(word, variables, escape)?, None));
    }
    let pair = pairs(word, variables, escape)?.pop();
    let (name, default) = pair.ok_or_else(|| Problem::Syntax("no name is given".to_owned()))?;
    Ok((name, Some(default)))
}

/// The value that `ARG name` has in a stage when neither the caller nor the stage gives one.
pub(crate) fn inherited(globals: &Variables, name: &str) -> Option<String> {
    value(globals, name).map(str::to_owned)
}
