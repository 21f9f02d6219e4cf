//! One stage: its instructions in order, from the cache where they were done before.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use berth_content::{CachedLayer, CachedStep, Digest};
use berth_unpack::{UnpackOptions, extract, inflated};
use oci_spec::image::History;
use parse_dockerfile::{Command, Flag, HereDoc, Instruction, RunInstruction, Source as CopySource};

use crate::build::Builder;
use crate::commit::{self, GZIP, Settings, StackLayer};
use crate::copy::{Dress, Item, Layer, Tree, digest_of};
use crate::error::{BuildError, OnFile as _, Problem};
use crate::expand::{Variables, expand, expand_body, set, words};
use crate::flags::Flags;
use crate::instruction::{Applied, Reader};
use crate::owner::Owner;
use crate::plan::{Origin, argument, inherited};
use crate::progress::{BuildProgress, Event, Step};
use crate::runner::{NetworkMode, RunStep, StepMount};
use crate::source::unfold;
use crate::view::{Node, View};

/// Build arguments that need no `ARG`, and do not make a step a different one.
pub(crate) const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TAIL_LINES: usize = 20;
const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// A stage as far as it is done.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    pub layers: Vec<StackLayer>,
    pub settings: Settings,
    pub history: Vec<History>,
    /// When the last step was done, the first time.
    pub created: String,
    /// Stands for everything that went into the filesystem so far.
    chain: Digest,
}

/// A stage while it runs.
struct Run<'a, 'b, 'd> {
    builder: &'a Builder<'b, 'd>,
    done: &'a BTreeMap<usize, StageState>,
    index: usize,
    state: StageState,
    args: Variables,
    own_cmd: bool,
}

impl Builder<'_, '_> {
    pub(crate) fn run_stage(
        &self,
        index: usize,
        done: &BTreeMap<usize, StageState>,
    ) -> Result<StageState, BuildError> {
        let stage = &self.plan.stages[index];
        let at = |instruction: &Instruction<'_>, problem| {
            BuildError::at(self.source.place(instruction), problem)
        };
        let state = self.begin(&stage.origin, done).map_err(|problem| at(stage.from, problem))?;
        let mut run =
            Run { builder: self, done, index, state, args: Variables::new(), own_cmd: false };
        for (number, instruction) in stage.instructions.iter().enumerate() {
            let text = self.source.line_of(instruction);
            let (number, total) = (number + 1, stage.instructions.len());
            let step = Step { stage: &stage.name, number, total, text: &text };
            run.instruction(instruction, &step).map_err(|problem| at(instruction, problem))?;
        }
        Ok(run.state)
    }

    fn begin(
        &self,
        origin: &Origin,
        done: &BTreeMap<usize, StageState>,
    ) -> Result<StageState, Problem> {
        match origin {
            Origin::Scratch => Ok(StageState {
                layers: Vec::new(),
                settings: Settings {
                    env: vec![("PATH".to_owned(), PATH.to_owned())],
                    ..Settings::default()
                },
                history: Vec::new(),
                created: commit::timestamp(self.epoch),
                chain: Digest::of(b"scratch"),
            }),
            Origin::Stage(index) => done
                .get(index)
                .cloned()
                .ok_or_else(|| Problem::Missing(format!("stage {index} is not built"))),
            Origin::Image(reference) => {
                let image = self.base(reference)?;
                if image.docker.on_build.as_ref().is_some_and(|triggers| !triggers.is_empty()) {
                    let name = reference.familiar();
                    return Err(Problem::Unsupported(format!(
                        "the ONBUILD of base image `{name}`"
                    )));
                }
                let pairs = image.layers.iter().zip(&image.blobs);
                let layers = pairs.map(|(diff_id, blob)| StackLayer {
                    layer: CachedLayer { diff_id: *diff_id, digest: blob.digest, size: blob.size },
                    media_type: blob.media_type.clone(),
                });
                let created = image.config.created().clone();
                Ok(StageState {
                    layers: layers.collect(),
                    settings: Settings::of(&image),
                    history: image.config.history().clone().unwrap_or_default(),
                    created: created.unwrap_or_else(|| commit::timestamp(self.epoch)),
                    chain: Digest::of(format!("{:?}", image.layers).as_bytes()),
                })
            }
        }
    }

    fn view(&self, state: &StageState) -> Result<View, Problem> {
        Ok(View::of_layers(&self.layer_dirs(state)?))
    }

    fn layer_dirs(&self, state: &StageState) -> Result<Vec<PathBuf>, Problem> {
        let mut dirs = Vec::new();
        for (position, one) in state.layers.iter().enumerate() {
            let again = |later: &StackLayer| later.layer.diff_id == one.layer.diff_id;
            if state.layers[position + 1..].iter().any(again) {
                continue;
            }
            let dir = self.store.snapshots().lower(&one.layer.diff_id);
            let missing = || Problem::Missing(format!("layer {} is not here", one.layer.diff_id));
            dirs.push(dir.ok_or_else(missing)?);
        }
        Ok(dirs)
    }
}

