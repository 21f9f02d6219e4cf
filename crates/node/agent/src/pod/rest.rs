//! What is left of containers that have ended as far as anybody tells.
//!
//! A shim that was killed tells nothing any more, and its containers count as ended while their processes may go on. Where something
//! of theirs is to go to another pod they have to be gone indeed.

use std::io;
use std::time::{Duration, Instant};

use berth_runtime::cgroup::Cgroup;

use super::apply::Workshop;
use crate::config::Cause;
use crate::directory::Record;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// All instances of a pod's containers so far.
pub fn instances(record: &Record) -> Vec<String> {
    let of = |(name, starts): (&String, u32)| {
        (1..=starts).map(|start| format!("{name}.{start}")).collect::<Vec<_>>()
    };
    record.containers.iter().map(|(name, known)| (name, known.starts)).flat_map(of).collect()
}

impl Workshop {
    /// Kills what is left of a pod's containers, and waits until nobody is.
    ///
    /// # Errors
    /// When somebody does not go.
    pub async fn end_rest(&self, record: &Record) -> Result<(), Cause> {
        let (shared, prefix) = (self.shared.clone(), self.pod_cgroup(record));
        let instances = instances(record);
        self.blocking(move || {
            let groups =
                instances.iter().map(|one| Cgroup::at(&shared.hierarchies, &prefix.join(one)));
            end(&groups.collect::<Vec<_>>(), PATIENCE)
        })
        .await
    }
}

fn end(groups: &[Cgroup], patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    for group in groups {
        while group.is_in_use().map_err(io::Error::other)? {
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a killed process is not gone",
                ));
            }
            group.kill().map_err(io::Error::other)?;
            let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000 };
            // There is no event for an emptied version 1 cgroup.
            rustix::event::poll(&mut [], Some(&pause))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use berth_runtime::cgroup::Hierarchies;

    use super::*;

    #[test]
    fn processes_that_nobody_minds_any_more_are_ended() {
        let hierarchies = Hierarchies::detect().unwrap();
        let relative = format!("berth-test/rest-{}", std::process::id());
        let group = Cgroup::create(&hierarchies, Path::new(&relative)).unwrap();
        let gone = Cgroup::at(&hierarchies, Path::new("berth-test/rest-never-was"));
        let folders = ["memory", "pids", "cpu", "cpuacct", "freezer", "unified", ""];
        let folders = folders.map(|name| Path::new("/sys/fs/cgroup").join(name).join(&relative));
        let enter: String = folders
            .iter()
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| format!("echo $$ > {}/cgroup.procs; ", path.display()))
            .collect();
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{enter} trap '' TERM; echo ready; read y")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        shell.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert!(group.is_in_use().unwrap());
        let ended = end(&[gone, group.clone()], PATIENCE);
        let in_use = group.is_in_use().unwrap();
        // What was not killed ends by itself, as this closes what it reads.
        assert_eq!(shell.wait().unwrap().signal(), Some(9), "{ended:?}");
        crate::pod::apply::remove_busy(&group).unwrap();
        ended.unwrap();
        assert!(!in_use);
    }
}
