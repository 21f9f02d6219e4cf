//! The command line as engines write it: flags before and after the command, with `=` or a space before their values.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::OciError;

/// Where containers are noted unless the command line says otherwise.
const ROOT: &str = "/run/berth/oci";

/// What holds for every command.
pub(crate) struct Global {
    pub root: PathBuf,
    log: Option<PathBuf>,
    json: bool,
}

impl Global {
    /// Tells of what is not as it was asked for, and goes on.
    pub fn warn(&self, text: &str) {
        if self.log.is_none() {
            let _nobody_listens = writeln!(std::io::stderr(), "warning: {text}");
        }
        self.log("warning", text);
    }

    /// Writes to the log, from which engines take what they tell people.
    pub fn log(&self, level: &str, text: &str) {
        let Some(path) = &self.log else { return };
        let now = jiff::Timestamp::now().to_string();
        let line = match self.json {
            true => serde_json::json!({"level": level, "msg": text, "time": now}).to_string(),
            false => format!("time=\"{now}\" level={level} msg={text:?}"),
        };
        let opened = OpenOptions::new().append(true).create(true).open(path);
        // The failure itself is on standard error already.
        let _unwritable = opened.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// A container to make.
pub(crate) struct Make {
    pub name: String,
    pub bundle: PathBuf,
    pub pid_file: Option<PathBuf>,
    pub console: Option<PathBuf>,
    pub preserved: u32,
    pub pivot: bool,
    pub fresh_keyring: bool,
    /// `run` alone: whether it returns once the program runs.
    pub detach: bool,
    /// `run` alone: whether what has ended stays.
    pub keep: bool,
}

/// A process to add.
pub(crate) struct Enter {
    pub name: String,
    /// A file with the whole process, or else the words of its command.
    pub process: Option<PathBuf>,
    pub words: Vec<String>,
    pub environment: Vec<String>,
    pub directory: Option<PathBuf>,
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub terminal: bool,
    pub detach: bool,
    pub ignore_paused: bool,
    pub pid_file: Option<PathBuf>,
    pub console: Option<PathBuf>,
    pub preserved: u32,
}

/// How a list is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Table,
    Json,
    /// Names alone.
    Names,
}

/// What is to be done.
pub(crate) enum Command {
    Create(Make),
    Run(Make),
    Start {
        name: String,
    },
    State {
        name: String,
    },
    Kill {
        name: String,
        signal: String,
        all: bool,
    },
    Delete {
        name: String,
        force: bool,
    },
    Exec(Enter),
    Pause {
        name: String,
    },
    Resume {
        name: String,
    },
    /// `options` are those of `ps`, for a table.
    Processes {
        name: String,
        form: Form,
        options: Vec<String>,
    },
    Update {
        name: String,
        resources: Value,
    },
    /// Once, or every `interval`.
    Events {
        name: String,
        once: bool,
        interval: Duration,
    },
    List(Form),
    Features,
    Version,
    Help,
}

/// Flags and words of one part of a command line.
struct Parsed {
    flags: Vec<(String, String)>,
    words: Vec<String>,
}

fn usage(text: impl Into<String>) -> OciError {
    OciError::Usage(text.into())
}

/// Splits a part: `with` names flags with a value, `alone` those without. Flags end at the first word if `until_word`.
fn split(
    words: &[String],
    with: &[&str],
    alone: &[&str],
    until_word: bool,
) -> Result<(Parsed, usize), OciError> {
    let mut parsed = Parsed { flags: Vec::new(), words: Vec::new() };
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
            if until_word {
                break;
            }
            parsed.words.push(word.clone());
            at += 1;
            continue;
        };
        at += 1;
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            // `--`: only words from here on.
            parsed.words.extend_from_slice(&words[at..]);
            at = words.len();
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let value = if with.contains(&name) {
            match value {
                Some(value) => value,
                None => {
                    let value =
                        words.get(at).ok_or_else(|| usage(format!("--{name} needs a value")))?;
                    at += 1;
                    value.clone()
                }
            }
        } else if alone.contains(&name) {
            value.unwrap_or_else(|| "true".to_owned())
        } else {
            return Err(usage(format!("unknown flag --{name}")));
        };
        parsed.flags.push((name.to_owned(), value));
    }
    Ok((parsed, at))
}

