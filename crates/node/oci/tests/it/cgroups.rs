//! Cgroups: their place, and limits of every kind this host has a controller for.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Fixture, refused};

/// The directory of a container in the hierarchy of a controller, if the host has it in version 1.
fn folder(fixture: &Fixture, controller: &str) -> PathBuf {
    let path = Path::new("/sys/fs/cgroup").join(controller).join("berth-test").join(&fixture.name);
    assert!(
        path.exists(),
        "these tests need the controller {controller} in version 1: {}",
        path.display()
    );
    path
}

fn with(resources: &Value) -> Fixture {
    let fixture = Fixture::new("sleep 1000", &json!({"linux": {"resources": resources}}));
    fixture.create();
    fixture
}

fn reads(fixture: &Fixture, controller: &str, files: &[(&str, &str)]) {
    let folder = folder(fixture, controller);
    for (file, wanted) in files {
        let found = fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), *wanted, "{file}");
    }
}

#[test]
fn memory_is_limited() {
    let fixture = with(
        &json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432, "swappiness": 10, "disableOOMKiller": false}}),
    );
    reads(
        &fixture,
        "memory",
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("memory.swappiness", "10"),
        ],
    );
    fixture.good(&["update", "--memory", "134217728", &fixture.name]);
    reads(&fixture, "memory", &[("memory.limit_in_bytes", "134217728")]);
}

#[test]
fn a_limit_below_what_is_used_is_refused_if_it_is_to_be_checked() {
    let fixture = with(&json!({}));
    let resources = fixture.path("resources");
    fs::write(
        &resources,
        json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string(),
    )
    .unwrap();
    let said =
        fixture.bad(&["update", "--resources", &resources.display().to_string(), &fixture.name]);
    assert!(said.contains("are in use"), "{said}");
}

#[test]
fn processors_are_limited() {
    let fixture = with(
        &json!({"cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "burst": 1000, "cpus": "0", "mems": "0", "idle": 0}}),
    );
    reads(
        &fixture,
        "cpu",
        &[
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.cfs_period_us", "50000"),
            ("cpu.cfs_burst_us", "1000"),
        ],
    );
    reads(&fixture, "cpuset", &[("cpuset.cpus", "0"), ("cpuset.mems", "0")]);
    let said =
        refused(&json!({"linux": {"resources": {"cpu": {"quota": 20_000, "burst": 30_000}}}}));
    assert!(said.contains("cpu.cfs_burst_us"), "{said}");
    assert!(
        refused(&json!({"linux": {"resources": {"cpu": {"cpus": "900-901"}}}})).contains("cpuset")
    );
}

#[test]
fn processes_are_limited() {
    let fixture = with(&json!({"pids": {"limit": 17}}));
    reads(&fixture, "pids", &[("pids.max", "17")]);
    let unlimited = with(&json!({"pids": {"limit": -1}}));
    reads(&unlimited, "pids", &[("pids.max", "max")]);
}

#[test]
fn block_devices_are_limited() {
    let disk = fs::read_dir("/sys/block").unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name()?.to_string_lossy().into_owned();
        let real = ["vd", "sd", "nvme", "xvd"].iter().any(|kind| name.starts_with(kind));
        real.then(|| fs::read_to_string(path.join("dev")).unwrap().trim().to_owned())
    });
    let disk = disk.expect("this test needs a disk");
    let (major, minor) = disk.split_once(':').unwrap();
    let device = |rate: u64| json!([{"major": major.parse::<i64>().unwrap(), "minor": minor.parse::<i64>().unwrap(), "rate": rate}]);
    let fixture = with(
        &json!({"blockIO": {"weight": 0, "throttleReadBpsDevice": device(1_048_576), "throttleWriteBpsDevice": device(2_097_152),
        "throttleReadIOPSDevice": device(100), "throttleWriteIOPSDevice": device(200)}}),
    );
    let wanted = |rate: u64| format!("{disk} {rate}");
    reads(
        &fixture,
        "blkio",
        &[
            ("blkio.throttle.read_bps_device", &wanted(1_048_576)),
            ("blkio.throttle.write_bps_device", &wanted(2_097_152)),
            ("blkio.throttle.read_iops_device", &wanted(100)),
            ("blkio.throttle.write_iops_device", &wanted(200)),
        ],
    );
}

