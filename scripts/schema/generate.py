#!/usr/bin/env python3
"""Write the table of Kubernetes objects that the API server works from.

The server has no struct per kind: it validates, prunes, merges and decodes JSON values by
looking each property up in one table.  This script makes that table out of two published
sources and is run by hand when the Kubernetes level changes; its output is committed, so a
build needs neither Python nor a network.

  kubernetes-validate (PyPI)   the OpenAPI definitions with the x-kubernetes-* merge markers
  k8s-pb (crates.io)           the protobuf field numbers

The two know nothing of each other and name fields differently.  Every property must find its
field number, with the same type on both sides: one that does not is an error here, never a
hole in the table.

Usage, and the meaning of the output's keys: crates/api/objects/data/README.md
"""

import argparse
import json
import pathlib
import re
import sys
from dataclasses import dataclass, field

LEVEL = "v1.35.0"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."

# Groups served whole: every kind that has a group-version-kind of its own, lists left out.
WHOLE = [
    "io.k8s.api.apps.v1.",
    "io.k8s.api.batch.v1.",
    "io.k8s.api.discovery.v1.",
    "io.k8s.api.coordination.v1.",
    "io.k8s.api.events.v1.",
    "io.k8s.api.networking.v1.",
    "io.k8s.api.policy.v1.",
    "io.k8s.api.rbac.v1.",
    "io.k8s.api.storage.v1.",
    "io.k8s.api.scheduling.v1.",
    "io.k8s.api.node.v1.",
    "io.k8s.api.authentication.v1.",
    "io.k8s.api.authorization.v1.",
    "io.k8s.api.certificates.v1.",
    "io.k8s.api.autoscaling.v1.",
    "io.k8s.api.autoscaling.v2.",
    "io.k8s.api.admissionregistration.v1.",
    "io.k8s.api.flowcontrol.v1.",
    "io.k8s.api.resource.v1.",
    EXTENSIONS,
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.",
]
SINGLE = [
    "io.k8s.api.core.v1." + kind
    for kind in (
        "Namespace Node Pod Service Endpoints ConfigMap Secret ServiceAccount Event PersistentVolume "
        "PersistentVolumeClaim Binding ReplicationController LimitRange ResourceQuota PodTemplate"
    ).split()
]
SINGLE += [
    # Not stable yet, and the only version there is.
    "io.k8s.api.admissionregistration.v1beta1." + kind
    for kind in "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding".split()
]
SINGLE += [
    META + kind
    for kind in "ObjectMeta ListMeta Status DeleteOptions LabelSelector ManagedFieldsEntry Condition".split()
]

# Definitions whose JSON form is not what their protobuf message looks like.
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    META + "FieldsV1": "raw",
    META + "Time": "time",
    META + "MicroTime": "micro-time",
    EXTENSIONS + "JSON": "raw",
    EXTENSIONS + "JSONSchemaPropsOrArray": "schema-or-array",
    EXTENSIONS + "JSONSchemaPropsOrBool": "schema-or-bool",
    EXTENSIONS + "JSONSchemaPropsOrStringArray": "schema-or-strings",
}

TYPES = {"string": "s", "integer": "i", "number": "n", "boolean": "b", "object": "o"}
SCALARS = {"string": "s", "bytes": "y", "bool": "b", "int32": "i", "int64": "i", "double": "d"}


# ---- protobuf ------------------------------------------------------------------------------------


@dataclass
class Field:
    """One field of a protobuf message: `kind` is prost's word, `message` a key into the messages."""

    name: str
    tag: int
    kind: str
    shape: str  # "one", "many" or "map"
    message: str | None = None


@dataclass
class Message:
    fields: dict[str, Field] = field(default_factory=dict)


STRUCT = re.compile(r"^pub struct (\w+) \{\n(.*?)^\}", re.S | re.M)
FIELD = re.compile(r"#\[prost\((.*?)\)\]\s*pub (?:r#)?(\w+):\s*(.*?),\n(?=\s*(?:///|#\[|\}|\Z))", re.S)


def flat(name):
    """The form in which a JSON name and a Rust name are the same: clusterIP, cluster_ip -> clusterip."""
    return name.replace("_", "").lower()


def key(path):
    """`io.k8s.api.core.v1.Pod` and the crate's `api/core/v1` + `Pod` in one form."""
    return path.replace("-", "_").lower()


