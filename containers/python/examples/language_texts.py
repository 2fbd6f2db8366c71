"""Makes the labelled texts for language_demo.py: fortune cookies in ten languages.

    python3 language_texts.py --out texts.json

Takes Debian's `fortunes` packages, one per language, as root or not: with package lists of its own,
nothing is installed. `--packages DIR` takes a folder of unpacked ones instead. A text is labelled
with its package's language, which is wrong for a few: the Czech package holds Slovak ones, and some
quote other languages.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {
    "en": "fortunes-min",
    "de": "fortunes-de",
    "es": "fortunes-es",
    "it": "fortunes-it",
    "pl": "fortunes-pl",
    "ru": "fortunes-ru",
    "cs": "fortunes-cs",
    "bg": "fortunes-bg",
    "pt": "fortunes-br",
    "zh": "fortunes-zh",
}
SHORTEST = 20
# What a terminal takes for colours.
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

SETTINGS = """\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def fetch(folder):
    """Unpacks the packages into `folder`, with apt's signatures to vouch for them."""
    for part in ("apt/lists/partial", "apt/cache/archives/partial", "debs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    settings = folder / "apt/apt.conf"
    settings.write_text(SETTINGS.format(folder=folder / "apt"))
    apt = ["apt-get", "--quiet", "--quiet", "--config-file", str(settings)]
    # A foreign source in the machine's list may fail while Debian's is well: the download tells.
    subprocess.run([*apt, "update"], check=False, stdout=sys.stderr)
    subprocess.run([*apt, "download", *PACKAGES.values()], check=True, cwd=folder / "debs", stdout=sys.stderr)
    for package in PACKAGES.values():
        (deb,) = (folder / "debs").glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(deb), str(folder / package)], check=True)


def cookies(tree):
    """All texts of an unpacked package, in one line each."""
    found = {}
    for path in sorted(tree.glob("usr/share/games/fortunes/**/*")):
        # Links name the same file again; .dat is the index of one; `off` holds the offensive ones.
        if path.is_symlink() or not path.is_file() or path.suffix == ".dat" or "off" in path.parts:
            continue
        text = ESCAPES.sub("", path.read_bytes().decode("utf-8", "replace"))
        for cookie in re.split(r"(?m)^%+\s*$", text):
            line = " ".join(cookie.split())
            if len(line) >= SHORTEST and "\ufffd" not in line:
                found[line] = None
    return list(found)


def make(packages, per_language, characters, seed):
    """`[text, label]` of every language, mixed."""
    choice = random.Random(seed)
    texts = []
    for label, package in PACKAGES.items():
        lines = cookies(packages / package)
        if len(lines) < per_language:
            sys.exit(f"{package} has {len(lines)} texts, {per_language} are needed (--per-language)")
        texts += [[line[:characters].strip(), label] for line in choice.sample(lines, per_language)]
    choice.shuffle(texts)
    return texts


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="unpacked packages, a folder of its name each")
    parser.add_argument("--per-language", type=int, default=500, metavar="N", help="texts (default 500)")
    parser.add_argument("--characters", type=int, default=40, metavar="N", help="length (default 40)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice (default 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skysail-fortunes-") as folder:
        packages = arguments.packages
        if packages is None:
            packages = Path(folder)
            try:
                fetch(packages)
            except (OSError, subprocess.CalledProcessError) as error:
                sys.exit(f"cannot fetch Debian's packages: {error}")
        texts = make(packages, arguments.per_language, arguments.characters, arguments.seed)
    arguments.out.write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{len(texts)} texts in {len(PACKAGES)} languages: {arguments.out}")


if __name__ == "__main__":
    main()
