//! A project in a temporary folder, a store with busybox, and a runner made of `unshare` and `chroot`.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use berth_build::base::{BaseImage, bootstrap};
use berth_build::{
    BuildError, BuildProgress, BuildRequest, Event, NetworkMode, RunStep, RunnerError, Step,
    StepMount, StepRunner, build,
};
use berth_content::{ContentStore, Durability, Image, Reference};

pub struct Project {
    pub folder: tempfile::TempDir,
    pub store: ContentStore,
    pub seen: Seen,
}

/// Remembers what a build told.
#[derive(Default)]
pub struct Seen {
    pub events: Mutex<Vec<String>>,
    pub output: Mutex<String>,
}

impl BuildProgress for Seen {
    fn event(&self, step: &Step<'_>, event: Event<'_>) {
        let what = match event {
            Event::Started => "started",
            Event::Cached => "cached",
            Event::Done => return,
            Event::Output(bytes) => {
                self.output.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
                return;
            }
        };
        let Step { stage, number, total, text } = step;
        self.events.lock().unwrap().push(format!("{what} [{stage} {number}/{total}] {text}"));
    }

    fn warning(&self, text: &str) {
        self.events.lock().unwrap().push(format!("warning: {text}"));
    }
}

impl Seen {
    /// What was told since the last time.
    pub fn take(&self) -> Vec<String> {
        let mut events = std::mem::take(&mut *self.events.lock().unwrap());
        events.sort();
        events
    }
}

pub fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

pub fn project(files: &[(&str, &str)]) -> Project {
    let folder = tempfile::tempdir().unwrap();
    let store = ContentStore::open(folder.path().join("store")).unwrap();
    let store = store.with_durability(Durability::ThisBoot);
    bootstrap(&store, &BaseImage::Busybox, &reference("busybox"), &mut io::sink()).unwrap();
    let project = Project { folder, store, seen: Seen::default() };
    std::fs::create_dir(project.context()).unwrap();
    for (name, text) in files {
        project.write(name, text);
    }
    project
}

impl Project {
    pub fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.context().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn request(&self) -> BuildRequest {
        let tags = vec![reference("result")];
        BuildRequest { context: self.context(), tags, ..BuildRequest::default() }
    }

    pub fn try_build(&self, request: &BuildRequest) -> Result<Image, BuildError> {
        let fetch = |image: &Reference| -> Result<Image, Box<dyn std::error::Error + Send + Sync>> {
            Err(format!("there is no registry in this test for {image}").into())
        };
        build(&self.store, request, &Unshare, &fetch, &self.seen)
    }

    pub fn build(&self, dockerfile: &str) -> Image {
        self.write("Dockerfile", dockerfile);
        self.try_build(&self.request()).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub fn build_error(&self, dockerfile: &str) -> String {
        self.write("Dockerfile", dockerfile);
        let error = self.try_build(&self.request()).err().unwrap();
        chain(&error).replace(&self.context().display().to_string(), "")
    }

    /// Runs a shell command in the image and returns what it prints.
    pub fn inside(&self, image: &Image, script: &str) -> String {
        let upper = tempfile::tempdir_in(self.store.root()).unwrap();
        let work = tempfile::tempdir_in(self.store.root()).unwrap();
        let mut env = vec!["PATH=/bin:/usr/bin".to_owned()];
        env.extend(image.config.config().as_ref().unwrap().env().clone().unwrap_or_default());
        let step = RunStep {
            lower: self.store.layer_dirs(image).unwrap(),
            upper: upper.path().to_owned(),
            work: work.path().to_owned(),
            args: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            env,
            cwd: "/".into(),
            user: String::new(),
            network: NetworkMode::None,
            mounts: Vec::new(),
        };
        let mut output = Vec::new();
        let code = Unshare.run(&step, &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(code, 0, "{text}");
        text
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text += &format!(": {one}");
        cause = one.source();
    }
    text
}

pub fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Runs steps in a private mount and process namespace, which takes the mounts with it.
pub struct Unshare;

const SCRIPT: &str = r#"
    lower=$1; upper=$2; work=$3; merged=$4; user=$5; cwd=$6; mounts=$7; shift 7
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work,redirect_dir=off,metacopy=off" "$merged"
    mkdir -p "$merged/proc" "$merged/dev" "$merged/etc"
    mount -t proc proc "$merged/proc"
    mount --rbind /dev "$merged/dev"
    [ -e "$merged/etc/resolv.conf" ] || : > "$merged/etc/resolv.conf"
    mount --bind /etc/resolv.conf "$merged/etc/resolv.conf"
    echo "$mounts" | while IFS='|' read -r kind source target; do
        case $kind in
            bind|robind)
                if [ -d "$source" ]; then mkdir -p "$merged$target"; else mkdir -p "$(dirname "$merged$target")"; : > "$merged$target"; fi
                mount --bind "$source" "$merged$target"
                [ "$kind" = bind ] || mount -o remount,ro,bind "$merged$target" ;;
            tmpfs) mkdir -p "$merged$target"; mount -t tmpfs tmpfs "$merged$target" ;;
        esac
    done
    exec chroot --userspec="${user:-0:0}" "$merged" /bin/sh -c 'mkdir -p "$0" && cd "$0" && exec "$@"' "$cwd" "$@"
"#;

impl StepRunner for Unshare {
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32, RunnerError> {
        let merged = tempfile::tempdir().unwrap();
        let lower: Vec<_> = step.lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
        let mounts: Vec<String> = step.mounts.iter().map(mount).collect();
        let user = if step.user.is_empty() || step.user.contains(':') {
            step.user.clone()
        } else {
            format!("{}:", step.user)
        };
        let (mut reader, writer) = io::pipe().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        if step.network == NetworkMode::None {
            command.arg("--net");
        }
        command.args(["sh", "-euc", SCRIPT, "-", &lower.join(":")]);
        command.args([&step.upper, &step.work, &merged.path().to_owned()]);
        command.args([&user, step.cwd.to_str().unwrap(), &mounts.join("\n")]).args(&step.args);
        command.env_clear();
        command.envs(step.env.iter().map(|pair| pair.split_once('=').unwrap()));
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().map_err(|error| RunnerError(error.into()))?;
        // The command holds the writing end, too.
        drop(command);
        let mut buffer = [0; 4096];
        loop {
            let count = reader.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            output.write_all(&buffer[..count]).unwrap();
        }
        Ok(child.wait().unwrap().code().unwrap_or(137))
    }
}

fn mount(mount: &StepMount) -> String {
    let show = |path: &Path| path.display().to_string();
    match mount {
        StepMount::Bind { source, target, read_only } => {
            let kind = if *read_only { "robind" } else { "bind" };
            format!("{kind}|{}|{}", show(source), show(target))
        }
        StepMount::Tmpfs { target, size: _ } => format!("tmpfs||{}", show(target)),
    }
}