impl Parsed {
    fn text(&self, names: &[&str]) -> Option<String> {
        let found = self.flags.iter().rev().find(|(name, _)| names.contains(&name.as_str()));
        found.map(|(_, value)| value.clone())
    }

    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        self.text(names).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn is(&self, names: &[&str]) -> bool {
        self.text(names).is_some_and(|value| value != "false")
    }

    fn all(&self, names: &[&str]) -> Vec<String> {
        let found = self.flags.iter().filter(|(name, _)| names.contains(&name.as_str()));
        found.map(|(_, value)| value.clone()).collect()
    }

    fn one(&self) -> Result<String, OciError> {
        match self.words.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(usage("the name of a container is missing")),
            [_, more, ..] => Err(usage(format!("`{more}` is too much"))),
        }
    }
}

/// What `help` says.
pub(crate) const HELP: &str = "\
The container runtime as a command for other engines: podman, containerd, docker

Usage: berth oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND …

  create [--bundle DIR] [--pid-file FILE] [--console-socket SOCKET] [--preserve-fds N] [--no-pivot] [--no-new-keyring] NAME
  start NAME
  run [the flags of create] [--detach] [--keep] NAME
  state NAME
  kill [--all] NAME [SIGNAL]
  delete [--force] NAME
  exec [--process FILE] [--detach] [--env NAME=VALUE] [--cwd DIR] [--user UID[:GID]] [--cap NAME] … NAME WORDS…
  pause NAME
  resume NAME
  update [--resources FILE] [--memory BYTES] [--pids-limit N] [--cpu-quota MICROSECONDS] … NAME
  events [--stats] [--interval 5s] NAME
  ps [--format table|json] NAME [OPTIONS OF PS]
  list [--format table|json] [--quiet]
  features
";

/// The command, or why there is none; that it, too, can be logged needs the flags before it.
pub(crate) fn parse(words: &[String]) -> Result<(Global, Result<Command, OciError>), OciError> {
    let with = ["root", "log", "log-format", "log-level", "rootless", "criu"];
    let alone = ["debug", "systemd-cgroup", "version", "v", "help", "h"];
    let (flags, at) = split(words, &with, &alone, true)?;
    let json = match flags.text(&["log-format"]).as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => return Err(usage(format!("`{other}` is no format of a log"))),
    };
    let root = flags.path(&["root"]).unwrap_or_else(|| PathBuf::from(ROOT));
    let global = Global { root, log: flags.path(&["log"]), json };
    Ok((global, command(&flags, &words[at..])))
}

fn command(flags: &Parsed, words: &[String]) -> Result<Command, OciError> {
    if flags.is(&["systemd-cgroup"]) {
        let what = "--systemd-cgroup (cgroups are made without systemd; the engine's driver `cgroupfs` works)";
        return Err(OciError::Unsupported(what.to_owned()));
    }
    if flags.text(&["criu"]).is_some() {
        return Err(OciError::Unsupported("--criu".to_owned()));
    }
    if flags.text(&["rootless"]).is_some_and(|value| value == "true") {
        return Err(OciError::Unsupported("--rootless=true".to_owned()));
    }
    if flags.is(&["version", "v"]) {
        return Ok(Command::Version);
    }
    if flags.is(&["help", "h"]) || words.first().is_some_and(|word| word == "help") {
        return Ok(Command::Help);
    }
    let Some((command, rest)) = words.split_first() else {
        return Err(usage("a command is missing"));
    };
    parse_command(command, rest)
}

