#!/usr/bin/env python3
"""Tests of setup.py that need no network: `python3 models/test_setup.py`."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "reference"))
sys.dont_write_bytecode = True

import manifest  # noqa: E402
import setup  # noqa: E402


class Sandbox(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.cache = Path(self.folder.name)
        self.kept = setup.CACHE, setup.DOWNLOADS, setup.TMP, setup.sources, setup.pip
        setup.CACHE, setup.DOWNLOADS, setup.TMP = self.cache, self.cache / "downloads", self.cache / "tmp"
        setup.DOWNLOADS.mkdir()

    def tearDown(self):
        setup.CACHE, setup.DOWNLOADS, setup.TMP, setup.sources, setup.pip = self.kept

    def pin(self, sha256):
        entry = {"registry": "pypi", "package": "thing", "version": "1", "file": "thing.whl", "sha256": sha256}
        setup.sources = lambda: {"thing": entry}

    def wheel(self, content):
        path = setup.DOWNLOADS / "thing.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("thing/data", content)
        return path

    def test_a_wrong_hash_names_file_expected_and_found(self):
        found = setup.sha256(self.wheel(b"other"))
        self.pin("0" * 64)
        with self.assertRaises(setup.SetupError) as caught:
            setup.fetch("thing")
        for part in ("thing.whl", "0" * 64, found):
            self.assertIn(part, str(caught.exception))

    def test_what_is_there_is_not_fetched_again(self):
        path = self.wheel(b"right")
        self.pin(setup.sha256(path))
        setup.pip = None  # any use of the registry would fail
        self.assertEqual(setup.fetch("thing"), path)

    def test_extract_leaves_no_half_file(self):
        path = self.wheel(b"right")
        with self.assertRaises(KeyError):
            setup.extract(path, "thing/absent", self.cache / "out")
        self.assertFalse((self.cache / "out").exists())
        self.assertEqual(list(setup.TMP.iterdir()), [])
        setup.extract(path, "thing/data", self.cache / "out")
        self.assertEqual((self.cache / "out").read_bytes(), b"right")

    def test_exchange_replaces_a_folder_that_is_in_use(self):
        place, fresh = self.cache / "pack", self.cache / "fresh"
        for folder, text in ((place, "old"), (fresh, "new")):
            folder.mkdir()
            (folder / "file").write_text(text)
        with open(place / "file") as reader:
            setup.exchange(fresh, place)
            self.assertEqual(reader.read(), "old")
        self.assertEqual((place / "file").read_text(), "new")

    def test_a_stamp_holds_for_its_key_and_result_only(self):
        result = self.cache / "result"
        result.write_text("made")
        setup.stamp("step", "key")
        self.assertTrue(setup.stamped("step", "key", result))
        self.assertFalse(setup.stamped("step", "other key", result))
        result.unlink()
        self.assertFalse(setup.stamped("step", "key", result))


class Files(unittest.TestCase):
    def test_every_source_is_pinned(self):
        for key, source in setup.sources().items():
            self.assertRegex(source["sha256"], r"^[0-9a-f]{64}$", key)
            self.assertTrue(source["version"] and source["licence"], key)
            self.assertIn(source["registry"], ("pypi", "npm", "debian"), key)

    def test_every_requirement_is_pinned_and_hashed(self):
        for name in ("requirements.txt", "requirements-bench.txt", "requirements-test.txt"):
            text = (HERE / name).read_text().replace("\\\n", " ")
            for line in text.splitlines():
                if line and not line.startswith("#"):
                    self.assertTrue(re.fullmatch(r"\S+==\S+( ; [^-]+)?(\s+--hash=sha256:[0-9a-f]{64})+", line.strip()), line)

    def test_an_unknown_step_is_an_error(self):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, str(HERE / "setup.py"), "nonsense"],
                env=dict(os.environ, ATOM_CACHE=cache), capture_output=True, text=True, check=False,
            )
        self.assertEqual(done.returncode, 1)
        self.assertIn("nonsense", done.stderr)

    def test_a_peer_without_its_packages_names_the_set_up(self):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, str(HERE / "peer_search.py"), "{}"],
                env=dict(os.environ, ATOM_CACHE=cache), capture_output=True, text=True, check=False,
            )
        self.assertEqual(done.returncode, 1)
        self.assertIn("python3 models/setup.py bench", done.stderr)

    def test_the_manifest_reads_back(self):
        try:
            import tomllib
        except ImportError:
            self.skipTest("tomllib came with Python 3.11")
        reference = {"file": "a.onnx", "sha256": "00", "bytes": 1}
        pack = {
            "schema": 1,
            "licence": 'odd "quotes" \\ and ü',
            "tasks": {"search": {"query_template": "a {}", "min_score": 0.3}},
            "captioner": {"kind": "grounded", "files": {"taxonomy": reference}, "options": {"wording": "likeliest"}},
            "modules": [{"id": "m", "model": reference, "data": [reference], "preprocess": {"views": [{"fit": "crop", "fraction": 0.875}]}, "options": {"qnn": {"soc_model": 69}}}],
        }
        read = tomllib.loads(manifest.render(pack))
        expected = dict(pack, module=pack["modules"])
        del expected["modules"]
        self.assertEqual(json.dumps(read, sort_keys=True), json.dumps(expected, sort_keys=True))


if __name__ == "__main__":
    unittest.main()
