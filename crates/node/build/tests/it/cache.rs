//! What runs again and what does not.

use berth_build::BuildRequest;

use crate::support::{args, project};

const DOCKERFILE: &str =
    "FROM busybox\nARG v=1\nLABEL a=b\nCOPY f /f\nRUN cat /f > /g; date +%N >> /g\nENV late=1\n";

#[test]
fn an_unchanged_build_runs_nothing_and_gives_the_same_image() {
    let project = project(&[("f", "1"), ("other", "")]);
    let first = project.build(DOCKERFILE);
    assert!(project.seen.take().iter().all(|event| event.starts_with("started")));
    project.write("other", "changed");
    // A new time is not a change.
    project.write("f", "1");
    let second = project.build(DOCKERFILE);
    let events = project.seen.take();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.starts_with("cached")), "{events:?}");
    assert_eq!(first.digest, second.digest);
}

#[test]
fn a_change_runs_its_step_and_what_follows() {
    let project = project(&[("f", "1")]);
    project.build(DOCKERFILE);
    project.seen.take();
    project.write("f", "2");
    project.build(DOCKERFILE);
    assert!(project.seen.take().iter().all(|event| event.starts_with("started")));
    project.build(&DOCKERFILE.replace("date", "date -u"));
    assert_eq!(
        project.seen.take(),
        ["cached [0 3/5] COPY f /f", "started [0 4/5] RUN cat /f > /g; date -u +%N >> /g"]
    );
    // A label changes no file.
    project.build(&DOCKERFILE.replace("a=b", "a=c").replace("late", "later"));
    assert!(project.seen.take().iter().all(|event| event.starts_with("cached")));
    let request = BuildRequest { args: args(&[("v", "2")]), ..project.request() };
    project.try_build(&request).unwrap();
    assert!(project.seen.take().iter().any(|event| event.starts_with("started [0 4/5]")));
    let request = BuildRequest { no_cache: true, ..project.request() };
    project.try_build(&request).unwrap();
    assert!(project.seen.take().iter().all(|event| event.starts_with("started")));
}

#[test]
fn a_failed_build_goes_on_where_it_failed() {
    let project = project(&[]);
    project.build_error("FROM busybox\nRUN echo slow > /a\nRUN exit 3\n");
    project.seen.take();
    project.build("FROM busybox\nRUN echo slow > /a\nRUN true\n");
    assert_eq!(
        project.seen.take(),
        ["cached [0 1/2] RUN echo slow > /a", "started [0 2/2] RUN true"]
    );
}

#[test]
fn stages_nobody_needs_are_skipped_and_targets_are_chosen() {
    let project = project(&[]);
    let text = "FROM busybox AS unused\nRUN exit 1\nFROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n\
                FROM busybox\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    let image = project.build(text);
    assert_eq!(project.inside(&image, "cat /1 /2"), "1\n2\n");
    assert!(!project.seen.take().iter().any(|event| event.contains("unused")));
    let request = BuildRequest { target: Some("TWO".into()), ..project.request() };
    let image = project.try_build(&request).unwrap();
    assert_eq!(project.inside(&image, "ls /1 /2 2>/dev/null; true"), "/2\n");
    let request = BuildRequest { target: Some("none".into()), ..project.request() };
    assert!(project.try_build(&request).unwrap_err().to_string().contains("no stage `none`"));
}

#[test]
fn a_fixed_epoch_makes_builds_repeatable() {
    let text = "FROM busybox\nCOPY f /sub/f\nRUN echo x > /x\n";
    let build = || {
        let project = project(&[("f", "1"), ("Dockerfile", text)]);
        let request = BuildRequest { source_date_epoch: Some(1_000_000_000), ..project.request() };
        project.try_build(&request).unwrap()
    };
    let (one, two) = (build(), build());
    assert_eq!(one.digest, two.digest);
    assert_eq!(one.config.created().as_deref(), Some("2001-09-09T01:46:40Z"));
}
