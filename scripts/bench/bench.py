#!/usr/bin/env python3
"""Measures berth against docker and podman on this machine, in the same run, and judges the promises.

    scripts/bench/bench.py                 all three; exit code 1 when a promise is missed
    scripts/bench/bench.py --peers-only    docker and podman alone, to see what there is to beat

Needs root, the Debian packages docker.io, podman, crun, busybox-static and iptables, kubectl, and a
release build of berth. Nothing on the machine is changed: see view.py. The engines take turns within
each measurement, so that whatever else the machine does meets all of them alike.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import sys
import time

from peers import Berth, Docker, Failed, Podman, Runtimes, wait_running

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONGEST = 20 * 60  # seconds; a run takes about seven minutes
SETTLE = 2  # seconds between a start and the measurement of idleness

# What is promised. `times` is how many times faster than the faster of the peers, `below` a limit.
PROMISES = [
    {"key": "ready", "what": "server from nothing to a node that is Ready", "unit": "s", "below": 1.0},
    {"key": "idle_memory", "what": "memory when idle, all processes (RSS)", "unit": "MB", "below": 100.0},
    {"key": "idle_cpu", "what": "processor when idle", "unit": "% of a core", "below": 1.0},
    {"key": "run", "what": "`run --rm busybox true` with its network", "unit": "ms", "times": 8.0},
    {"key": "many", "what": "{pods} containers at once, until all run", "unit": "s", "times": 5.0},
    {"key": "exec", "what": "`exec` of `true` in a running container", "unit": "ms", "times": 6.0},
    {"key": "remove", "what": "removal of {pods} containers", "unit": "s", "times": 4.0},
    {"key": "helper", "what": "helper process per container (PSS)", "unit": "MiB", "below": 0.5},
    {"key": "idle_pods", "what": "helper process of one of {idle_pods} idle pods (PSS)", "unit": "MiB", "below": 0.3},
]

# Of runtimes alone, from the bundle to its removal: at most this share of crun's time.
RUNTIME_SHARE = 0.6


class Results:
    """Every sample, by measurement and engine; what counts is the median."""

    def __init__(self):
        self.samples = {}

    def add(self, key, engine, value):
        self.samples.setdefault(key, {}).setdefault(engine.name, []).append(value)

    def median(self, key, name):
        values = self.samples.get(key, {}).get(name)
        return statistics.median(values) if values else None


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure_start(engines, results, rounds):
    """Brings all engines up. Ours is started from nothing several times; the last one stays."""
    for engine in engines:
        note(f"starting {engine.name}")
        if isinstance(engine, Berth):
            for _ in range(rounds - 1):
                results.add("ready", engine, engine.serve())
                engine.stop()
        engine.start()
        if engine.ready is not None:
            results.add("ready", engine, engine.ready)


def measure_idle(engines, results, seconds):
    engines = [e for e in engines if e.daemons != "^$"]
    note(f"watching {' and '.join(e.name for e in engines)} do nothing for {seconds} s")
    time.sleep(SETTLE)
    before = {e.name: (time.monotonic(), e.view.processes(e.daemons)) for e in engines}
    time.sleep(seconds)
    for engine in engines:
        begun, old = before[engine.name]
        new = engine.view.processes(engine.daemons)
        passed = time.monotonic() - begun
        if not new:
            raise Failed(f"{engine.name}: no process matches `{engine.daemons}`")
        cpu = sum(p["cpu"] for p in new) - sum(p["cpu"] for p in old)
        results.add("idle_cpu", engine, 100 * cpu / passed)
        results.add("idle_memory", engine, sum(p["rss"] for p in new) * 1024 / 1e6)


def measure_turns(engines, results, key, rounds, command):
    """Runs one command per engine in turn, `rounds` times after some for warming up."""
    note(f"{key}: {rounds} rounds")
    for turn in range(-3, rounds):
        for engine in engines:
            seconds, _ = engine.view.run(command(engine))
            if turn >= 0:
                results.add(key, engine, seconds * 1000)


def measure_exec(engines, results, rounds):
    for engine in engines:
        engine.view.run(engine.detached("bench-exec"))
        wait_running(engine, 1)
    measure_turns(engines, results, "exec", rounds, lambda engine: engine.inside("bench-exec"))
    for engine in engines:
        engine.remove(["bench-exec"])


def measure_many(engines, results, rounds, pods):
    for turn in range(rounds):
        for engine in engines:
            note(f"many: round {turn + 1} of {rounds}, {engine.name}")
            names = [f"bench-{turn}-{number}" for number in range(pods)]
            begun = time.perf_counter()
            engine.view.run_all([engine.detached(name) for name in names])
            wait_running(engine, pods)
            results.add("many", engine, time.perf_counter() - begun)
            results.add("helper", engine, helper_memory(engine, pods))
            results.add("remove", engine, engine.remove(names))


def helper_memory(engine, pods):
    """The proportional set size of all helpers, as MiB for each of the pods."""
    helpers = engine.view.processes(engine.helper)
    if len(helpers) != pods + engine.spare_helpers:
        raise Failed(f"{engine.name}: {pods} containers, but {len(helpers)} match `{engine.helper}`")
    return sum(p["pss"] for p in helpers) / pods / 1024


def measure_idle_pods(engine, results, pods):
    """A node full of pods that do nothing."""
    note(f"idle pods: {pods} on {engine.name}")
    begun = time.perf_counter()
    engine.deploy("idle", pods)
    wait_running(engine, pods, timeout=240)
    note(f"idle pods: all run after {time.perf_counter() - begun:.1f} s")
    results.add("idle_pods", engine, helper_memory(engine, pods))
    engine.undeploy("idle")


def measure_runtimes(binary, results, rounds):
    """Runtimes alone, on the same bundle, in turn, in one view."""
    runtimes = Runtimes(binary)
    try:
        note(f"runtimes: {rounds} rounds of {', '.join(runtimes.commands)}")
        for turn in range(-3, rounds):
            for name, command in runtimes.commands.items():
                seconds, _ = runtimes.view.run(command)
                if turn >= 0:
                    results.samples.setdefault("runtime", {}).setdefault(name, []).append(seconds * 1000)
    finally:
        runtimes.view.close()


def judge(promise, results):
    """The values of all engines, the ratio to the faster peer, and whether the promise is kept."""
    values = {name: results.median(promise["key"], name) for name in ("berth", "docker", "podman")}
    peers = [v for name, v in values.items() if name != "berth" and v is not None]
    ours, ratio, kept = values["berth"], None, None
    if ours is not None:
        ratio = min(peers) / ours if peers and ours > 0 else None
        kept = ours < promise["below"] if "below" in promise else ratio is not None and ratio >= promise["times"]
    return {**promise, **values, "ratio": ratio, "kept": kept}


def judge_runtimes(results):
    """The medians of the runtimes, our share of crun's time, and whether the promise is kept."""
    values = {name: results.median("runtime", name) for name in ("berth", "crun", "runc")}
    if values["berth"] is None or values["crun"] is None:
        return {**values, "share": None, "kept": None}
    share = values["berth"] / values["crun"]
    return {**values, "share": share, "kept": share <= RUNTIME_SHARE}