#[test]
fn what_no_controller_of_the_host_limits_is_an_error() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for (resources, controller) in [
        (json!({"network": {"classID": 5}}), "net_cls"),
        (json!({"network": {"priorities": [{"name": "lo", "priority": 2}]}}), "net_prio"),
        (json!({"rdma": {"mlx4_0": {"hcaHandles": 3}}}), "rdma"),
    ] {
        if mounts.lines().any(|line| line.contains(" - cgroup ") && line.contains(controller)) {
            continue;
        }
        let said = refused(&json!({"linux": {"resources": resources}}));
        assert!(said.contains("limit the cgroup"), "{controller}: {said}");
    }
}

#[test]
fn files_of_version_2_need_their_controller() {
    for (file, wanted) in
        [("no-such.max", "no-such"), ("../../evil", "no name of a file"), ("", "no name of a file")]
    {
        let said = refused(&json!({"linux": {"resources": {"unified": {file: "1"}}}}));
        assert!(said.contains(wanted), "{file}: {said}");
    }
}

#[test]
fn files_of_version_2_are_written_as_they_are_given() {
    let fixture =
        with(&json!({"unified": {"cgroup.max.depth": "7", "cgroup.max.descendants": "3"}}));
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let own = places.iter().map(|root| Path::new(root).join("berth-test").join(&fixture.name));
    let own = own.into_iter().find(|path| path.join("cgroup.max.depth").exists()).unwrap();
    assert_eq!(fs::read_to_string(own.join("cgroup.max.depth")).unwrap(), "7\n");
    assert_eq!(fs::read_to_string(own.join("cgroup.max.descendants")).unwrap(), "3\n");
}

#[test]
fn the_same_path_is_the_same_place() {
    for path in ["/berth-test/same-place", "berth-test/same-place"] {
        let fixture = Fixture::new("sleep 1000", &json!({"linux": {"cgroupsPath": path}}));
        fixture.create();
        let pid = fixture.state()["pid"].clone();
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(
            own.lines().filter(|line| line.ends_with(":/berth-test/same-place")).count() > 1,
            "{own}"
        );
    }
    for (path, wanted) in
        [("/a/../b", "the cgroup"), ("/", "the cgroup"), ("user.slice:a:b", "of systemd")]
    {
        assert!(refused(&json!({"linux": {"cgroupsPath": path}})).contains(wanted), "{path}");
    }
}

#[test]
fn a_cgroup_in_use_is_nobody_elses() {
    let first = Fixture::new("sleep 1000", &json!({}));
    first.create();
    let path = format!("/berth-test/{}", first.name);
    let second = Fixture::new("sleep 1000", &json!({"linux": {"cgroupsPath": path}}));
    let said = second.bad(&["create", "--bundle", &second.bundle(), &second.name]);
    assert!(said.contains("is in use"), "{said}");
    assert_eq!(first.state()["status"], "created");
}

/// A process of the test's own in a cgroup, which goes with it.
struct Other {
    child: std::process::Child,
    place: PathBuf,
}

impl Other {
    fn inside(place: &Path) -> Self {
        fs::create_dir_all(place).unwrap();
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(place.join("cgroup.procs"), child.id().to_string()).unwrap();
        Self { child, place: place.to_owned() }
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _gone = self.child.wait();
        let _removed = fs::remove_dir(&self.place);
        let _removed = self.place.parent().map(fs::remove_dir);
    }
}

#[test]
fn a_cgroup_is_in_use_by_who_is_below_it_in_any_hierarchy() {
    for (number, hierarchy) in ["unified", "pids"].iter().enumerate() {
        let path = format!("berth-test/others-{number}-{}", std::process::id());
        let place = Path::new("/sys/fs/cgroup").join(hierarchy).join(&path);
        let mut other = Other::inside(&place.join("inner"));
        let more = json!({"linux": {"cgroupsPath": format!("/{path}")}});
        let fixture = Fixture::new("sleep 1000", &more);
        let said = fixture.bad(&["create", "--bundle", &fixture.bundle(), &fixture.name]);
        assert!(said.contains("is in use"), "{hierarchy}: {said}");
        assert!(other.lives(), "{hierarchy}");
    }
}

