//! Base images from the machine's own packages, for machines without a way to a registry.
//!
//! Debian comes from mmdebstrap with the apt sources this machine uses, so whatever mirror works here works in the
//! image too; busybox comes from the static binary of `busybox-static`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_content::{CachedLayer, ContentError, ContentStore, Image, Reference, Session};
use berth_unpack::{UnpackError, UnpackOptions, extract};

use crate::commit::{self, GZIP, Settings, StackLayer};
use crate::error::Problem;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MMDEBSTRAP: &str = "/usr/bin/mmdebstrap";
const BUSYBOX: &str = "/bin/busybox";
/// 2020-01-01: no file of a base image is newer, so that the same packages give the same image.
const EPOCH: i64 = 1_577_836_800;
/// Settings of this machine's apt that decide whether its mirror can be used.
const CARRIED: [&str; 4] = [
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
    "Acquire::http::Proxy ",
    "Acquire::https::Proxy ",
];

/// An image this machine can make without a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseImage {
    /// Debian with apt, and nothing that is not required.
    Debian {
        /// `bookworm`, `trixie`, …
        suite: String,
        /// Further packages.
        include: Vec<String>,
    },
    /// The busybox binary with a link per applet.
    Busybox,
}

/// Why a base image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A program of this machine that is needed.
    #[error("`{program}` cannot be run; install the package `{package}`")]
    Program {
        /// Its path.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
        /// Why.
        source: io::Error,
    },
    /// busybox that needs libraries the image would not have.
    #[error("`{BUSYBOX}` is not a static binary; install the package `busybox-static`")]
    Dynamic,
    /// mmdebstrap failed.
    #[error("mmdebstrap failed ({status}); its last output:\n{output}")]
    Bootstrap {
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its last lines.
        output: String,
    },
    /// Its output could not be unpacked.
    #[error("cannot unpack what mmdebstrap wrote")]
    Unpack(#[from] UnpackError),
    /// A suite or package name that is none.
    #[error("`{0}` is not a name of a suite or package")]
    Name(String),
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ContentError),
    /// The layer or image could not be made.
    #[error("cannot make the image")]
    Image(#[from] Problem),
}

impl BaseImage {
    /// The base image behind a common name, if this machine can make it: `busybox`, or `debian:<suite>`.
    pub fn named(reference: &Reference) -> Option<Self> {
        let tag = reference.tag()?.as_str();
        match (reference.registry(), reference.repository()) {
            ("docker.io", "library/busybox") => Some(Self::Busybox),
            ("docker.io", "library/debian") => {
                let suite = tag.strip_suffix("-slim").unwrap_or(tag);
                let suite = if suite == "latest" { host_suite()? } else { suite.to_owned() };
                let known = suite.chars().all(|char| char.is_ascii_lowercase());
                known.then_some(Self::Debian { suite, include: Vec::new() })
            }
            _ => None,
        }
    }
}

/// The suite this machine runs.
fn host_suite() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(codename.trim_matches('"').to_owned())
}

/// Makes a base image and tags it. What the tools say goes to `output`. Blocks: Debian takes half a minute.
///
/// # Errors
///
/// When a tool is missing or fails, or the store does.
pub fn bootstrap(
    store: &ContentStore,
    base: &BaseImage,
    tag: &Reference,
    output: &mut dyn Write,
) -> Result<Image, BaseError> {
    let session = store.session()?;
    let root = session.prepare_snapshot()?;
    let mut settings =
        Settings { env: vec![("PATH".to_owned(), PATH.to_owned())], ..Settings::default() };
    let by = match base {
        BaseImage::Debian { suite, include } => {
            debian(&root, suite, include, output)?;
            settings.cmd = Some(vec!["bash".to_owned()]);
            format!("mmdebstrap {suite} {}", include.join(" "))
        }
        BaseImage::Busybox => {
            busybox(&root)?;
            settings.cmd = Some(vec!["sh".to_owned()]);
            "busybox".to_owned()
        }
    };
    finish(&session, &root, &settings, by.trim_end(), tag)
}

fn finish(
    session: &Session,
    root: &Path,
    settings: &Settings,
    by: &str,
    tag: &Reference,
) -> Result<Image, BaseError> {
    let layer: CachedLayer = commit::layer(session, root, Some(EPOCH))?;
    let created = commit::timestamp(Some(EPOCH));
    let history = vec![commit::history(&created, by, false)?];
    let layers = [StackLayer { layer, media_type: GZIP.to_owned() }];
    let tags = std::slice::from_ref(tag);
    Ok(commit::image(session, &layers, settings, history, &created, tags)?)
}

