//! What a project means once its files are read together.

use berth_compose::{
    BindKind, Condition, Level, LoadError, MountSource, NetworkMode, Protocol, Restart, order,
};

use super::support::{Folder, one};

#[test]
fn finds_the_file_above_and_merges_its_override() {
    let mut folder = Folder::new(&[
        ("compose.yaml", "services: {web: {image: a, command: [x, y], environment: [A=1, B=2]}}"),
        ("compose.override.yaml", "services: {web: {image: b, command: [z], environment: {B: 3}}}"),
        ("deep/er/file", ""),
    ]);
    folder.request.directory = folder.path().join("deep/er");
    let project = folder.project();
    let web = &project.services["web"];
    assert_eq!(web.image.as_deref(), Some("b"));
    assert_eq!(web.command.as_deref(), Some(&["z".to_owned()][..]));
    assert_eq!(web.environment["A"], "1");
    assert_eq!(web.environment["B"], "3");
    assert_eq!(project.directory, folder.path());
    assert_eq!(project.files.len(), 2);
}

#[test]
fn later_files_reset_and_override() {
    let mut folder = Folder::new(&[
        ("a.yaml", "services: {web: {image: a, ports: ['80:80'], dns: [1.1.1.1], tty: true}}"),
        (
            "b.yaml",
            "services: {web: {ports: !override ['81:80'], dns: !reset [], tty: !reset null}}",
        ),
    ]);
    folder.request.files = vec!["a.yaml".into(), "b.yaml".into()];
    let project = folder.project();
    let web = &project.services["web"];
    let published: Vec<_> = web.ports.iter().map(|port| port.published).collect();
    assert_eq!(published, [Some(81)]);
    assert!(web.dns.servers.is_empty());
    assert!(!web.tty);
}

#[test]
fn a_missing_project_is_an_error_of_its_own() {
    let folder = Folder::new(&[]);
    // Nothing above a temporary directory describes a project.
    assert!(matches!(folder.load(), Err(LoadError::NotFound { .. })));
}

#[test]
fn names_come_from_flag_file_variable_and_directory_in_this_order() {
    let file =
        |name: &str| format!("{name}\nservices: {{web: {{image: 'a:${{COMPOSE_PROJECT_NAME}}'}}}}");
    let mut folder = one(&file("name: My_File"));
    let variable = |folder: Folder| folder.variable("COMPOSE_PROJECT_NAME", "from-env");
    assert_eq!(folder.project().name, "app");
    folder.request.project_name = None;
    let folder = variable(folder);
    let project = folder.project();
    assert_eq!(project.name, "my-file");
    assert_eq!(project.services["web"].image.as_deref(), Some("a:my-file"));
    folder.write("compose.yaml", &file(""));
    assert_eq!(folder.project().name, "from-env");
    let mut folder = Folder::new(&[("Shop.2/compose.yaml", "services: {web: {image: a}}")]);
    folder.request.project_name = None;
    folder.request.directory = folder.path().join("Shop.2");
    assert_eq!(folder.project().name, "shop-2");
}

#[test]
fn variables_come_from_the_environment_over_the_file() {
    let folder = Folder::new(&[
        (".env", "TAG=1\nBASE='img'\nPORT=8080 # outside\n"),
        ("compose.yaml", "services: {web: {image: '$BASE:${TAG}', ports: ['${PORT}:80'], command: 'echo $$HOME ${NO:-\"a b\"}'}}"),
    ])
    .variable("TAG", "2");
    let project = folder.project();
    let web = &project.services["web"];
    assert_eq!(web.image.as_deref(), Some("img:2"));
    assert_eq!(web.ports[0].published, Some(8080));
    assert_eq!(web.command.as_deref().unwrap(), ["echo", "$HOME", "a b"]);
    assert!(project.findings.is_empty());
}

#[test]
fn an_unset_variable_is_empty_and_said() {
    let folder = one("services:\n  web:\n    image: nginx\n    environment:\n      A: ${NOPE}\n");
    assert_eq!(folder.project().services["web"].environment["A"], "");
    assert_eq!(
        folder.findings(),
        "compose.yaml:5:10: warning: `services.web.environment.A` uses the variable `NOPE`, which is not set; it is taken as empty"
    );
}