#[test]
fn nobody_is_ended_in_a_cgroup_that_was_there_before() {
    let path = format!("berth-test/before-{}", std::process::id());
    let place = Path::new("/sys/fs/cgroup/unified").join(&path);
    fs::create_dir_all(&place).unwrap();
    let more = json!({"linux": {"cgroupsPath": format!("/{path}")}});
    let fixture = Fixture::new("sleep 1000", &more);
    fixture.create();
    let mut other = Other::inside(&place.join("inner"));
    let said = fixture.bad(&["delete", "--force", &fixture.name]);
    assert!(said.contains("processes of others"), "{said}");
    assert!(other.lives());
    assert_eq!(fixture.state()["status"], "stopped");
    drop(other);
    fixture.good(&["delete", "--force", &fixture.name]);
    let hierarchies = berth_runtime::cgroup::Hierarchies::detect_all().unwrap();
    berth_runtime::cgroup::Cgroup::at(&hierarchies, Path::new(&path)).remove_all().unwrap();
}

#[test]
fn processes_in_nested_cgroups_belong_to_the_container() {
    let fixture = Fixture::new(
        "trap 'echo told > /told; exit 3' TERM; while :; do sleep 0.01; done",
        &json!({}),
    );
    fixture.create();
    fixture.start();
    let pid = fixture.state()["pid"].to_string();
    let own = Path::new("/sys/fs/cgroup/unified/berth-test").join(&fixture.name);
    let inner = own.join("init.scope");
    fs::create_dir(&inner).unwrap();
    let all = || fs::read_to_string(own.join("cgroup.procs")).unwrap();
    while !all().is_empty() {
        for pid in all().lines() {
            let _ended = fs::write(inner.join("cgroup.procs"), pid);
        }
    }
    let mut hierarchies = berth_runtime::cgroup::Hierarchies::detect().unwrap();
    hierarchies.legacy.clear();
    let path = Path::new("berth-test").join(&fixture.name);
    let cgroup = berth_runtime::cgroup::Cgroup::at(&hierarchies, &path);
    let found = cgroup.processes().unwrap();
    assert!(found.iter().any(|it| it.as_raw_nonzero().to_string() == pid), "{found:?}");
    let listed: Vec<i64> =
        serde_json::from_str(&fixture.good(&["ps", "--format", "json", &fixture.name])).unwrap();
    assert!(listed.iter().any(|it| it.to_string() == pid), "{listed:?}");
    // A group that gives controllers on has no processes of its own, so a further one can only go where the first is.
    let root = Path::new("/sys/fs/cgroup/unified");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    let controller = controllers.split_whitespace().next();
    let on = format!("+{}", controller.expect("this test needs a controller of version 2"));
    for folder in [root, &root.join("berth-test"), &own] {
        fs::write(folder.join("cgroup.subtree_control"), &on).unwrap();
    }
    fixture.good(&["exec", &fixture.name, "true"]);
    fixture.good(&["kill", "--all", &fixture.name, "TERM"]);
    assert_eq!(fixture.until("told"), "told\n");
    fixture.until_status("stopped");
}

#[test]
fn the_older_cgroups_alone_are_emptied_even_if_they_are_frozen() {
    let mut hierarchies = berth_runtime::cgroup::Hierarchies::detect_all().unwrap();
    hierarchies.unified = None;
    let path = format!("berth-test/older-{}", std::process::id());
    let cgroup = berth_runtime::cgroup::Cgroup::at(&hierarchies, Path::new(&path));
    let mut other = Other::inside(&Path::new("/sys/fs/cgroup/freezer").join(&path).join("inner"));
    cgroup.freeze(true).unwrap();
    cgroup.kill().unwrap();
    assert!(!other.child.wait().unwrap().success());
}
