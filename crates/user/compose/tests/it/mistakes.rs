//! What is wrong is said with file, line and column, and what to do.

use super::support::{Folder, one};

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    let mistakes = one(text).mistakes();
    for part in expected {
        assert!(mistakes.contains(part), "expected `{part}` in:\n{mistakes}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "services:\n  web:\n    image: nginx\n    enviroment: {A: 1}\n    ports: ['x:80']\n    healthcheck:\n      test: [CMD, 'true']\n      interval: 10\n    mem_limit: lots\n    networks: [front]\n  db:\n    image: ${DB:?name the image}\n";
    let expected = "\
compose.yaml:4:5: `services.web.enviroment`: Compose has no such attribute; did you mean `environment`?
compose.yaml:5:13: `services.web.ports[0]`: `x:80` is not a port: the published port is no number from 1 to 65535; write `8080:80`, `127.0.0.1:8080:80/udp` or `3000-3005:3000-3005`
compose.yaml:8:17: `services.web.healthcheck.interval`: `10` is not a duration; write a number with a unit, such as `10s` or `1m30s`
compose.yaml:9:16: `services.web.mem_limit`: `lots` is not a size; write a number with a unit, such as `512m` or `2g`
compose.yaml:10:16: `services.web.networks.front`: there is no network `front`; describe it under `networks:` at the top level
compose.yaml:12:12: `services.db.image`: required variable `DB` is not set: name the image; set it in the environment or in `.env`";
    let mistakes = one(text).mistakes();
    // The image that could not be read is not reported as missing in its own right.
    let listed: Vec<&str> = mistakes.lines().collect();
    assert_eq!(listed, expected.lines().collect::<Vec<_>>());
}

#[test]
fn broken_yaml_has_a_place() {
    says("services:\n  web:\n    image: a\n   ports: []\n", &["compose.yaml:4:"]);
    says("services:\n\tweb:\n", &["compose.yaml:2:", "indented with a tab"]);
    says(
        "services:\n  web: {image: a}\n  web: {image: b}\n",
        &["compose.yaml:3:3", "written twice, first on line 2"],
    );
    assert_eq!(one("services: {a: b\n").mistakes().lines().count(), 1);
    says("- a\n", &["compose.yaml:1:1", "a Compose file is a mapping"]);
}

#[test]
fn cycles_are_named() {
    says(
        "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n",
        &["compose.yaml:4:30: `services.c.depends_on.b`: services wait for each other: b → c → b"],
    );
    says("services:\n  a: {image: x, depends_on: [a]}\n", &["services wait for each other: a → a"]);
}

#[test]
fn references_must_lead_somewhere() {
    says(
        "services:\n  web:\n    image: x\n    depends_on: [bd]\n    volumes: ['data:/d']\n    secrets: [pw]\n    configs: [{source: cfg}]\n    links: [cache]\n  db: {image: y}\nvolumes: {date: {}}\n",
        &[
            "there is no service `bd`; did you mean `db`?",
            "there is no volume `data`; did you mean `date`?; describe it under `volumes:`",
            "there is no secret `pw`",
            "there is no config `cfg`",
            "there is no service `cache`",
        ],
    );
}

#[test]
fn a_required_service_must_be_active() {
    says(
        "services:\n  web: {image: x, depends_on: [db]}\n  db: {image: y, profiles: [data]}\n",
        &["`db` belongs to a profile that is not active"],
    );
}

#[test]
fn a_port_is_published_once() {
    says(
        "services:\n  a: {image: x, ports: ['80:80']}\n  b: {image: x, ports: ['127.0.0.1:80:8080']}\n",
        &["compose.yaml:3:", "port 80/tcp is published by `a` as well (line 2)"],
    );
    let apart = "services:\n  a: {image: x, ports: ['127.0.0.1:80:80', '80:80/udp']}\n  b: {image: x, ports: ['127.0.0.2:80:80']}\n";
    assert_eq!(one(apart).project().services["a"].ports.len(), 2);
}

#[test]
fn missing_files_are_named() {
    let folder = Folder::new(&[(
        "compose.yaml",
        "services:\n  web: {build: ./web, env_file: web.env, secrets: [pw]}\n  api: {build: {context: ./api, dockerfile: Other}}\nsecrets: {pw: {file: pw.txt}}\n",
    )]);
    folder.write("api/Dockerfile", "FROM scratch");
    let mistakes = folder.mistakes();
    for part in [
        "the build context `web` is not a directory",
        "the file `web.env` does not exist; create it, or set `required: false`",
        "cannot read `pw.txt`",
        "there is no `api/Other`",
    ] {
        assert!(mistakes.contains(part), "{part}:\n{mistakes}");
    }
    let Err(berth_compose::LoadError::Problems(problems)) = folder.load() else {
        panic!("problems")
    };
    assert!(problems.iter().all(|problem| problem.missing.is_some()), "{problems:?}");
}

#[test]
fn values_of_the_wrong_shape_are_refused() {
    says(
        "services:\n  web:\n    image: [a]\n    ports: 80\n    environment: text\n    tty: maybe\n    restart: sometimes\n    stop_signal: SIGNOPE\n    healthcheck: {test: [ls]}\n    depends_on: {db: {condition: service_health}}\n  db: {}\n",
        &[
            "`services.web.image`: expected a single value, found a list",
            "`services.web.ports`: expected a list, found a single value",
            "`services.web.environment`: expected a mapping, found a single value",
            "`maybe` is neither `true` nor `false`",
            "`sometimes` is no restart policy",
            "`SIGNOPE` is no signal",
            "begins with `ls`",
            "did you mean `service_healthy`?",
            "`services.db`: has neither an `image` nor a `build`",
        ],
    );
}

#[test]
fn extends_and_include_do_not_go_round() {
    says(
        "services:\n  a: {extends: b}\n  b: {extends: a, image: x}\n",
        &["services extend each other"],
    );
    let folder = Folder::new(&[
        ("compose.yaml", "include: [other.yaml]\nservices: {a: {image: x}}\n"),
        ("other.yaml", "include: [other.yaml]\nservices: {b: {image: x}}\n"),
    ]);
    assert!(folder.mistakes().contains("is included more than once"));
    says(
        "services:\n  a: {extends: {service: b, file: none.yaml}, image: x}\n",
        &["none.yaml` does not exist"],
    );
}