#[test]
fn environment_goes_over_its_files() {
    let folder = Folder::new(&[
        ("one.env", "A=1\nB=1\nC=1\nexport D=\"x y\"\n"),
        ("raw.env", "R='$A'\n"),
        (
            "compose.yaml",
            "services: {web: {image: a, environment: [A=3, OUTER, GONE], env_file: [one.env, {path: none.env, required: false}, {path: raw.env, format: raw}]}}",
        ),
    ])
    .variable("OUTER", "o");
    let project = folder.project();
    let environment: Vec<String> = project.services["web"]
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(environment, ["A=3", "B=1", "C=1", "D=x y", "R='$A'", "OUTER=o"]);
}

#[test]
fn merges_anchors_and_extends() {
    let folder = Folder::new(&[
        (
            "compose.yaml",
            "x-base: &base\n  restart: always\n  environment: {A: 1}\nservices:\n  base:\n    <<: *base\n    image: base\n    volumes: ['./here:/data']\n  web:\n    extends: {service: base}\n    environment: [B=2]\n  far:\n    extends: {file: sub/other.yaml, service: far}\n    image: mine\n",
        ),
        (
            "sub/other.yaml",
            "services: {near: {volumes: ['./there:/data'], tty: true}, far: {extends: near, image: theirs}}",
        ),
    ]);
    let project = folder.project();
    let web = &project.services["web"];
    assert_eq!(web.image.as_deref(), Some("base"));
    assert_eq!(web.restart, Restart::Always);
    assert_eq!(web.environment.len(), 2);
    let far = &project.services["far"];
    assert_eq!(far.image.as_deref(), Some("mine"));
    assert!(far.tty);
    let MountSource::Bind { path, .. } = &far.mounts[0].source else { panic!("a bind mount") };
    assert_eq!(*path, folder.path().join("sub/there"));
}

#[test]
fn includes_projects_with_their_own_paths_and_variables() {
    let folder = Folder::new(&[
        (
            "compose.yaml",
            "include: [db/compose.yaml]\nservices: {web: {image: 'web:$TAG', depends_on: [db]}}",
        ),
        ("db/compose.yaml", "services: {db: {image: 'db:$TAG', volumes: ['./init:/init']}}"),
        (".env", "TAG=outer"),
        ("db/.env", "TAG=inner"),
    ]);
    let project = folder.project();
    assert_eq!(project.services["web"].image.as_deref(), Some("web:outer"));
    assert_eq!(project.services["db"].image.as_deref(), Some("db:outer"));
    let MountSource::Bind { path, .. } = &project.services["db"].mounts[0].source else {
        panic!("a bind mount")
    };
    assert_eq!(*path, folder.path().join("db/init"));
    std::fs::remove_file(folder.path().join(".env")).unwrap();
    assert_eq!(folder.project().services["db"].image.as_deref(), Some("db:inner"));
}

#[test]
fn profiles_switch_services_on() {
    let text = "services: {web: {image: a, depends_on: {tool: {condition: service_started, required: false}}}, tool: {image: b, profiles: [debug]}}";
    let mut folder = one(text);
    let keys = |folder: &Folder| -> Vec<String> { folder.project().services.into_keys().collect() };
    assert_eq!(keys(&folder), ["web"]);
    assert!(folder.project().services["web"].depends_on.is_empty());
    folder.request.profiles = vec!["debug".to_owned()];
    assert_eq!(keys(&folder), ["web", "tool"]);
    folder.request.profiles.clear();
    assert_eq!(keys(&folder.variable("COMPOSE_PROFILES", "x,debug")), ["web", "tool"]);
}

#[test]
fn services_start_in_waves() {
    let project = one(
        "services:\n  web: {image: a, depends_on: {api: {condition: service_healthy}, job: {condition: service_completed_successfully}}}\n  api: {image: a, depends_on: [db]}\n  job: {image: a, depends_on: [db]}\n  db: {image: a}\n",
    )
    .project();
    let waves: Vec<String> = order(&project).iter().map(|wave| wave.join(" ")).collect();
    assert_eq!(waves, ["db", "api job", "web"]);
    assert!(project.runs_once("job"));
    assert_eq!(project.awaited("api"), Some(Condition::Healthy));
    assert_eq!(project.awaited("web"), None);
}

