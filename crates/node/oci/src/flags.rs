//! The command line as engines write it: flags before and after the command, with `=` or a space before their values.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

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
    /// Writes a failure to the log, from which engines take what they tell people.
    pub fn log(&self, text: &str) {
        let Some(path) = &self.log else { return };
        let now = jiff::Timestamp::now().to_string();
        let line = match self.json {
            true => serde_json::json!({"level": "error", "msg": text, "time": now}).to_string(),
            false => format!("time=\"{now}\" level=error msg={text:?}"),
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
    pub terminal: bool,
    pub detach: bool,
    pub pid_file: Option<PathBuf>,
    pub console: Option<PathBuf>,
}

/// What is to be done.
pub(crate) enum Command {
    Create(Make),
    Run(Make),
    Start { name: String },
    State { name: String },
    Kill { name: String, signal: String, all: bool },
    Delete { name: String, force: bool },
    Exec(Enter),
    Pause { name: String },
    Resume { name: String },
    Processes { name: String },
    Update { name: String, resources: PathBuf },
    List,
    Features,
    Version,
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

    /// Refuses flags that would change what happens, and that we do not do.
    fn refuse(&self, names: &[&str]) -> Result<(), OciError> {
        match names.iter().find(|name| self.is(&[name])) {
            Some(name) => Err(OciError::Unsupported(format!("--{name}"))),
            None => Ok(()),
        }
    }

    fn one(&self) -> Result<String, OciError> {
        match self.words.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(usage("the name of a container is missing")),
            [_, more, ..] => Err(usage(format!("`{more}` is too much"))),
        }
    }
}

pub(crate) fn parse(words: &[String]) -> Result<(Global, Command), OciError> {
    let with = ["root", "log", "log-format", "log-level", "rootless", "criu"];
    let alone = ["debug", "systemd-cgroup", "version", "v"];
    let (flags, at) = split(words, &with, &alone, true)?;
    flags.refuse(&["systemd-cgroup"])?;
    if flags.text(&["criu"]).is_some() {
        return Err(OciError::Unsupported("--criu".to_owned()));
    }
    if flags.text(&["rootless"]).is_some_and(|value| value == "true") {
        return Err(OciError::Unsupported("--rootless=true".to_owned()));
    }
    let json = match flags.text(&["log-format"]).as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => return Err(usage(format!("`{other}` is no format of a log"))),
    };
    let root = flags.path(&["root"]).unwrap_or_else(|| PathBuf::from(ROOT));
    let global = Global { root, log: flags.path(&["log"]), json };
    if flags.is(&["version", "v"]) {
        return Ok((global, Command::Version));
    }
    let Some((command, rest)) = words[at..].split_first() else {
        return Err(usage("a command is missing"));
    };
    Ok((global, parse_command(command, rest)?))
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
        "ps" => {
            let flags = flags(&["format", "f"], &[])?;
            match flags.text(&["format", "f"]).as_deref() {
                Some("json") => Command::Processes { name: flags.one()? },
                _ => {
                    return Err(OciError::Unsupported("ps in any other form than json".to_owned()));
                }
            }
        }
        "update" => {
            let flags = flags(&["resources", "r"], &[])?;
            let resources = flags.path(&["resources", "r"]);
            let resources = resources.ok_or_else(|| usage("update needs --resources"))?;
            Command::Update { name: flags.one()?, resources }
        }
        "list" if rest.is_empty() => Command::List,
        "features" if rest.is_empty() => Command::Features,
        other => {
            return Err(OciError::Unsupported(format!(
                "`{}`",
                [&[other.to_owned()], rest].concat().join(" ")
            )));
        }
    })
}

fn make(rest: &[String], refused: &[&str]) -> Result<Make, OciError> {
    let with = ["bundle", "b", "pid-file", "console-socket", "preserve-fds"];
    let alone = [&["no-pivot", "no-new-keyring"], refused].concat();
    let (flags, _) = split(rest, &with, &alone, false)?;
    // No keyring is ever made, so that one flag is honoured by doing nothing.
    flags.refuse(&[&["no-pivot"], refused].concat())?;
    if flags.text(&["preserve-fds"]).is_some_and(|count| count != "0") {
        return Err(OciError::Unsupported("--preserve-fds".to_owned()));
    }
    Ok(Make {
        name: flags.one()?,
        bundle: flags.path(&["bundle", "b"]).unwrap_or_else(|| PathBuf::from(".")),
        pid_file: flags.path(&["pid-file"]),
        console: flags.path(&["console-socket"]),
    })
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
        "pid-file",
        "console-socket",
        "preserve-fds",
    ];
    let (mut flags, at) = split(rest, &with, &["tty", "t", "detach", "d"], true)?;
    if flags.text(&["preserve-fds"]).is_some_and(|count| count != "0") {
        return Err(OciError::Unsupported("--preserve-fds".to_owned()));
    }
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
        terminal: flags.is(&["tty", "t"]),
        detach: flags.is(&["detach", "d"]),
        pid_file: flags.path(&["pid-file"]),
        console: flags.path(&["console-socket"]),
    })
}
