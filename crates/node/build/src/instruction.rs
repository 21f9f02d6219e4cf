//! Instructions that only change the image's settings.

use berth_content::Healthcheck;
use parse_dockerfile::{Command, HealthcheckArguments, Instruction, JsonOrStringArray};

use crate::commit::Settings;
use crate::error::Problem;
use crate::expand::{Variables, expand, pairs, set, words};
use crate::flags::Flags;
use crate::source::unfold;

pub(crate) const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What happened to the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// They are as the instruction says.
    Yes,
    /// The instruction is of another kind.
    NotASetting,
}

/// Settings while a stage is read.
pub(crate) struct Reader<'a> {
    pub settings: &'a mut Settings,
    /// Whether this stage had a CMD of its own, which an ENTRYPOINT then leaves alone.
    pub own_cmd: &'a mut bool,
    pub variables: &'a Variables,
    pub escape: char,
}

impl Reader<'_> {
    pub(crate) fn apply(&mut self, instruction: &Instruction<'_>) -> Result<Applied, Problem> {
        let (variables, escape) = (self.variables, self.escape);
        let expand = |text: &str| expand(text, variables, escape);
        match instruction {
            Instruction::Env(env) => {
                for (name, value) in pairs(&env.arguments.value, variables, escape)? {
                    set(&mut self.settings.env, &name, &value);
                }
            }
            Instruction::Label(label) => {
                self.settings.labels.extend(pairs(&label.arguments.value, variables, escape)?);
            }
            Instruction::User(user) => self.settings.user = expand(&user.arguments.value)?,
            Instruction::Stopsignal(signal) => {
                self.settings.stop_signal = Some(expand(&signal.arguments.value)?);
            }
            Instruction::Maintainer(maintainer) => {
                self.settings.author = Some(maintainer.name.value.to_string());
            }
            Instruction::Expose(expose) => {
                for argument in &expose.arguments {
                    for word in words(&expand(&argument.value)?, escape) {
                        self.settings.ports.extend(ports(&word)?);
                    }
                }
            }
            Instruction::Volume(volume) => {
                let list = match &volume.arguments {
                    JsonOrStringArray::Json(list) => &list.value[..],
                    JsonOrStringArray::String(list) => &list[..],
                };
                for path in list {
                    self.settings.volumes.insert(expand(&path.value)?);
                }
            }
            Instruction::Shell(shell) => {
                let shell = shell.arguments.iter().map(|word| word.value.to_string()).collect();
                self.settings.docker.shell = Some(shell);
            }
            Instruction::Cmd(cmd) => {
                self.settings.cmd = Some(self.command(&cmd.arguments));
                *self.own_cmd = true;
            }
            Instruction::Entrypoint(entrypoint) => {
                self.settings.entrypoint = Some(self.command(&entrypoint.arguments));
                if !*self.own_cmd {
                    self.settings.cmd = None;
                }
            }
            Instruction::Healthcheck(check) => {
                let flags = Flags::new(&check.options, variables, escape)?;
                self.settings.docker.healthcheck = Some(self.healthcheck(flags, &check.arguments)?);
            }
            _ => return Ok(Applied::NotASetting),
        }
        Ok(Applied::Yes)
    }

    /// The shell of this stage.
    pub(crate) fn shell(settings: &Settings) -> Vec<String> {
        settings.docker.shell.clone().unwrap_or_else(|| SHELL.map(str::to_owned).into())
    }

    fn command(&self, command: &Command<'_>) -> Vec<String> {
        match command {
            Command::Exec(words) => words.value.iter().map(|word| word.value.to_string()).collect(),
            Command::Shell(text) => {
                let mut words = Self::shell(self.settings);
                words.push(unfold(text.value, self.escape));
                words
            }
            _ => Vec::new(),
        }
    }

    fn healthcheck(
        &self,
        mut flags: Flags,
        arguments: &HealthcheckArguments<'_>,
    ) -> Result<Healthcheck, Problem> {
        let mut time = |name: &str| -> Result<u64, Problem> {
            flags.take(name)?.map_or(Ok(0), |text| nanoseconds(&text))
        };
        let mut check = Healthcheck {
            interval: time("interval")?,
            timeout: time("timeout")?,
            start_period: time("start-period")?,
            start_interval: time("start-interval")?,
            ..Healthcheck::default()
        };
        if let Some(text) = flags.take("retries")? {
            let bad = || Problem::Syntax(format!("--retries={text} is not a number"));
            check.retries = text.parse().map_err(|_| bad())?;
        }
        flags.finish()?;
        check.test = match arguments {
            HealthcheckArguments::Cmd { arguments: Command::Exec(words), .. } => {
                let words = words.value.iter().map(|word| word.value.to_string());
                std::iter::once("CMD".to_owned()).chain(words).collect()
            }
            HealthcheckArguments::Cmd { arguments: Command::Shell(text), .. } => {
                vec!["CMD-SHELL".to_owned(), unfold(text.value, self.escape)]
            }
            _ => vec!["NONE".to_owned()],
        };
        Ok(check)
    }
}

/// `80`, `80/udp`, `8000-8002/tcp`.
fn ports(text: &str) -> Result<Vec<String>, Problem> {
    let bad = || Problem::Syntax(format!("`{text}` is not a port"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(&*protocol, "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: u16 = first.parse().map_err(|_| bad())?;
    let last: u16 = last.parse().map_err(|_| bad())?;
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `1m30s`, `500ms`, `1.5h`.
fn nanoseconds(text: &str) -> Result<u64, Problem> {
    let bad = || Problem::Syntax(format!("`{text}` is not a duration such as 30s or 1m30s"));
    let mut rest = text;
    let mut total = std::time::Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(bad)?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = std::time::Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    u64::try_from(total.as_nanos()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_ports_are_read() {
        assert_eq!(nanoseconds("1m30s").unwrap(), 90_000_000_000);
        assert_eq!(nanoseconds("500ms").unwrap(), 500_000_000);
        assert!(
            nanoseconds("5").is_err() && nanoseconds("5x").is_err() && nanoseconds("s").is_err()
        );
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53-54/UDP").unwrap(), ["53/udp", "54/udp"]);
        assert!(ports("x").is_err() && ports("2-1").is_err() && ports("1/icmp").is_err());
    }
}