#[test]
fn mounts_are_told_apart() {
    let folder = Folder::new(&[
        ("nginx.conf", ""),
        (
            "compose.yaml",
            "services:\n  web:\n    image: a\n    volumes:\n      - ./nginx.conf:/etc/nginx.conf:ro\n      - ./new:/new\n      - data:/data\n      - /cache\n      - {type: tmpfs, target: /tmp, tmpfs: {size: 10m}}\n    tmpfs: '/run:size=1k'\nvolumes: {data: {}}\n",
        ),
    ]);
    let project = folder.project();
    let kinds: Vec<String> = project.services["web"]
        .mounts
        .iter()
        .map(|mount| {
            let kind = match &mount.source {
                MountSource::Bind { kind: BindKind::File, .. } => "file".to_owned(),
                MountSource::Bind { kind: BindKind::DirectoryOrCreate, .. } => {
                    "directory".to_owned()
                }
                MountSource::Bind { .. } => "other".to_owned(),
                MountSource::Volume { volume, .. } => format!("volume {volume}"),
                MountSource::Anonymous => "anonymous".to_owned(),
                MountSource::Memory { size } => format!("memory {}", size.unwrap_or(0)),
            };
            format!("{} {kind}{}", mount.target, if mount.read_only { " ro" } else { "" })
        })
        .collect();
    let expected = [
        "/etc/nginx.conf file ro",
        "/new directory",
        "/data volume data",
        "/cache anonymous",
        "/tmp memory 10485760",
        "/run memory 1024",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn further_names_lead_to_one_service() {
    let folder = one(
        "services:\n  web: {image: a, links: ['db:database', 'db'], hostname: web1}\n  db: {image: a, container_name: my_db, networks: {back: {aliases: [sql, web]}}}\nnetworks: {back: }\n",
    );
    let project = folder.project();
    assert_eq!(project.services["db"].aliases, ["database", "sql"]);
    assert_eq!(project.services["web"].aliases, ["web1"]);
    assert_eq!(project.services["web"].network, NetworkMode::Networks(vec!["default".into()]));
    let findings = folder.findings();
    assert!(findings.contains("`my_db` cannot be a name in the cluster"), "{findings}");
    assert!(findings.contains("the name `web` already leads to `web`"), "{findings}");
}

#[test]
fn names_become_valid_and_that_is_said() {
    let folder = one("services:\n  My_App: {image: a, expose: ['53/udp', 8000-8001]}\n");
    let project = folder.project();
    assert_eq!(project.services["My_App"].object_name, "my-app");
    assert_eq!(
        project.services["My_App"].expose,
        [(53, Protocol::Udp), (8000, Protocol::Tcp), (8001, Protocol::Tcp)]
    );
    assert!(project.findings.iter().any(|finding| {
        finding.level == Level::Warning && finding.message.contains("`my-app`")
    }));
}

#[test]
fn what_has_no_effect_is_said_with_its_place() {
    let folder = one(
        "version: '3'\nservices:\n  web:\n    image: a\n    logging:\n      driver: json-file\n    devices: [/dev/kvm]\n    network_mode: service:db\n    extra_hosts: ['host.docker.internal:host-gateway']\n    x-own: 1\n  db: {image: b}\n",
    );
    let findings = folder.findings();
    let lines: Vec<&str> = findings.lines().collect();
    assert_eq!(lines.len(), 5, "{findings}");
    assert_eq!(
        lines[0],
        "compose.yaml:1:1: warning: `version` is not supported and has no effect: the format has no versions any more; remove the line"
    );
    assert!(
        lines[1].starts_with("compose.yaml:5:5: warning: `services.web.logging` is not supported")
    );
    assert!(lines[2].starts_with("compose.yaml:7:5: warning: `services.web.devices`"));
    assert!(lines[3].starts_with("compose.yaml:8:5: warning: `services.web.network_mode`"));
    assert!(lines[4].starts_with("compose.yaml:9:"));
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let folder = Folder::new(&[
        ("password.txt", "hunter2"),
        (
            "compose.yaml",
            "services: {web: {image: a, secrets: [pw]}}\nsecrets: {pw: {file: password.txt}, unused: {file: none}}",
        ),
    ]);
    let project = folder.project();
    assert_eq!(project.secrets["pw"].content.as_ref().unwrap().bytes(), b"hunter2");
    assert!(!project.secrets.contains_key("unused"));
    assert!(!format!("{project:?}").contains("hunter2"));
}