fn parse_command(command: &str, rest: &[String]) -> Result<Command, OciError> {
    let flags = |with: &[&str], alone: &[&str]| -> Result<Parsed, OciError> {
        Ok(split(rest, with, alone, false)?.0)
    };
    Ok(match command {
        "create" => Command::Create(make(rest, &[])?),
        "run" => Command::Run(make(rest, &["detach", "d", "keep"])?),
        "start" => Command::Start { name: flags(&[], &[])?.one()? },
        "state" => Command::State { name: flags(&[], &[])?.one()? },
        "kill" => {
            let flags = flags(&[], &["all", "a"])?;
            let (name, signal) = match flags.words.as_slice() {
                [name] => (name.clone(), "SIGTERM".to_owned()),
                [name, signal] => (name.clone(), signal.clone()),
                _ => return Err(usage("kill takes a container and a signal")),
            };
            Command::Kill { name, signal, all: flags.is(&["all", "a"]) }
        }
        "delete" => {
            let flags = flags(&[], &["force", "f"])?;
            Command::Delete { name: flags.one()?, force: flags.is(&["force", "f"]) }
        }
        "exec" => Command::Exec(enter(rest)?),
        "pause" => Command::Pause { name: flags(&[], &[])?.one()? },
        "resume" => Command::Resume { name: flags(&[], &[])?.one()? },
        "ps" => processes(rest)?,
        "update" => update(rest)?,
        "events" => {
            let flags = flags(&["interval"], &["stats"])?;
            let text = flags.text(&["interval"]).unwrap_or_else(|| "5s".to_owned());
            let interval = interval(&text)?;
            Command::Events { name: flags.one()?, once: flags.is(&["stats"]), interval }
        }
        "list" => list(rest)?,
        "features" if rest.is_empty() => Command::Features,
        "checkpoint" | "restore" => {
            let what = format!("`{command}` (the state of processes cannot be kept)");
            return Err(OciError::Unsupported(what));
        }
        other => {
            return Err(OciError::Unsupported(format!(
                "`{}`",
                [&[other.to_owned()], rest].concat().join(" ")
            )));
        }
    })
}

fn form(flags: &Parsed) -> Result<Form, OciError> {
    match flags.text(&["format", "f"]).as_deref() {
        None | Some("table") => Ok(Form::Table),
        Some("json") => Ok(Form::Json),
        Some(other) => Err(usage(format!("`{other}` is no format: table or json"))),
    }
}

/// What follows the name is for the host's `ps`.
fn processes(rest: &[String]) -> Result<Command, OciError> {
    let (flags, at) = split(rest, &["format", "f"], &[], true)?;
    let form = form(&flags)?;
    let words = [&flags.words[..], &rest[at..]].concat();
    let (name, options) =
        words.split_first().ok_or_else(|| usage("the name of a container is missing"))?;
    Ok(Command::Processes { name: name.clone(), form, options: options.to_vec() })
}

fn list(rest: &[String]) -> Result<Command, OciError> {
    let (flags, _) = split(rest, &["format", "f"], &["quiet", "q"], false)?;
    if let Some(word) = flags.words.first() {
        return Err(usage(format!("`{word}` is too much")));
    }
    let form = form(&flags)?;
    Ok(Command::List(if flags.is(&["quiet", "q"]) { Form::Names } else { form }))
}

