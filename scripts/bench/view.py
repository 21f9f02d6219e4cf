"""A private view of this machine for one container engine, and a way to run commands in it.

Container engines change a machine for good: packet rules, cgroups, mounts, files under /run. Each
engine measured here gets namespaces of its own (mount, network, process, cgroup), a root that is a
bind copy of the real one with fresh /proc, /sys, /run and /dev/shm, and a cgroup below which all of
its own end up. Process 1 of the view waits for the agent and dies with it, and the kernel then ends
everything else inside; so no process and no mount survives, not even when the benchmark is killed.
Its directories (berth-bench-… under the temporary directory) and empty cgroups then do.

On a hybrid host (cgroup v1 controllers and a cgroup2 tree with some) crun refuses to work, hence
`v1_only`, which leaves the cgroup2 tree out of the view.

Run as a program with `--inside` this is the process 1 of such a view.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

CGROUPS = pathlib.Path("/sys/fs/cgroup")


class Failed(Exception):
    """A command in a view did not end well; the text holds the end of what it printed."""


# ---- outside -------------------------------------------------------------------------------------


def hierarchies():
    """This process' cgroups: mount point name -> (mount type, options, path below the mount)."""
    mounts = {}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        kind, _, options = right.split(" ", 2)
        target = pathlib.Path(left.split()[4])
        if kind in ("cgroup", "cgroup2") and CGROUPS in (target, target.parent):
            mounts[target] = (kind, set(options.split(",")))
    found = {}
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for target, (kind, options) in mounts.items():
            mine = options.issuperset(controllers.split(",")) if controllers else kind == "cgroup2"
            if mine and (kind == "cgroup2") == (controllers == ""):
                name = "" if target == CGROUPS else target.name
                found[name] = (kind, controllers, path)
    return found


def nest(tag):
    """Makes a cgroup `tag` in every hierarchy; returns the directories."""
    made = []
    for name, (kind, controllers, path) in hierarchies().items():
        # In cgroup2 a group with processes cannot share out controllers, so there it goes to the top.
        parent = CGROUPS / name / ("" if kind == "cgroup2" else path.lstrip("/"))
        made.append(parent / tag)
        made[-1].mkdir()
        if controllers == "cpuset":
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (made[-1] / setting).write_text((parent / setting).read_text())
    return made


def remove_cgroup(top):
    """Removes a cgroup and those below it; they empty only once their last process is gone."""
    until = time.monotonic() + 10
    while top.exists():
        try:
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if time.monotonic() > until:
                raise Failed(f"cannot remove {top}: {error}") from error
            time.sleep(0.02)


