//! Volumes of NFS servers, mounted by the host's own program.
//!
//! What a server and a client agree on about versions, ports and security is known to `mount.nfs`, which every distribution keeps up
//! to date, and to nobody else. Such a volume is mounted in the pod's directory and goes with all that is mounted there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NFSVolumeSource, Pod};
use tokio::process::Command;

use super::mount_points;
use crate::config::Cause;
use crate::pod::apply::wants_user_namespace;

/// How long a server may take to let its volume be mounted.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a server may take to answer whether it is there.
const ANSWER: Duration = Duration::from_secs(10);
/// The most that is kept of what the program says, in bytes.
const LONGEST: u64 = 4096;

/// Where programs for mounting are.
const FOLDERS: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];

/// What the node has for it.
struct Host<'a> {
    folders: &'a [&'a str],
    /// The kernel's list of file systems.
    filesystems: &'a Path,
    patience: Duration,
}

/// Mounts a volume, unless it is.
pub async fn mount(
    pod: &Pod,
    volume: &str,
    source: &NFSVolumeSource,
    options: &[String],
    path: &Path,
) -> Result<(), Cause> {
    if pod.spec.as_ref().is_some_and(wants_user_namespace) {
        // The kernel maps no ids of NFS: all files would be a stranger's.
        let why = "volumes of NFS cannot be seen from a user namespace: say hostUsers: true";
        return Err(Cause::config(format!("volume `{volume}`: {why}")));
    }
    let filesystems = Path::new("/proc/filesystems");
    let host = Host { folders: &FOLDERS, filesystems, patience: PATIENCE };
    host.mount(source, options, path)
        .await
        .map_err(|why| Cause::create(format!("volume `{volume}`: {why}")))
}

impl Host<'_> {
    async fn mount(
        &self,
        source: &NFSVolumeSource,
        options: &[String],
        path: &Path,
    ) -> Result<(), String> {
        if is_mounted(path)? {
            return self.answers(source, path).await;
        }
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let program = self.program().ok_or(
            "mounting NFS needs the program `mount.nfs`: install nfs-common (Debian, Ubuntu) or nfs-utils (Fedora, SUSE, Arch)",
        )?;
        let mut child = Command::new(program)
            .args(arguments(source, options, path)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run `mount.nfs`: {error}"))?;
        let errors = child.stderr.take();
        let ended = tokio::time::timeout(self.patience, async {
            let mut said = Vec::new();
            if let Some(errors) = errors {
                let mut errors = tokio::io::AsyncReadExt::take(errors, LONGEST);
                tokio::io::AsyncReadExt::read_to_end(&mut errors, &mut said).await?;
            }
            Ok::<_, io::Error>((child.wait().await?, String::from_utf8_lossy(&said).into_owned()))
        });
        let place = place(source);
        match ended.await {
            Ok(Ok((status, _))) if status.success() && is_mounted(path)? => Ok(()),
            Ok(Ok((status, _))) if status.success() => {
                Err(format!("`mount.nfs` says that `{place}` is mounted, and it is not"))
            }
            Ok(Ok(_)) if !self.is_known() => Err(format!(
                "cannot mount `{place}`: the kernel has no client of NFS (module `nfs`)"
            )),
            Ok(Ok((_, said))) => Err(format!("cannot mount `{place}`: {}", said.trim())),
            Ok(Err(error)) => Err(format!("cannot mount `{place}`: {error}")),
            Err(_) => Err(format!(
                "cannot mount `{place}`: its server does not answer within {} s",
                self.patience.as_secs()
            )),
        }
    }

    /// Whether the server of a mount answers. Whoever touches a mount whose server does not is held for as long, so a program does that
    /// here, which can be ended.
    async fn answers(&self, source: &NFSVolumeSource, path: &Path) -> Result<(), String> {
        let mut asked = Command::new("stat");
        let asked = asked.arg("--file-system").arg(path).stdin(Stdio::null()).kill_on_drop(true);
        let ended = asked.stdout(Stdio::null()).stderr(Stdio::null()).status();
        match tokio::time::timeout(self.patience.min(ANSWER), ended).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(format!("the server of `{}` has forgotten the mount", place(source))),
            Ok(Err(error)) => Err(format!("cannot run `stat`: {error}")),
            Err(_) => Err(format!("the server of `{}` does not answer", place(source))),
        }
    }

    fn program(&self) -> Option<PathBuf> {
        let all = self.folders.iter().map(|folder| Path::new(folder).join("mount.nfs"));
        all.into_iter().find(|path| path.is_file())
    }

    /// Whether the kernel has a client, which the program would have loaded.
    fn is_known(&self) -> bool {
        let all = fs::read_to_string(self.filesystems).unwrap_or_default();
        all.lines().filter_map(|line| line.split('\t').nth(1)).any(|name| name.starts_with("nfs"))
    }
}

fn is_mounted(path: &Path) -> Result<bool, String> {
    let failed = |error: io::Error| format!("cannot read the table of mounts: {error}");
    // Its parent is on the node's own disk.
    let above = path.parent().and_then(|above| fs::canonicalize(above).ok());
    let Some(path) = above.zip(path.file_name()).map(|(above, name)| above.join(name)) else {
        return Ok(false);
    };
    Ok(mount_points().map_err(failed)?.contains(&path))
}