impl Run<'_, '_, '_> {
    fn escape(&self) -> char {
        self.builder.plan.escape
    }

    /// What `$name` means here: `ENV` wins over `ARG`.
    fn variables(&self) -> Variables {
        self.args.iter().chain(&self.state.settings.env).cloned().collect()
    }

    fn instruction(
        &mut self,
        instruction: &Instruction<'_>,
        step: &Step<'_>,
    ) -> Result<(), Problem> {
        let variables = self.variables();
        let escape = self.escape();
        let settings = &mut self.state.settings;
        let own_cmd = &mut self.own_cmd;
        let mut reader = Reader { settings, own_cmd, variables: &variables, escape };
        if reader.apply(instruction)? == Applied::Yes {
            return self.empty(step);
        }
        match instruction {
            Instruction::Arg(arg) => {
                self.arg(&arg.arguments.value, &variables)?;
                self.empty(step)
            }
            Instruction::Workdir(workdir) => {
                let path = expand(&workdir.arguments.value, &variables, escape)?;
                self.workdir(&path, step)
            }
            Instruction::Run(run) => self.run(run, &variables, step),
            Instruction::Copy(copy) => {
                let dest = expand(&copy.dest.value, &variables, escape)?;
                self.copy(&copy.options, &copy.src, &dest, false, step)
            }
            Instruction::Add(add) => {
                let dest = expand(&add.dest.value, &variables, escape)?;
                self.copy(&add.options, &add.src, &dest, true, step)
            }
            Instruction::Onbuild(_) => Err(Problem::Unsupported("ONBUILD".to_owned())),
            _ => Err(Problem::Unsupported("this instruction".to_owned())),
        }
    }

    /// A step without a layer.
    fn empty(&mut self, step: &Step<'_>) -> Result<(), Problem> {
        self.state.history.push(commit::history(&self.state.created, step.text, true)?);
        self.builder.progress.event(step, Event::Done);
        Ok(())
    }

    /// A step with a layer: remembered, or made by `make` in an empty directory.
    fn layer(
        &mut self,
        step: &Step<'_>,
        key: Digest,
        make: impl FnOnce(&mut Self, &Path) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let builder = self.builder;
        let key = Digest::of(format!("{} {key} {:?}", self.state.chain, builder.epoch).as_bytes());
        let remembered =
            if builder.request.no_cache { None } else { builder.store.cached_step(&key) };
        let usable = match &remembered {
            None => false,
            Some(one) => {
                builder.session.want_layer(&one.layer.diff_id)?
                    && builder.session.want_blob(&one.layer.digest, one.layer.size)?
            }
        };
        let one = if let (Some(one), true) = (remembered, usable) {
            builder.progress.event(step, Event::Cached);
            one
        } else {
            builder.progress.event(step, Event::Started);
            let upper = builder.session.prepare_snapshot()?;
            make(self, &upper)?;
            let layer = commit::layer(&builder.session, &upper, builder.epoch)?;
            let one = CachedStep { layer, created: commit::timestamp(builder.epoch) };
            builder.store.cache_step(&key, &one)?;
            builder.progress.event(step, Event::Done);
            one
        };
        self.state.layers.push(StackLayer { layer: one.layer, media_type: GZIP.to_owned() });
        self.state.history.push(commit::history(&one.created, step.text, false)?);
        self.state.created = one.created;
        self.state.chain = key;
        Ok(())
    }

    fn arg(&mut self, text: &str, variables: &Variables) -> Result<(), Problem> {
        for word in words(text, self.escape()) {
            let (name, default) = argument(&word, variables, self.escape())?;
            if let Ok(mut declared) = self.builder.declared.lock() {
                declared.insert(name.clone());
            }
            let given = self.builder.request.args.get(&name).cloned();
            let value = given.or(default).or_else(|| inherited(&self.builder.plan.globals, &name));
            if let Some(value) = value {
                set(&mut self.args, &name, &value);
            }
        }
        Ok(())
    }

    /// A path of the Dockerfile as an absolute path of the image.
    fn absolute(&self, path: &str) -> PathBuf {
        Path::new("/").join(&self.state.settings.workdir).join(path)
    }

    fn workdir(&mut self, path: &str, step: &Step<'_>) -> Result<(), Problem> {
        let path = self.absolute(path);
        let mut clean = PathBuf::from("/");
        for part in crate::view::parts(&path) {
            if part == ".." {
                clean.pop();
            } else {
                clean.push(part);
            }
        }
        self.state.settings.workdir = clean.to_string_lossy().into_owned();
        let below = self.builder.view(&self.state)?;
        let found = below.find(&clean, true).on_file("look for", &clean)?;
        if matches!(found.node, Some(Node::Folder(_))) {
            return self.empty(step);
        }
        let key = Digest::of(format!("WORKDIR {clean:?}").as_bytes());
        self.layer(step, key, |_, upper| {
            let layer = Layer { below: &below, upper };
            layer.folder(&clean, ROOT)?;
            forget_times(upper)
        })
    }

    fn run(
        &mut self,
        run: &RunInstruction<'_>,
        variables: &Variables,
        step: &Step<'_>,
    ) -> Result<(), Problem> {
        let mut flags = Flags::new(&run.options, variables, self.escape())?;
        let network = match flags.take("network")?.as_deref() {
            None | Some("default") => NetworkMode::Default,
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            Some(other) => {
                return Err(Problem::Syntax(format!(
                    "--network={other}: use default, none or host"
                )));
            }
        };
        let wanted: Vec<Mount> = flags
            .take_all("mount")?
            .iter()
            .map(|text| Mount::parse(text))
            .collect::<Result<_, _>>()?;
        flags.finish()?;
        let args = self.arguments(run)?;
        let mut env = self.args.clone();
        for (name, value) in &self.state.settings.env {
            set(&mut env, name, value);
        }
        if !env.iter().any(|(name, _)| name == "PATH") {
            set(&mut env, "PATH", PATH);
        }
        let (user, cwd) = (self.state.settings.user.clone(), self.absolute(""));
        let key = digest_of(|to| {
            writeln!(to, "RUN {args:?} {env:?} {cwd:?} {user:?} {network:?}")
                .on_file("hash", "step")?;
            wanted.iter().try_for_each(|mount| self.hash_mount(mount, to))
        })?;
        for name in PROXIES {
            if let Some(value) = self.builder.request.args.get(name) {
                set(&mut env, name, value);
            }
        }
        let env = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.layer(step, key, |this, upper| {
            let session = &this.builder.session;
            let mut lower = this.builder.layer_dirs(&this.state)?;
            if lower.is_empty() {
                lower.push(session.scratch()?);
            }
            let mounts = wanted.iter().map(|mount| this.mount(mount)).collect::<Result<_, _>>()?;
            let work = session.scratch()?;
            let below = View::of_layers(&lower);
            let upper_path = upper.to_owned();
            let run =
                RunStep { lower, upper: upper_path, work, args, env, cwd, user, network, mounts };
            let mut output =
                Output { progress: this.builder.progress, step, tail: VecDeque::new() };
            let code = this.builder.runner.run(&run, &mut output)?;
            if code != 0 {
                return Err(Problem::Exit { code, output: output.text() });
            }
            commit::remove_mount_points(upper, &below)
        })
    }

    fn arguments(&self, run: &RunInstruction<'_>) -> Result<Vec<String>, Problem> {
        let text = match &run.arguments {
            Command::Exec(words) => {
                return Ok(words.value.iter().map(|word| word.value.to_string()).collect());
            }
            Command::Shell(text) => text,
            _ => return Err(Problem::Unsupported("this form of command".to_owned())),
        };
        let script = match &run.here_docs[..] {
            [] => {
                let start = run.options.last().map_or(run.run.span.end, |flag| flag.span().end);
                let whole = self.builder.source.with_bodies(start, text.span.end);
                whole.map_or_else(|| unfold(text.value, self.escape()), str::to_owned)
            }
            [body] if text.value.trim().is_empty() => {
                if body.value.starts_with("#!") {
                    return Err(Problem::Unsupported(
                        "a here-document with its own interpreter".to_owned(),
                    ));
                }
                body.value.to_string()
            }
            bodies => self.with_bodies(run, bodies),
        };
        let mut args = Reader::shell(&self.state.settings);
        args.push(script);
        Ok(args)
    }

    /// The command as written, here-documents and all: the shell in the container understands them.
    fn with_bodies(&self, run: &RunInstruction<'_>, bodies: &[HereDoc<'_>]) -> String {
        let text = &self.builder.source.text;
        let start = run.options.last().map_or(run.run.span.end, |flag| flag.span().end);
        let last = bodies.last().map_or(start, |body| body.span.end);
        let end = text[last..].find('\n').map_or(text.len(), |offset| last + offset);
        text[start..end].trim_start().to_owned()
    }

    /// Where a mount or a copy reads from.
    fn tree(&self, from: Option<&str>) -> Result<Tree<'_>, Problem> {
        let Some(from) = from else {
            let view = View::of_layers(std::slice::from_ref(&self.builder.request.context));
            return Ok(Tree { view, ignore: Some(&self.builder.ignore) });
        };
        let view = match self.builder.plan.origin_named(from, self.index)? {
            Origin::Stage(stage) => {
                let state = self.done.get(&stage);
                let missing = || Problem::Missing(format!("stage `{from}` is not built"));
                self.builder.view(state.ok_or_else(missing)?)?
            }
            Origin::Image(reference) => {
                let image = self.builder.base(&reference)?;
                View::of_layers(&self.builder.store.layer_dirs(&image)?)
            }
            Origin::Scratch => View::of_layers(&[]),
        };
        Ok(Tree { view, ignore: None })
    }

    fn hash_mount(&self, mount: &Mount, to: &mut dyn Write) -> Result<(), Problem> {
        writeln!(to, "{mount:?}").on_file("hash", "step")?;
        if let Mount::Bind { source, from, .. } = mount {
            let tree = self.tree(from.as_deref())?;
            for item in tree.sources(source)? {
                tree.hash(&item, true, to)?;
            }
        }
        Ok(())
    }

    fn mount(&self, mount: &Mount) -> Result<StepMount, Problem> {
        match mount {
            Mount::Tmpfs { target, size } => {
                Ok(StepMount::Tmpfs { target: self.absolute(target), size: *size })
            }
            Mount::Cache { target, id } => {
                let name = Digest::of(id.as_ref().unwrap_or(target).as_bytes()).hex();
                let source = self.builder.store.root().join("cache-mounts").join(name);
                fs::create_dir_all(&source).on_file("create", &source)?;
                Ok(StepMount::Bind { source, target: self.absolute(target), read_only: false })
            }
            Mount::Bind { target, source, from, writable } => {
                // A copy, so that neither the context nor another stage can be changed or seen beyond this part.
                let copy = self.builder.session.scratch()?;
                let tree = self.tree(from.as_deref())?;
                let nothing = View::of_layers(&[]);
                let layer = Layer { below: &nothing, upper: &copy };
                let mut source_path = copy.clone();
                for item in tree.sources(source)? {
                    let folder = matches!(item.node, Node::Folder(_));
                    let name = if folder { PathBuf::new() } else { PathBuf::from("file") };
                    layer.put(&tree, &item, &name, Dress { owner: None, mode: None })?;
                    source_path = copy.join(name);
                }
                let target = self.absolute(target);
                Ok(StepMount::Bind { source: source_path, target, read_only: !writable })
            }
        }
    }

    fn copy(
        &mut self,
        options: &[Flag<'_>],
        sources: &[CopySource<'_>],
        dest: &str,
        add: bool,
        step: &Step<'_>,
    ) -> Result<(), Problem> {
        let variables = self.variables();
        let mut flags = Flags::new(options, &variables, self.escape())?;
        let from = if add { None } else { flags.take("from")? };
        let chown = flags.take("chown")?;
        let chmod = flags.take("chmod")?;
        let mode = chmod.as_deref().map(octal).transpose()?;
        // What `--link` changes is how a layer may be moved onto another base; its files are the same.
        flags.take_switch("link")?;
        flags.finish()?;
        let below = self.builder.view(&self.state)?;
        let tree = self.tree(from.as_deref())?;
        let owner = chown.map(|text| Owner::parse(&text, &below)).transpose()?;
        let keeps_owner = from.is_some() && owner.is_none();
        let clothes = Dress { owner: if keeps_owner { None } else { owner.or(Some(ROOT)) }, mode };
        let mut pieces = Vec::new();
        for source in sources {
            match source {
                CopySource::Path(path) => {
                    let path = expand(&path.value, &variables, self.escape())?;
                    if add && path.contains("://") {
                        return Err(Problem::Unsupported(format!(
                            "ADD of `{path}` from the network"
                        )));
                    }
                    pieces.extend(tree.sources(&path)?.into_iter().map(Piece::Item));
                }
                CopySource::HereDoc(body) => {
                    let text = if body.expand {
                        expand_body(&body.value, &variables, self.escape())?
                    } else {
                        body.value.to_string()
                    };
                    pieces.push(Piece::Text { name: self.document_name(body)?, text });
                }
                _ => return Err(Problem::Unsupported("this kind of source".to_owned())),
            }
        }
        let whole = self.absolute(dest);
        let key = digest_of(|to| {
            writeln!(to, "COPY {add} {whole:?} {dest:?} {clothes:?}").on_file("hash", "step")?;
            pieces.iter().try_for_each(|piece| piece.hash(&tree, keeps_owner, to))
        })?;
        let into = dest.ends_with('/') || matches!(dest, "." | "..") || pieces.len() > 1;
        // The tree borrows from this stage only what stays as it is.
        let (view, ignore) = (tree.view.clone(), from.is_none().then_some(&self.builder.ignore));
        let builder = self.builder;
        self.layer(step, key, move |_, upper| {
            let tree = Tree { view, ignore };
            let layer = Layer { below: &below, upper };
            let into = into || layer.is_folder(&whole)?;
            for piece in &pieces {
                if add
                    && let Piece::Item(item) = piece
                    && let Some(found) = archive(builder, item)?
                {
                    let item = Item { path: PathBuf::new(), node: found.root() };
                    let tree = Tree { view: found, ignore: None };
                    layer.put(&tree, &item, &whole, Dress { owner, mode })?;
                    continue;
                }
                piece.put(&tree, &layer, &whole, into, clothes)?;
            }
            forget_times(upper)
        })
    }

    /// The delimiter of a here-document is the name of its file.
    fn document_name(&self, body: &HereDoc<'_>) -> Result<String, Problem> {
        let text = &self.builder.source.text[body.span.end..];
        let name = text.lines().next().unwrap_or("").trim();
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Problem::Syntax("a here-document has no name".to_owned()));
        }
        Ok(name.to_owned())
    }
}