def read_messages(source):
    """All prost structs of the crate, by `key`."""
    messages = {}
    for file in sorted(source.rglob("mod.rs")):
        module = ".".join(file.parent.relative_to(source).parts)
        for name, body in STRUCT.findall(file.read_text()):
            message = messages[key(f"io.k8s.{module}.{name}")] = Message()
            body = re.sub(r"^\s*///.*\n", "", body, flags=re.M) + "}"
            for attribute, ident, rust in FIELD.findall(body):
                parsed = parse_field(ident, attribute, rust, module)
                message.fields[flat(ident.rstrip("_"))] = parsed
            declared = body.count("#[prost(")
            if declared != len(message.fields):
                raise SystemExit(f"{file}: {name} declares {declared} fields, {len(message.fields)} understood")
    return messages


def parse_field(ident, attribute, rust, module):
    tag = int(re.search(r'tag ?= ?"(\d+)"', attribute)[1])
    pair = re.match(r'btree_map = "string, (\w+)"', attribute)
    kind = pair[1] if pair else re.match(r"\w+", attribute)[0]
    shape = "map" if pair else "many" if "repeated" in attribute else "one"
    message = None
    if kind == "message":
        path = re.findall(r"(?:super::)*(?:\w+::)*\w+", rust.split("<")[-1].replace(" ", "").replace("\n", ""))[-1]
        message = resolve(path, module)
    return Field(ident, tag, kind, shape, message)


def resolve(path, module):
    parts, here = path.split("::"), module.split(".")
    while parts[0] == "super":
        parts, here = parts[1:], here[:-1]
    return key(".".join(["io.k8s", *here, *parts]))


def known_properties(messages, name, properties):
    """JSON property -> (field numbers from the outside in, last field).

    Go embeds structs which JSON flattens and protobuf does not (a Volume's VolumeSource).  A
    message field that is no property of its own is such an embedding, if its fields are.
    """
    found, unused = {}, []
    wanted = {flat(p.lstrip("$").replace("-", "")): p for p in properties}

    def walk(message, path):
        for flat_name, entry in message.fields.items():
            if flat_name in wanted and wanted[flat_name] not in found:
                found[wanted[flat_name]] = (path + [entry.tag], entry)
            elif entry.kind == "message" and entry.shape == "one" and entry.message in messages:
                inner = messages[entry.message]
                if inner.fields and any(f in wanted for f in inner.fields):
                    walk(inner, path + [entry.tag])
                else:
                    unused.append(entry.name)
            else:
                unused.append(entry.name)

    walk(messages[name], [])
    return found, unused


# ---- schema --------------------------------------------------------------------------------------


def plain_type(schema):
    """kubernetes-validate writes `[x, "null"]` where the API says `x`."""
    kind = schema.get("type")
    return next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind


def reference(schema):
    target = schema.get("$ref")
    return target.rsplit("/", 1)[1] if target else None


def convert(schema):
    """A property, list item or map value in our keys, without protobuf."""
    out = {}
    target, kind = reference(schema), plain_type(schema)
    if target:
        out["r"] = target
    elif kind == "array":
        out["t"], out["e"] = "a", convert(schema["items"])
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        out["t"], out["e"] = "m", convert(schema["additionalProperties"])
    else:
        out["t"] = TYPES[kind]
    for ours, theirs in (
        ("f", "format"),
        ("l", "x-kubernetes-list-type"),
        ("k", "x-kubernetes-list-map-keys"),
        ("pk", "x-kubernetes-patch-merge-key"),
        ("ps", "x-kubernetes-patch-strategy"),
        ("mt", "x-kubernetes-map-type"),
    ):
        if theirs in schema:
            out[ours] = schema[theirs]
    if "ps" in out:
        out["ps"] = out["ps"].split(",")
    return out


def attach(out, path, entry, messages, where, problems):
    """Adds the protobuf number and wire kind to a property, and checks that both sources agree."""
    out["g"] = path[0] if len(path) == 1 else path
    shape = {"a": "many", "m": "map"}.get(out.get("t"), "one")
    inner = out["e"] if shape != "one" else out
    kind = SCALARS.get(entry.kind, "m")
    if shape == "map" and inner.get("t") == "a" and kind == "m":
        # Protobuf has no map of lists; Kubernetes wraps each list in a message with one field.
        wrapper = messages[entry.message].fields
        if [(f.tag, f.kind, f.shape) for f in wrapper.values()] != [(1, "string", "many")]:
            problems.append(f"{where}: list wrapper `{entry.message}` is not understood")
        kind = "l"
    elif shape != entry.shape:
        problems.append(f"{where}: schema says {shape}, protobuf says {entry.shape}")
    elif (kind == "m") != ("r" in inner) or (kind == "m" and entry.message != key(inner["r"])):
        problems.append(f"{where}: schema says {inner}, protobuf says {entry.kind} {entry.message}")
    elif kind != "m":
        expected = {"s": "s", "i": "i", "b": "b", "n": "d"}.get(inner["t"])
        expected = "y" if inner.get("f") == "byte" else expected
        if kind != expected:
            problems.append(f"{where}: schema says {inner}, protobuf says {entry.kind}")
    out["w"] = kind