/// A number of seconds, or with one of the units `ms`, `s`, `m`.
fn interval(text: &str) -> Result<Duration, OciError> {
    let wrong = || usage(format!("`{text}` is no interval, such as `5s`"));
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let unit = match &text[at..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    let duration = Duration::from_millis(number.checked_mul(unit).ok_or_else(wrong)?);
    if duration.is_zero() { Err(wrong()) } else { Ok(duration) }
}

/// Limits are a file in the form of a bundle's resources, or flags.
fn update(rest: &[String]) -> Result<Command, OciError> {
    const NUMBERS: [(&str, &str, &str); 10] = [
        ("memory", "memory", "limit"),
        ("memory-reservation", "memory", "reservation"),
        ("memory-swap", "memory", "swap"),
        ("cpu-period", "cpu", "period"),
        ("cpu-quota", "cpu", "quota"),
        ("cpu-share", "cpu", "shares"),
        ("cpu-burst", "cpu", "burst"),
        ("cpu-idle", "cpu", "idle"),
        ("blkio-weight", "blockIO", "weight"),
        ("pids-limit", "pids", "limit"),
    ];
    let mut with = vec!["resources", "r", "cpuset-cpus", "cpuset-mems"];
    with.extend(NUMBERS.map(|(flag, _, _)| flag));
    let (flags, _) = split(rest, &with, &[], false)?;
    let mut resources = match flags.path(&["resources", "r"]) {
        Some(path) => read_resources(&path)?,
        None => Value::Object(serde_json::Map::new()),
    };
    for (flag, group, field) in NUMBERS {
        if let Some(text) = flags.text(&[flag]) {
            let number: i64 = text
                .parse()
                .map_err(|_| usage(format!("--{flag} takes a number, not `{text}`")))?;
            set(&mut resources, group, field, number.into())?;
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = flags.text(&[flag]) {
            set(&mut resources, "cpu", field, text.into())?;
        }
    }
    if resources.as_object().is_some_and(serde_json::Map::is_empty) && flags.flags.is_empty() {
        return Err(usage("update needs --resources, or a limit as a flag"));
    }
    Ok(Command::Update { name: flags.one()?, resources })
}

fn set(resources: &mut Value, group: &str, field: &str, value: Value) -> Result<(), OciError> {
    let no_object = || usage(format!("the resources, or `{group}` in them, are no object"));
    let all = resources.as_object_mut().ok_or_else(no_object)?;
    let group = all.entry(group).or_insert_with(|| Value::Object(serde_json::Map::new()));
    if group.is_null() {
        *group = Value::Object(serde_json::Map::new());
    }
    group.as_object_mut().ok_or_else(no_object)?.insert(field.to_owned(), value);
    Ok(())
}

fn read_resources(path: &Path) -> Result<Value, OciError> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(OciError::file("read", path))?;
    serde_json::from_str(&text)
        .map_err(|source| OciError::Bundle { path: path.to_owned(), source: source.into() })
}

fn make(rest: &[String], more: &[&str]) -> Result<Make, OciError> {
    let with = ["bundle", "b", "pid-file", "console-socket", "preserve-fds"];
    let alone = [&["no-pivot", "no-new-keyring"], more].concat();
    let (flags, _) = split(rest, &with, &alone, false)?;
    Ok(Make {
        name: flags.one()?,
        bundle: flags.path(&["bundle", "b"]).unwrap_or_else(|| PathBuf::from(".")),
        pid_file: flags.path(&["pid-file"]),
        console: flags.path(&["console-socket"]),
        preserved: preserved(&flags)?,
        pivot: !flags.is(&["no-pivot"]),
        fresh_keyring: !flags.is(&["no-new-keyring"]),
        detach: flags.is(&["detach", "d"]),
        keep: flags.is(&["keep"]),
    })
}

/// How many descriptors from 3 on are handed on; all of them are there.
fn preserved(flags: &Parsed) -> Result<u32, OciError> {
    let Some(text) = flags.text(&["preserve-fds"]) else { return Ok(0) };
    let count: u32 = text
        .parse()
        .ok()
        .filter(|count| *count < 1024)
        .ok_or_else(|| usage(format!("--preserve-fds takes a number, not `{text}`")))?;
    for number in 3..3 + count {
        let link = PathBuf::from(format!("/proc/self/fd/{number}"));
        std::fs::symlink_metadata(&link).map_err(OciError::file("hand on", &link))?;
    }
    Ok(count)
}

fn enter(rest: &[String]) -> Result<Enter, OciError> {
    let with = [
        "process",
        "p",
        "env",
        "e",
        "cwd",
        "user",
        "u",
        "additional-gids",
        "g",
        "cap",
        "c",
        "pid-file",
        "console-socket",
        "preserve-fds",
    ];
    let alone = ["tty", "t", "detach", "d", "no-new-privs", "ignore-paused"];
    let (mut flags, at) = split(rest, &with, &alone, true)?;
    flags.words.extend_from_slice(&rest[at..]);
    let (name, words) =
        flags.words.split_first().ok_or_else(|| usage("the name of a container is missing"))?;
    Ok(Enter {
        name: name.clone(),
        process: flags.path(&["process", "p"]),
        words: words.to_vec(),
        environment: flags.all(&["env", "e"]),
        directory: flags.path(&["cwd"]),
        user: flags.text(&["user", "u"]),
        groups: flags.all(&["additional-gids", "g"]),
        capabilities: flags.all(&["cap", "c"]),
        no_new_privileges: flags.is(&["no-new-privs"]),
        terminal: flags.is(&["tty", "t"]),
        detach: flags.is(&["detach", "d"]),
        ignore_paused: flags.is(&["ignore-paused"]),
        pid_file: flags.path(&["pid-file"]),
        console: flags.path(&["console-socket"]),
        preserved: preserved(&flags)?,
    })
}