/// A source of `COPY`.
enum Piece {
    Item(Item),
    Text { name: String, text: String },
}

impl Piece {
    fn hash(&self, tree: &Tree<'_>, owners: bool, to: &mut dyn Write) -> Result<(), Problem> {
        match self {
            Self::Item(item) => {
                writeln!(to, "{:?}", item.path.file_name()).on_file("hash", "step")?;
                tree.hash(item, owners, to)
            }
            Self::Text { name, text } => writeln!(to, "{name:?} {text:?}").on_file("hash", "step"),
        }
    }

    fn put(
        &self,
        tree: &Tree<'_>,
        layer: &Layer<'_>,
        to: &Path,
        into: bool,
        clothes: Dress,
    ) -> Result<(), Problem> {
        match self {
            Self::Item(item) => {
                let name =
                    item.path.file_name().filter(|_| into && matches!(item.node, Node::Leaf(_)));
                let to = name.map_or(to.to_owned(), |name| to.join(name));
                layer.put(tree, item, &to, clothes)
            }
            Self::Text { name, text } => {
                let to = if into { to.join(name) } else { to.to_owned() };
                let owner = clothes.owner.unwrap_or(ROOT);
                layer.write(text, &to, owner, clothes.mode.unwrap_or(0o644))
            }
        }
    }
}

