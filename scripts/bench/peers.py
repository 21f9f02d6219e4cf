"""The engines that are compared: docker and podman as Debian ships them, and berth.

All run the same image, made here from the host's static busybox, with the same commands.
"""

import hashlib
import io
import json
import pathlib
import shutil
import sys
import tarfile
import time

from view import Failed, View

IMAGE = "busybox:latest"
APPLETS = ("sh", "true", "sleep", "echo", "cat", "ls")


def missing(*programs):
    """Those of the programs that this machine has not."""
    path = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
    return [p for p in programs if not shutil.which(p, path=path)]


def write_image(path):
    """An image archive (`docker save` form): static busybox and a few links, nothing else."""
    busybox = shutil.which("busybox")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        data = pathlib.Path(busybox).read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(entry)
    layer = layer.getvalue()
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "busybox"}],
        }
    ).encode()
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for member, data in (("manifest.json", manifest), (name, configuration), ("layer.tar", layer)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


class Engine:
    """What the benchmark does with an engine. `command` is the words before `run`, `exec`, ..."""

    name = ""
    needs: tuple[str, ...] = ()
    v1_only = True
    limits: list[str] = []  # words after `run`
    at_once: list[str] = []  # words after `rm`, so that it does not wait before it kills
    daemons = helper = "^$"
    #: helper processes beyond one a container, which count all the same
    spare_helpers = 0

    def __init__(self):
        lacking = missing("unshare", "ip", "busybox", *self.needs)
        if lacking:
            raise Failed(f"{self.name} cannot be measured: this machine lacks {', '.join(lacking)}")
        self.view = View(self.name, self.v1_only)
        self.home = self.view.home
        self.archive = self.home / "busybox.tar"
        write_image(self.archive)
        self.ready = None

    def once(self):
        return [*self.command, "run", "--rm", *self.limits, "busybox", "true"]

    def detached(self, name):
        return [*self.command, "run", "-d", "--name", name, *self.limits, "busybox", "sleep", "600"]

    def inside(self, name):
        return [*self.command, "exec", name, "true"]

    def load(self):
        self.view.run([*self.command, "load", "--input", self.archive])

    def running(self):
        return len(self.view.run([*self.command, "ps", "--quiet"])[1].split())

    def remove(self, names):
        """Removes all containers, `names` being what was started. Returns the seconds that the removing itself took."""
        spent = 0.0
        for patience in (40, 40, 120):
            left = self.view.run([*self.command, "ps", "--all", "--quiet"])[1].split()
            if not left:
                return spent
            begun = time.perf_counter()
            try:
                self.view.run([*self.command, "rm", "--force", *self.at_once, *left], timeout=patience)
                spent += time.perf_counter() - begun
            except Failed as error:
                spent += time.perf_counter() - begun
                # dockerd 20.10 now and then misses the end of a container when many end together.
                print(f"trying again: {str(error)[-300:]}", file=sys.stderr)
        raise Failed(f"{self.name}: containers cannot be removed")

    def version(self):
        return self.view.run([self.command[0], "--version"])[1].strip()

    def stop(self):
        """Ends the engine's own programs in good order; the view ends whatever is left."""

    def close(self):
        try:
            self.stop()
        finally:
            self.view.close()


class Docker(Engine):
    name = "docker"
    needs = ("docker", "dockerd", "containerd", "runc", "iptables")
    command = ["docker"]
    daemons = r"^(\S*/)?(dockerd|containerd) "
    helper = r"^(\S*/)?containerd-shim"

    def start(self):
        home = self.home
        self.ready = self.view.start(
            "dockerd",
            ["dockerd", "--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "dockerd.pid"]
            + ["--host", f"unix://{home}/docker.sock", "--storage-driver", "overlay2", "--iptables=true"]
            + ["--exec-opt", "native.cgroupdriver=cgroupfs"],
            ready="API listen on",
        )
        self.load()

    def stop(self):
        self.view.stop("dockerd")


class Podman(Engine):
    name = "podman"
    needs = ("podman", "conmon", "crun", "iptables")
    # Podman's defaults raise limits that crun may not set here.
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    at_once = ["--time", "0"]
    helper = r"^(\S*/)?conmon "

    @property
    def command(self):
        home = self.home
        return (
            ["podman", "--root", home / "data", "--runroot", "/run/podman-bench", "--tmpdir", "/run/podman-tmp"]
            + ["--volumepath", home / "volumes", "--network-config-dir", home / "networks"]
            + ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "crun"]
        )

    def start(self):
        self.load()

    def load(self):
        super().load()
        # Without a registry in its name an archive's image becomes localhost/…
        self.view.run([*self.command, "tag", f"localhost/{IMAGE}", f"docker.io/library/{IMAGE}"])


class Berth(Engine):
    name = "berth"
    v1_only = False  # it works with the host's cgroups as they are
    helper = r"^(\S*/)?berth shim\b"
    #: the process that shims are forked from
    spare_helpers = 1
    daemons = r"^(\S*/)?berth\b"

    def __init__(self, binary, load):
        self.binary, self.loading = str(pathlib.Path(binary).resolve()), load
        if not pathlib.Path(self.binary).is_file():
            raise Failed(f"there is no berth at {self.binary}; build it with `cargo build --release`")
        super().__init__()
        self.fresh = 0

    @property
    def data(self):
        return self.home / f"data{self.fresh}"

    @property
    def command(self):
        return [self.binary, "--data-dir", str(self.data)]

    def serve(self):
        """From nothing: an empty data directory. Returns the seconds until the node is Ready."""
        self.fresh += 1
        seconds = self.view.start("berth", [self.binary, "serve", "--data-dir", self.data], ready=r"^ready\b")
        nodes = self.kubectl("get", "nodes", "--no-headers")
        if [line.split()[1] for line in nodes.splitlines()] != ["Ready"]:
            raise Failed(f"berth says that it is ready, kubectl disagrees: {nodes.strip()}")
        return seconds

    def start(self):
        self.ready = self.serve()
        self.load()

    def load(self):
        words = [w.format(archive=self.archive, image=IMAGE) for w in self.loading.split()]
        self.view.run([*self.command, *words])

    def remove(self, names):
        return self.view.run([*self.command, "rm", "--force", *names], timeout=120)[0]

    def deploy(self, name, pods):
        """A Deployment of pods that sleep."""
        container = {"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "6000"]}
        labels = {"app": name}
        spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
        manifest = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": pods,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
        path = self.home / "deployment.json"
        path.write_text(json.dumps(manifest))
        self.kubectl("apply", "-f", path)

    def undeploy(self, name):
        """Removes it, and waits until its pods are gone."""
        self.kubectl("delete", "deployment", name)
        until = time.monotonic() + 240
        # Not `kubectl wait`, which asks for one after the other.
        while self.kubectl("get", "pods", "--selector", f"app={name}", "--no-headers", "--ignore-not-found").strip():
            if time.monotonic() > until:
                raise Failed(f"berth: the pods of {name} are not gone after 240 s")

    def running(self):
        pods = self.kubectl("get", "pods", "-A", "--no-headers", "--field-selector=status.phase=Running")
        return len(pods.splitlines())

    def kubectl(self, *words):
        return self.view.run(["kubectl", "--kubeconfig", self.data / "kubeconfig", *words])[1]

    def stop(self):
        self.view.stop("berth")


class Runtimes:
    """Runtimes as commands, on one bundle with the usual namespaces and mounts, in a view that crun accepts."""

    def __init__(self, binary):
        lacking = missing("crun", "runc", "busybox")
        if lacking:
            raise Failed(f"runtimes cannot be measured: this machine lacks {', '.join(lacking)}")
        self.view = View("runtime", True)
        try:
            self.bundle = self.make_bundle()
        except BaseException:
            self.view.close()
            raise
        home = self.view.home
        run = ["run", "--bundle", self.bundle, "bench"]
        self.commands = {
            "crun": ["crun", "--cgroup-manager=cgroupfs", "--root", home / "crun", *run],
            "runc": ["runc", "--root", home / "runc", *run],
            "berth": [str(pathlib.Path(binary).resolve()), "oci", "--root", home / "berth", *run],
        }

    def make_bundle(self):
        bundle = self.view.home / "bundle"
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (bundle / "rootfs" / directory).mkdir(parents=True)
        shutil.copy2(shutil.which("busybox"), bundle / "rootfs/bin/busybox")
        (bundle / "rootfs/bin/true").symlink_to("busybox")
        # runc's own words for a usual container; limits that this machine may not raise are left out.
        self.view.run(["runc", "spec", "--bundle", bundle])
        path = bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"].update(args=["/bin/true"], terminal=False, rlimits=[])
        path.write_text(json.dumps(config))
        return bundle


def wait_running(engine, number, timeout=60):
    """Some engines return from `run -d` a moment before the container shows as running."""
    until = time.monotonic() + timeout
    while (seen := engine.running()) < number:
        if time.monotonic() > until:
            raise Failed(f"{engine.name}: {seen} of {number} containers run after {timeout} s")