def runtime_line(verdict):
    values = ", ".join(f"{name} {verdict[name]:.1f} ms" for name in ("berth", "crun", "runc") if verdict[name] is not None)
    kept = {True: "kept", False: "**not kept**", None: "not measured"}[verdict["kept"]]
    share = "" if verdict["share"] is None else f"{verdict['share']:.2f} of crun's time, "
    return f"Runtime alone, from a bundle to its removal: {values}; {share}promised at most {RUNTIME_SHARE:g}: {kept}."


def table(verdicts, pods, idle_pods):
    def show(value):
        return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    yield "| what | unit | berth | docker | podman | times faster | promised | kept |"
    yield "|---|---|---|---|---|---|---|---|"
    for v in verdicts:
        promised = f"below {v['below']:g}" if "below" in v else f"{v['times']:g} times"
        kept = {True: "yes", False: "**no**", None: "–"}[v["kept"]]
        cells = [v["what"].format(pods=pods, idle_pods=idle_pods), v["unit"], *(show(v[n]) for n in ("berth", "docker", "podman", "ratio"))]
        yield "| " + " | ".join([*cells, promised, kept]) + " |"


def machine():
    cpu = next((x for x in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":")
    return {
        "kernel": platform.release(),
        "processor": cpu.split(":", 1)[1].strip(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }


def run(options, engines, results):
    """All measurements. Leaves the engines in `engines` for the caller to close; returns their versions."""
    engines_wanted = [Docker, Podman]
    if not options.peers_only:
        engines_wanted.insert(0, lambda: Berth(options.berth, options.berth_load))
    for make in engines_wanted:
        engines.append(make())
    measure_start(engines, results, 3)
    versions = {engine.name: engine.version() for engine in engines}
    measure_idle(engines, results, options.idle)
    measure_turns(engines, results, "run", options.rounds, lambda engine: engine.once())
    measure_exec(engines, results, options.rounds)
    measure_many(engines, results, 3, options.pods)
    if not options.peers_only:
        measure_idle_pods(engines[0], results, options.idle_pods)
        measure_runtimes(options.berth, results, 3 * options.rounds)
    return versions


def too_long(*_):
    raise Failed(f"the benchmark took longer than {LONGEST} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--berth", default=ROOT / "target/release/berth", help="the binary to measure")
    parser.add_argument(
        "--berth-load",
        default="image load --input {archive}",
        help="berth's words for loading an image archive (default: %(default)s)",
    )
    parser.add_argument("--peers-only", action="store_true", help="measure docker and podman alone")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of run and exec (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=100, help="containers started at once (default: %(default)s)")
    parser.add_argument("--idle-pods", type=int, default=500, help="pods on one node (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=20, help="seconds of idleness (default: %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "target/bench/results.json")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for namespaces and the engines")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    engines, results, before = [], Results(), machine()
    try:
        versions = run(options, engines, results)
    except Failed as error:
        note(f"error: {error}")
        return 2
    finally:
        signal.alarm(0)
        for engine in engines:
            engine.close()

    verdicts = [judge(promise, results) for promise in PROMISES]
    runtimes = judge_runtimes(results)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": before,
        "load_after": os.getloadavg(),
        "versions": versions,
        "results": verdicts,
        "runtimes": runtimes,
        "samples": results.samples,
    }
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(table(verdicts, options.pods, options.idle_pods)))
    print(f"\n{runtime_line(runtimes)}")
    load = ", ".join(f"{x:.1f}" for x in (before["load"][0], report["load_after"][0]))
    print(f"\n{before['processor']}, {before['cores']} cores, Linux {before['kernel']}; load before and after: {load}")
    return 1 if any(v["kept"] is False for v in [*verdicts, runtimes]) else 0


if __name__ == "__main__":
    sys.exit(main())