/// A mount as written.
#[derive(Debug)]
enum Mount {
    Bind { target: String, source: String, from: Option<String>, writable: bool },
    Cache { target: String, id: Option<String> },
    Tmpfs { target: String, size: Option<u64> },
}

impl Mount {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut fields: BTreeMap<&str, &str> =
            text.split(',').map(|part| part.split_once('=').unwrap_or((part, "true"))).collect();
        let kind = fields.remove("type").unwrap_or("bind");
        if !matches!(kind, "bind" | "cache" | "tmpfs") {
            return Err(Problem::Unsupported(format!("RUN --mount=type={kind}")));
        }
        let target = ["target", "dst", "destination"].iter().find_map(|name| fields.remove(name));
        let target =
            target.ok_or_else(|| Problem::Syntax("the mount has no target".to_owned()))?.to_owned();
        let mut take = |name: &str| fields.remove(name).map(str::to_owned);
        let mount = match kind {
            "cache" => Self::Cache { target, id: take("id") },
            "tmpfs" => {
                let bad = |_| Problem::Syntax("size is not a number of bytes".to_owned());
                Self::Tmpfs {
                    target,
                    size: take("size").map(|size| size.parse()).transpose().map_err(bad)?,
                }
            }
            _ => {
                let writable =
                    take("rw").or_else(|| take("readwrite")).is_some_and(|rw| rw == "true");
                let source =
                    take("source").or_else(|| take("src")).unwrap_or_else(|| "/".to_owned());
                Self::Bind { target, source, from: take("from"), writable }
            }
        };
        match fields.keys().next() {
            None => Ok(mount),
            Some(name) => Err(Problem::Unsupported(format!("`{name}` in RUN --mount=type={kind}"))),
        }
    }
}

