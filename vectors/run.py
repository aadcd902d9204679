#!/usr/bin/env python3
"""Checks the vectors of this folder: `python3 run.py [FILE.json ...]`.

Needs Python 3.9 and the `openssl` program, nothing else. Cases that name a file of public data are skipped unless the
environment variable CVM_PUBLIC_DATA names the folder of those files.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # leaves no caches in the tree

from reference import openssl, operations

FORMAT, VERSION = "cvm-sev-vectors", 1


class NeedsPublicData(Exception):
    """A case names a file of public data, and there is no folder of such files."""


class Fields:
    """The input of a case: plain values by index, bytes by `bytes`."""

    def __init__(self, values, blobs):
        self.values, self.blobs = values, blobs

    def __contains__(self, name):
        return name in self.values

    def __getitem__(self, name):
        return self.values[name]

    def fields(self, name):
        return Fields(self.values[name], self.blobs)

    def list(self, name):
        return [Fields(item, self.blobs) for item in self.values[name]]

    def integer(self, name):
        return int.from_bytes(self.bytes(name), "big")

    def bytes(self, name):
        value = self.values[name]
        if isinstance(value, str):
            return bytes.fromhex(value)
        if "file" in value:
            return public_file(value["file"], value["sha256"])
        data = bytearray.fromhex(self.blobs[value["blob"]])
        if "length" in value:
            data = data[: value["length"]].ljust(value["length"], b"\x00")
        for patch in value.get("patch", []):
            new = bytes.fromhex(patch["hex"])
            if patch["at"] + len(new) > len(data):
                raise ValueError(f"{name}: patch at {patch['at']}: expected it inside {len(data)} bytes")
            data[patch["at"] : patch["at"] + len(new)] = new
        return bytes(data)


def public_file(path, sha256):
    folder = os.environ.get("CVM_PUBLIC_DATA")
    if not folder:
        raise NeedsPublicData
    data = Path(folder, path).read_bytes()
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise ValueError(f"{path}: expected SHA-256 {sha256}, got {got}")
    return data


def short(value):
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def differences(expected, got):
    for field in sorted(set(expected) | set(got)):
        if expected.get(field) != got.get(field):
            yield f"{field}: expected {short(expected.get(field))}, got {short(got.get(field))}"


def check_case(operation, case, blobs):
    """One line for each thing that is wrong."""
    try:
        got = operations.run(operation, Fields(case["input"], blobs))
        return list(differences(case["expect"], got))
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError, struct.error, subprocess.SubprocessError) as error:
        return [f"input: expected a case that can be run, got {type(error).__name__}: {error}"]


def check_file(path, counts):
    vectors = json.loads(path.read_text(encoding="utf-8"))
    head = (vectors.get("format"), vectors.get("version"))
    operation, seen = vectors.get("operation"), set()
    if head != (FORMAT, VERSION) or operation not in operations.OPERATIONS:
        yield f"{path.name}: expected {FORMAT} {VERSION} of a known operation, got {head[0]} {head[1]} of {operation}"
        counts["failed"] += 1
        return
    for case in vectors["cases"]:
        try:
            wrong = check_case(operation, case, vectors.get("blobs", {}))
        except NeedsPublicData:
            counts["skipped"] += 1
            continue
        if case["id"] in seen:
            wrong.append(f"id: expected one that is not taken, got {case['id']}")
        seen.add(case["id"])
        counts["failed" if wrong else "passed"] += 1
        yield from (f"{path.name} {case['id']}: {line}" for line in wrong)


def main(arguments):
    if openssl.available() is None:
        print("openssl: expected the program on the path, got none")
        return 1
    paths = [Path(name) for name in arguments] or sorted(Path(__file__).parent.glob("sev/*.json"))
    counts = {"passed": 0, "skipped": 0, "failed": 0}
    for path in paths:
        for line in check_file(path, counts):
            print(line)
    if counts["skipped"]:
        print(f"{counts['skipped']} cases need files of public data: set CVM_PUBLIC_DATA to their folder")
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 0 if counts["failed"] == 0 and counts["passed"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
