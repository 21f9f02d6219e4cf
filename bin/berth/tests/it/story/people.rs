//! People get access in one command, Secrets are sealed, and what everybody did can be proved.

use std::path::Path;
use std::process::Command;

use crate::support::{Berth, Said};

impl Berth {
    fn as_person(&self, kubeconfig: &Path, arguments: &[&str]) -> Said {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cache-dir")
            .arg(self.data.join("kubectl-cache"))
            .args(arguments);
        Said::of(&command.output().unwrap())
    }
}

/// Whether a text is in any file of a directory.
fn grep(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return entry.file_name() != "images" && grep(&path, text);
        }
        // Sockets and the like hold nothing.
        std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    })
}

#[test]
fn people_get_and_lose_access_and_secrets_stay_secret() {
    let mut berth = Berth::new("ppl", 176);
    berth.kubectl(&["create", "namespace", "shop"]).good();
    let folder = tempfile::tempdir().unwrap();
    a_person(&berth, folder.path());
    a_team(&berth, folder.path());
    secrets(&mut berth);
    the_log(&berth);
}

fn a_person(berth: &Berth, folder: &Path) {
    let ann = folder.join("ann.yaml");
    let output = ann.to_str().unwrap();
    let missing = berth.berth(&["access", "grant", "ann", "--role", "edit", "-n", "shpo"]).bad(1);
    assert!(missing.contains("there is no namespace `shpo`"), "{missing}");
    berth.berth(&["access", "grant", "system:admin", "--role", "edit", "-n", "shop"]).bad(2);
    berth.berth(&["access", "grant", "ann", "-n", "shop"]).bad(2);
    let line = ["access", "grant", "ann", "--role", "edit", "-n", "shop", "-o", output];
    assert_eq!(berth.berth(&line).good().trim(), output);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&ann).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let run = |arguments: &[&str]| berth.as_person(&ann, arguments);
    assert!(run(&["auth", "whoami"]).good().contains("ann"));
    run(&["-n", "shop", "create", "configmap", "mine"]).good();
    assert!(run(&["-n", "default", "get", "pods"]).bad(1).contains("Forbidden"));
    assert!(run(&["get", "nodes"]).bad(1).contains("Forbidden"));
    let listed = berth.berth(&["access", "ls"]).good();
    assert!(
        listed.contains("ann") && listed.contains("edit") && listed.contains("shop"),
        "{listed}"
    );
    berth.berth(&["access", "revoke", "ann"]).good();
    assert!(run(&["-n", "shop", "get", "configmaps"]).bad(1).contains("Forbidden"));
    berth.berth(&["access", "revoke", "ann"]).bad(1);
}

fn a_team(berth: &Berth, folder: &Path) {
    let people = folder.join("people");
    let output = people.to_str().unwrap();
    let line =
        ["access", "grant", "bob", "eve", "--team", "devs", "--role", "view", "-A", "-o", output];
    berth.berth(&line).good();
    let config = |name: &str| people.join(format!("{name}.kubeconfig"));
    for name in ["bob", "eve"] {
        berth.as_person(&config(name), &["get", "pods", "-A"]).good();
    }
    berth.berth(&["access", "revoke", "eve", "--team", "devs"]).good();
    berth.as_person(&config("eve"), &["get", "pods", "-A"]).bad(1);
    berth.as_person(&config("bob"), &["get", "pods", "-A"]).good();
    // A kubeconfig on standard output, for a member who joins.
    let text = berth.berth(&["access", "grant", "joe", "--team", "devs"]).good();
    std::fs::write(config("joe"), text).unwrap();
    berth.as_person(&config("joe"), &["get", "pods", "-A"]).good();
}

fn secrets(berth: &mut Berth) {
    const HIDDEN: &str = "hidden-words-that-nobody-reads";
    let literal = format!("--from-literal=password={HIDDEN}");
    berth.kubectl(&["create", "secret", "generic", "db", &literal]).good();
    let said = berth.berth(&["secret", "rotate"]).good();
    assert!(said.contains("sealed with the new key"), "{said}");
    let encoded = "aGlkZGVuLXdvcmRzLXRoYXQtbm9ib2R5LXJlYWRz";
    let read = |berth: &Berth| {
        let path = "-o=jsonpath={.data.password}";
        berth.kubectl(&["get", "secret", "db", path]).good()
    };
    assert_eq!(read(berth), encoded);
    assert!(!grep(&berth.data, HIDDEN) && !grep(&berth.data, encoded), "a Secret is on the disk");
    // Without its key the server says what is wrong, and nothing is lost.
    berth.kill_server();
    let key = berth.data.join("secrets.key");
    let aside = berth.data.join("aside");
    std::fs::rename(&key, &aside).unwrap();
    let refused = berth.berth(&["serve", "--listen", "127.0.0.1:0", "--instance", "btppl"]).bad(1);
    assert!(refused.contains("there is no key file"), "{refused}");
    std::fs::rename(&aside, &key).unwrap();
    let policy = berth.data.join("policy.yaml");
    std::fs::write(&policy, "rules: [{level: All}]").unwrap();
    let line = ["serve", "--listen", "127.0.0.1:0", "--instance", "btppl", "--audit-policy"];
    let refused = berth.berth(&[&line[..], &[policy.to_str().unwrap()]].concat()).bad(1);
    assert!(refused.contains("rules[0].level"), "{refused}");
    std::fs::remove_file(policy).unwrap();
    berth.start();
    assert_eq!(read(berth), encoded);
}

fn the_log(berth: &Berth) {
    let verified = berth.berth(&["audit", "verify"]).good();
    let hash = verified.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    let log = berth.data.join("audit/audit.log");
    let text = std::fs::read_to_string(&log).unwrap();
    for part in ["\"username\":\"ann\"", "\"name\":\"mine\"", "\"forbid\"", "secrets/rotate"] {
        assert!(text.contains(part), "{part} is missing");
    }
    berth.kubectl(&["create", "configmap", "later"]).good();
    berth.berth(&["audit", "verify", "--contains", &hash]).good();
    let copy = berth.data.join("copy.log");
    std::fs::write(&copy, text.replacen("\"username\":\"ann\"", "\"username\":\"bob\"", 1))
        .unwrap();
    let told = berth.berth(&["audit", "verify", copy.to_str().unwrap()]).bad(1);
    assert!(told.contains("was changed"), "{told}");
    std::fs::remove_file(copy).unwrap();
}