fn octal(text: &str) -> Result<u32, Problem> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Problem::Unsupported(format!("--chmod={text} (only octal modes)")))
}

/// If the source is a tar archive, its contents, extracted.
fn archive(builder: &Builder<'_, '_>, item: &Item) -> Result<Option<View>, Problem> {
    let Node::Leaf(path) = &item.node else { return Ok(None) };
    if !fs::symlink_metadata(path).on_file("look at", path)?.is_file() {
        return Ok(None);
    }
    let open = || inflated(fs::File::open(path)?);
    let mut head = Vec::new();
    // What cannot be inflated is no archive, and is copied as it is.
    let peeked = open().and_then(|source| source.take(512).read_to_end(&mut head));
    let is_tar = peeked.is_ok() && head.get(257..262) == Some(&b"ustar"[..]);
    if !is_tar {
        let magic: [&[u8]; 2] = [b"BZh", b"\xfd7zXZ"];
        if magic.iter().any(|magic| head.starts_with(magic)) {
            let what = "extracting bzip2 and xz archives (use gzip or zstd, or COPY)";
            return Err(Problem::Unsupported(what.to_owned()));
        }
        return Ok(None);
    }
    let folder = builder.session.scratch()?;
    extract(open().on_file("open", path)?, &folder, &UnpackOptions::default())?;
    Ok(Some(View::of_layers(&[folder])))
}