fn place(source: &NFSVolumeSource) -> String {
    format!("{}:{}", source.server, source.path)
}

/// The words for the program: what, where, and how.
fn arguments(
    source: &NFSVolumeSource,
    options: &[String],
    path: &Path,
) -> Result<Vec<String>, String> {
    // An address of version 6 has colons itself.
    let server = match source.server.contains(':') && !source.server.starts_with('[') {
        true => format!("[{}]", source.server),
        false => source.server.clone(),
    };
    let what = format!("{server}:{}", source.path);
    let wrong = |text: &str| text.starts_with('-') || text.chars().any(char::is_control);
    if wrong(&what) || !source.path.starts_with('/') || source.server.is_empty() {
        return Err(format!("`{what}` is no place of an NFS server"));
    }
    if let Some(option) = options.iter().find(|option| option.is_empty() || wrong(option)) {
        return Err(format!("`{option}` is no option of a mount"));
    }
    if options.iter().flat_map(|option| option.split(',')).any(|option| option == "bg") {
        return Err("the mount option `bg` is not possible: a container needs its volume".into());
    }
    // Read-only if anybody says so.
    let readonly = source.read_only.unwrap_or(false).then_some("ro");
    let options: Vec<&str> = options.iter().map(String::as_str).chain(readonly).collect();
    let path = path.to_str().ok_or("the directory of the pod has a name that is no text")?;
    let mut words = vec![what, path.to_owned()];
    if !options.is_empty() {
        words.extend(["-o".to_owned(), options.join(",")]);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(server: &str, path: &str, readonly: bool) -> NFSVolumeSource {
        let read_only = Some(readonly);
        NFSVolumeSource { server: server.to_owned(), path: path.to_owned(), read_only }
    }

    #[test]
    fn the_program_is_told_what_where_and_how() {
        let told = |source, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|it| (*it).to_owned()).collect();
            arguments(&source, &options, Path::new("/pods/u/volumes/v"))
        };
        assert_eq!(
            told(source("192.0.2.1", "/exports/a", false), &[]).unwrap(),
            ["192.0.2.1:/exports/a", "/pods/u/volumes/v"]
        );
        assert_eq!(
            told(source("2001:db8::1", "/", true), &["nfsvers=4.1", "hard"]).unwrap(),
            ["[2001:db8::1]:/", "/pods/u/volumes/v", "-o", "nfsvers=4.1,hard,ro"]
        );
        // What an operator protects stays protected.
        let protected = told(source("a", "/a", false), &["ro"]).unwrap();
        assert_eq!(protected[2..], ["-o", "ro"]);
        for (source, option) in [
            (source("a", "/a", false), "soft,bg"),
            (source("-o", "/a", false), "hard"),
            (source("a", "b", false), "hard"),
            (source("", "/a", false), "hard"),
            (source("a", "/a", false), "--help"),
            (source("a", "/a", false), ""),
        ] {
            assert!(told(source, &[option]).is_err(), "{option}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (path, heard) = (folder.path().join("volume"), folder.path().join("heard"));
        let filesystems = folder.path().join("filesystems");
        fs::write(&filesystems, "nodev\tnfs4\n").unwrap();
        let folders = [folder.path().to_str().unwrap()];
        let none = folder.path().join("none");
        let exported = source("192.0.2.1", "/exports", false);
        let mount = async |filesystems: &Path| {
            let host = Host { folders: &folders, filesystems, patience: PATIENCE };
            host.mount(&exported, &["soft".to_owned()], &path).await
        };
        let why = mount(&filesystems).await.unwrap_err();
        assert!(why.contains("`mount.nfs`") && why.contains("nfs-common"), "{why}");
        let script = |text: String| {
            let program = folder.path().join("mount.nfs");
            fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(format!("echo \"$@\" > {}", heard.display()));
        let why = mount(&filesystems).await.unwrap_err();
        assert!(why.contains("and it is not"), "{why}");
        let wanted = format!("192.0.2.1:/exports {} -o soft\n", path.display());
        assert_eq!(fs::read_to_string(&heard).unwrap(), wanted);
        script("echo mount.nfs: access denied by server >&2; exit 32".to_owned());
        let why = mount(&filesystems).await.unwrap_err();
        assert_eq!(why, "cannot mount `192.0.2.1:/exports`: mount.nfs: access denied by server");
        let why = mount(&none).await.unwrap_err();
        assert!(why.contains("the kernel has no client of NFS"), "{why}");
        script("sleep 100".to_owned());
        let patience = Duration::from_millis(50);
        let host = Host { folders: &folders, filesystems: &filesystems, patience };
        let why = host.mount(&exported, &[], &path).await.unwrap_err();
        assert!(why.contains("does not answer"), "{why}");
    }

    #[tokio::test]
    async fn what_is_mounted_already_is_not_mounted_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        fs::create_dir(&path).unwrap();
        super::super::in_memory(&path, Some(1 << 20), "755").unwrap();
        let host = Host { folders: &[], filesystems: Path::new("/none"), patience: PATIENCE };
        let outcome = host.mount(&source("a", "/", false), &[], &path).await;
        super::super::unmount_below(folder.path()).unwrap();
        assert_eq!(outcome, Ok(()));
    }
}
