"""Published folders of random records, written as reviewed entries are."""

import hashlib
import lzma

import msgspec

from cibench.results.record import Certificate
from cibench.submission.manifest import (
    MANIFEST,
    RECORDS,
    VERIFICATION,
    WITNESSES,
    Member,
)
from cibench.suites import load_suite
from leaderboard_samples import entry, record

SETTINGS = 'title = "Boards"\nowner = "An owner"\nlink = "https://example.org"\n'


def put(folder, loaded):
    """Write an entry into a published folder; its own folder."""
    place = folder / "entries" / loaded.manifest.name
    place.mkdir(parents=True)
    lines = [msgspec.json.encode(r, enc_hook=float) + b"\n" for r in loaded.records]
    packed = lzma.compress(b"".join(lines), preset=1)
    member = Member(sha256=hashlib.sha256(packed).hexdigest(), size=len(packed))
    files, verification = {RECORDS: member}, loaded.verification
    if verification.badge != "claimed":
        files[f"{WITNESSES}x.safetensors"] = member
        verification = msgspec.structs.replace(
            verification, witnesses=1, replayed=1,
            reran=int(verification.badge == "reproduced"),
        )  # fmt: skip
    manifest = msgspec.structs.replace(loaded.manifest, files=files)
    (place / RECORDS).write_bytes(packed)
    (place / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    (place / VERIFICATION).write_bytes(msgspec.json.encode(verification))
    return place


def suite_entries(n=20):
    """Three entries that face the standard suite, and one with an attack beyond it.

    Attacks of the suite break every fifth sample or so; the attack beyond it, on one of
    three, every second.
    """
    suite = load_suite("standard")
    attacks = [scenario.attack for scenario in suite.scenarios]
    labels = [0, 0, 1] * n
    common = {"labels": labels[:n], "certificates": []}

    def records(defense, attack, nth):
        right = [attack == "none" or at % nth > 0 for at in range(n)]
        proof = Certificate(kind="agents", confidence=1.0, radius=[1.0, 2.0] * (n // 2))
        proved = attack == "none" and defense.startswith("randomized-ablation")
        changes = {**common, "certificates": [proof] if proved else []}
        return [
            record(defense, attack, s, right, **changes) for s in range(suite.seeds)
        ]

    found = []
    for at, defense in enumerate(("none", "copur", "randomized-ablation:keep=2")):
        own = [r for attack in attacks for r in records(defense, attack, 4 + at)]
        found.append(entry(f"e{at}", own, badge="re-scored"))
    beyond = records("copur", "mimic:agents=random:1,steps=9", 2)
    found.append(entry("stronger", beyond, author="Eve", created="2030-02-02"))
    return found


def published(folder, entries=None):
    """A folder with settings and entries, nothing generated."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leaderboard.toml").write_text(SETTINGS, encoding="utf-8")
    for loaded in suite_entries() if entries is None else entries:
        put(folder, loaded)
    return folder


def tree(folder):
    """Every generated file's bytes."""
    places = ["README.md", "boards/*", "figures/*", "site/*"]
    files = [path for place in places for path in sorted(folder.glob(place))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