fn debian(
    root: &Path,
    suite: &str,
    include: &[String],
    output: &mut dyn Write,
) -> Result<(), BaseError> {
    for name in include.iter().map(String::as_str).chain([suite]) {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte);
        if name.starts_with('-') || name.is_empty() || !name.bytes().all(good) {
            return Err(BaseError::Name(name.to_owned()));
        }
    }
    let mut command = Command::new(MMDEBSTRAP);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
    command.env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    command.args(["--variant=minbase", "--mode=root", "--format=tar"]);
    if !include.is_empty() {
        command.arg(format!("--include={}", include.join(",")));
    }
    for option in carried_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command.args([suite, "-"]).args(sources(Path::new("/etc/apt"), suite));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let missing =
        |source| BaseError::Program { program: MMDEBSTRAP, package: "mmdebstrap", source };
    let mut child = command.spawn().map_err(missing)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut last = std::collections::VecDeque::new();
    let extracted = std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| {
            stdout.map(|stdout| extract(BufReader::new(stdout), root, &UnpackOptions::default()))
        });
        for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
            let Ok(line) = line else { break };
            // Whoever listens may have gone; the image does not depend on it.
            let _unheard = writeln!(output, "{line}");
            last.push_back(line);
            if last.len() > 20 {
                last.pop_front();
            }
        }
        match unpacking.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let status = child.wait().map_err(missing)?;
    if !status.success() {
        let output = last.into_iter().collect::<Vec<_>>().join("\n");
        return Err(BaseError::Bootstrap { status, output });
    }
    if let Some(outcome) = extracted {
        outcome?;
    }
    // mmdebstrap copies these from the machine; they are no part of an image.
    for name in ["etc/resolv.conf", "etc/hostname"] {
        let path = root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(|source| BaseError::File { path, source })?,
        }
    }
    Ok(())
}

/// The files of this machine's apt sources that have the suite.
fn sources(apt: &Path, suite: &str) -> Vec<PathBuf> {
    let mut files = vec![apt.join("sources.list")];
    let more = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    files.retain(|path| {
        let kind = path.extension().and_then(|extension| extension.to_str());
        let text = fs::read_to_string(path).unwrap_or_default();
        let of_suite = |word: &str| {
            word.strip_prefix(suite).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        matches!(kind, Some("list" | "sources"))
            && lines.flat_map(str::split_whitespace).any(of_suite)
    });
    files.sort();
    files
}

/// What this machine's apt needs to use its mirror; the image's apt needs it as well.
fn carried_options() -> Vec<String> {
    let mut command = Command::new("/usr/bin/apt-config");
    let dump = command.env_clear().env("PATH", PATH).arg("dump").output();
    let dump = dump.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let dump = dump.unwrap_or_default();
    let carried = dump.lines().filter(|line| CARRIED.iter().any(|name| line.starts_with(name)));
    carried.map(str::to_owned).collect()
}

fn busybox(root: &Path) -> Result<(), BaseError> {
    let missing =
        |source| BaseError::Program { program: BUSYBOX, package: "busybox-static", source };
    let binary = fs::read(BUSYBOX).map_err(missing)?;
    let loader = b"/lib64/ld-linux";
    if binary.windows(loader.len()).any(|window| window == loader) {
        return Err(BaseError::Dynamic);
    }
    let list = Command::new(BUSYBOX).env_clear().arg("--list").output().map_err(missing)?;
    let write = |path: &Path, outcome: io::Result<()>| {
        outcome.map_err(|source| BaseError::File { path: path.to_owned(), source })
    };
    let folders: BTreeMap<&str, u32> = [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("var", 0o755),
        ("var/tmp", 0o1777),
    ]
    .into();
    for (name, mode) in folders {
        let path = root.join(name);
        let mode = fs::Permissions::from_mode(mode);
        write(&path, fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, mode)))?;
    }
    for (name, mode, text) in [
        ("bin/busybox", 0o755, &binary[..]),
        (
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        ("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n"),
    ] {
        let path = root.join(name);
        let mode = fs::Permissions::from_mode(mode);
        write(&path, fs::write(&path, text).and_then(|()| fs::set_permissions(&path, mode)))?;
    }
    let applets = String::from_utf8_lossy(&list.stdout).into_owned();
    for applet in applets.lines().filter(|applet| *applet != "busybox" && !applet.contains('/')) {
        let path = root.join("bin").join(applet);
        write(&path, symlink("/bin/busybox", &path))?;
    }
    let env = root.join("usr/bin/env");
    write(&env, symlink("/bin/busybox", &env))
}