def definition(name, schema, messages, problems):
    """One definition in our keys, and what the protobuf message has beyond it."""
    out = {}
    kinds = schema.get("x-kubernetes-group-version-kind", [])
    if name == META + "DeleteOptions" or name == META + "Status":
        kinds = [k for k in kinds if k["group"] == "" and k["version"] == "v1"]
    if kinds:
        out["k"] = [[k["group"], k["version"], k["kind"]] for k in kinds]
    if name in SPECIAL:
        out["s"] = SPECIAL[name]
        if out["s"] in ("time", "micro-time"):
            out["f"] = "date-time"
        return out, []
    for ours, theirs in (("m", "x-kubernetes-map-type"), ("u", "x-kubernetes-unions")):
        if theirs in schema:
            out[ours] = schema[theirs]
    if schema.get("required"):
        out["q"] = sorted(schema["required"])
    properties = schema.get("properties", {})
    if key(name) not in messages and properties:
        problems.append(f"{name}: no protobuf message")
        return out, []
    found, unused = known_properties(messages, key(name), properties) if properties else ({}, [])
    out["p"] = {}
    for prop in sorted(properties):
        entry = out["p"][prop] = convert(properties[prop])
        where = f"{name}.{prop}"
        if prop in found:
            attach(entry, *found[prop], messages, where, problems)
        elif not (kinds and prop in ("apiVersion", "kind")):
            problems.append(f"{where}: no protobuf field ({entry})")
    tags = [json.dumps(p["g"]) for p in out["p"].values() if "g" in p]
    if len(tags) != len(set(tags)):
        problems.append(f"{name}: a field number is used twice")
    return out, unused


def references(entry):
    if isinstance(entry, dict):
        if isinstance(entry.get("r"), str):
            yield entry["r"]
        if "e" in entry:
            yield from references(entry["e"])


def roots(definitions):
    for name, schema in definitions.items():
        if any(name.startswith(prefix) for prefix in WHOLE) and not name.endswith("List"):
            if schema.get("x-kubernetes-group-version-kind"):
                yield name
    yield from SINGLE


def build(definitions, messages, problems, notes):
    table, descriptions = {}, {}
    waiting = sorted(set(roots(definitions)))
    while waiting:
        name = waiting.pop()
        if name in table:
            continue
        if name not in definitions:
            problems.append(f"{name}: no definition")
            continue
        schema = definitions[name]
        table[name], unused = definition(name, schema, messages, problems)
        notes += [f"{name}: protobuf field `{u}` has no property" for u in unused]
        for entry in table[name].get("p", {}).values():
            waiting.extend(references(entry))
        texts = {p: s["description"] for p, s in schema.get("properties", {}).items() if s.get("description")}
        if schema.get("description"):
            texts[""] = schema["description"]
        if texts:
            descriptions[name] = texts
    return table, descriptions


def write(path, entries):
    """JSON with one entry a line, so that a new Kubernetes level reads well as a diff."""

    def dump(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    lines = [f"{dump(name)}:{dump(value)}" for name, value in sorted(entries.items())]
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    path.write_bytes(data)
    return len(data)


def main():
    here = pathlib.Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pb", required=True, type=pathlib.Path, help="unpacked k8s-pb crate")
    parser.add_argument("--out", type=pathlib.Path, default=here.parents[2] / "crates/api/objects/data")
    parser.add_argument("--notes", action="store_true", help="also list protobuf fields without a property")
    arguments = parser.parse_args()

    import kubernetes_validate

    base = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    definitions = json.loads((base / f"{LEVEL}-local" / "_definitions.json").read_text())["$defs"]
    messages = read_messages(arguments.pb / "src")
    problems, notes = [], []
    table, descriptions = build(definitions, messages, problems, notes)
    if arguments.notes:
        print("\n".join(notes))
    if problems:
        print("\n".join(f"error: {p}" for p in problems), file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    kinds = sum(len(d.get("k", [])) for d in table.values())
    size = write(arguments.out / "schema.json", table)
    texts = write(arguments.out / "descriptions.json", descriptions)
    print(f"{len(table)} definitions, {kinds} kinds, {size} bytes; descriptions {texts} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