class View:
    """One private view. Use as a context manager; `home` is a directory that lives as long."""

    def __init__(self, name, v1_only=False):
        self.name, self.v1_only = name, v1_only
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"berth-bench-{name}-"))
        self.mount = pathlib.Path(tempfile.mkdtemp(prefix=f"berth-bench-{name}-view-"))
        self.cgroups, self.process = [], None
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self):
        self.cgroups = nest(self.home.name)
        kept = {n: h[:2] for n, h in hierarchies().items() if not (self.v1_only and h[0] == "cgroup2" and n)}
        groups = [str(c / "cgroup.procs") for c in self.cgroups]
        self.process = subprocess.Popen(
            ["sh", "-c", 'for f in $1; do echo $$ > "$f"; done; shift; exec "$@"', "sh", " ".join(groups)]
            + ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--cgroup"]
            + [sys.executable, __file__, "--inside", str(self.mount), str(self.home), json.dumps(kept)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.lines = iter(self.process.stdout)
        if self.receive() != "ready":
            raise Failed(f"the view for {self.name} did not come up")

    def receive(self):
        line = next(self.lines, None)
        if line is None:
            raise Failed(f"the view for {self.name} has ended")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.receive()
        if isinstance(answer, dict) and "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def run(self, argv, timeout=60):
        """Runs a command to its end; returns (seconds, output)."""
        answer = self.ask(do="run", argv=[str(a) for a in argv], timeout=timeout)
        return answer["seconds"], answer["output"]

    def run_all(self, commands, timeout=180):
        """Runs commands at the same time; returns the seconds until the last has ended well."""
        return self.ask(do="run_all", commands=[[str(a) for a in c] for c in commands], timeout=timeout)["seconds"]

    def start(self, key, argv, ready, timeout=60):
        """Starts a program; returns the seconds until a line of its output matches `ready`."""
        return self.ask(do="start", key=key, argv=[str(a) for a in argv], ready=ready, timeout=timeout)["seconds"]

    def stop(self, key, timeout=30):
        """Ends a program that was started, with SIGTERM; returns the seconds it took."""
        return self.ask(do="stop", key=key, timeout=timeout)["seconds"]

    def processes(self, pattern):
        """The processes in the view whose command line matches: rss and pss in KiB, cpu in seconds."""
        return self.ask(do="processes", pattern=pattern)

    def close(self):
        if self.process:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for group in self.cgroups:
            remove_cgroup(group)
        # The mount point was only ever mounted on inside; `rmdir` cannot harm what it should show.
        with contextlib.suppress(FileNotFoundError):
            self.mount.rmdir()
        mounted = pathlib.Path("/proc/self/mountinfo").read_text()
        if f" {self.home}" in mounted:
            raise Failed(f"{self.home} is mounted on; not removed")
        shutil.rmtree(self.home, ignore_errors=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- inside --------------------------------------------------------------------------------------


def sh(*argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def build_root(root, kept):
    """Mounts the view's root on `root` and moves into it."""
    sh("mount", "--rbind", "/", root)
    for gone in ("proc", "sys", "run"):
        while subprocess.run(["mountpoint", "-q", f"{root}/{gone}"]).returncode == 0:
            sh("umount", "--recursive", "--lazy", f"{root}/{gone}")
    sh("mount", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", f"{root}/proc")
    sh("mount", "-t", "sysfs", "-o", "nosuid,nodev,noexec", "sysfs", f"{root}/sys")
    for fresh in ("run", "dev/shm"):
        sh("mount", "-t", "tmpfs", "-o", "nosuid,nodev", "tmpfs", f"{root}/{fresh}")
    os.makedirs(f"{root}/run/lock")
    if "" not in kept:
        sh("mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec,mode=755", "tmpfs", f"{root}/sys/fs/cgroup")
    for name, (kind, controllers) in kept.items():
        target = f"{root}/sys/fs/cgroup/{name}".rstrip("/")
        os.makedirs(target, exist_ok=True)
        options = "none," + controllers if controllers.startswith("name=") else controllers
        sh("mount", "-t", kind, *(["-o", options] if options else []), "cgroup", target)
        if not name:
            os.mkdir(f"{target}/agent")
            pathlib.Path(target, "agent/cgroup.procs").write_text("0")
    sh("pivot_root", root, f"{root}/mnt")
    os.chdir("/")
    sh("umount", "--lazy", "/mnt")
    sh("ip", "link", "set", "lo", "up")


class Agent:
    """Carries out the requests, one a line, that come in on standard input."""

    def __init__(self, home):
        self.home, self.running = home, {}
        # /usr/bin first: the engine's own client rather than one that somebody has installed beside it.
        self.environment = {
            "PATH": "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin:/usr/local/sbin",
            "HOME": home,
            "XDG_RUNTIME_DIR": "/run",
            "LANG": "C.UTF-8",
            "DOCKER_HOST": f"unix://{home}/docker.sock",
        }

    def serve(self):
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(self, request.pop("do"))(**request)
            except (Failed, OSError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)

    def command(self, argv, timeout):
        """Seconds and output. Waits in the kernel: Popen's own timeout polls, and that shows in the figures."""
        with tempfile.TemporaryFile(dir="/run") as output:
            begun = time.perf_counter()
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self.environment
            )
            guard = threading.Timer(timeout, child.kill)
            guard.start()
            code = child.wait()
            seconds = time.perf_counter() - begun
            guard.cancel()
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        if code:
            raise Failed(f"`{' '.join(argv)}` ended with {code} after {seconds:.1f} s: {text[-600:].strip()}")
        return seconds, text

    def run(self, argv, timeout):
        seconds, output = self.command(argv, timeout)
        return {"seconds": seconds, "output": output}

    def run_all(self, commands, timeout):
        with ThreadPoolExecutor(len(commands)) as pool:
            begun = time.perf_counter()
            for done in [pool.submit(self.command, argv, timeout) for argv in commands]:
                done.result()
            return {"seconds": time.perf_counter() - begun}

    def start(self, key, argv, ready, timeout):
        log = open(f"{self.home}/{key}.log", "w+")
        begun = time.perf_counter()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.environment, text=True, errors="replace",
        )  # fmt: skip
        seen, seconds = threading.Event(), []

        def read():
            for line in child.stdout:
                log.write(line)
                log.flush()
                if not seen.is_set() and re.search(ready, line):
                    seconds.append(time.perf_counter() - begun)
                    seen.set()
            seen.set()

        threading.Thread(target=read, daemon=True).start()
        seen.wait(timeout)
        if not seconds:
            child.kill()
            child.wait()
            log.seek(0)
            raise Failed(f"`{' '.join(argv)}` did not become ready in {timeout} s: {log.read()[-600:].strip()}")
        self.running[key] = child
        return {"seconds": seconds[0]}

    def stop(self, key, timeout):
        child = self.running.pop(key)
        begun = time.perf_counter()
        child.terminate()
        guard = threading.Timer(timeout, child.kill)
        guard.start()
        child.wait()
        guard.cancel()
        return {"seconds": time.perf_counter() - begun}

    def processes(self, pattern):
        found, tick = [], os.sysconf("SC_CLK_TCK")
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (1, os.getpid()):
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                if not re.search(pattern, command):
                    continue
                rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB", (entry / "smaps_rollup").read_text(), re.M))
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            cpu = (int(fields[11]) + int(fields[12])) / tick
            found.append({"command": command, "rss": int(rollup["Rss"]), "pss": int(rollup["Pss"]), "cpu": cpu})
        return found


def inside(root, home, kept):
    build_root(root, json.loads(kept))
    child = os.fork()
    if child == 0:
        print('"ready"', flush=True)
        Agent(home).serve()
        os._exit(0)
    # Process 1: adopt and reap what others leave behind, until the agent is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.wait()[0] != child:
        pass


if __name__ == "__main__":
    if sys.argv[1:2] != ["--inside"]:
        sys.exit("this file is a part of bench.py")
    inside(*sys.argv[2:])