/// Folders changed when files were put into them; what has no time of its own gets none, so that the same
/// content gives the same layer.
fn forget_times(upper: &Path) -> Result<(), Problem> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    for entry in fs::read_dir(upper).on_file("list", upper)? {
        let entry = entry.on_file("list", upper)?;
        if entry.file_type().on_file("look at", entry.path())?.is_dir() {
            let path = entry.path();
            forget_times(&path)?;
            let epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = Timestamps { last_access: epoch, last_modification: epoch };
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)
                .on_file("set the times of", &path)?;
        }
    }
    Ok(())
}

/// Passes output on, and keeps its last lines for the error.
struct Output<'a> {
    progress: &'a dyn BuildProgress,
    step: &'a Step<'a>,
    tail: VecDeque<Vec<u8>>,
}

impl Output<'_> {
    fn text(&self) -> String {
        let lines = self.tail.iter().map(|line| String::from_utf8_lossy(line).into_owned());
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.event(self.step, Event::Output(bytes));
        for (number, piece) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 || self.tail.is_empty() {
                self.tail.push_back(Vec::new());
                if self.tail.len() > TAIL_LINES + 1 {
                    self.tail.pop_front();
                }
            }
            if let Some(line) = self.tail.back_mut() {
                line.extend_from_slice(&piece[..piece.len().min(1000)]);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
