"""What the tests cost, by the commits between which they came.

    pytest -n 2 --junitxml=times.xml
    python benchmarks/test_time.py times.xml BEFORE COMMIT ... HEAD

A test came with the first of the commits, in the order given, whose tests hold its function; one of a
page, a notebook, a task or a command with the first that holds that. Seconds are those of one process.
"""

import argparse
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import PurePath

OF_DOCUMENTS = ("test_docs", "test_notebooks", "test_tasks")


def git(*args: str) -> str:
    return subprocess.run(["git", *args], capture_output=True, text=True, check=False).stdout


class Snapshot:
    """The names of tests and documents at a commit."""

    def __init__(self, commit: str) -> None:
        self.commit = commit
        found = git("grep", "-h", "-o", "-E", r"def test_\w+", commit, "--", "tests")
        self.functions = set(found.replace("def ", "").split())
        self.documents = {
            PurePath(p).stem for p in git("ls-tree", "-r", "--name-only", commit).split()
        }
        self.shell = git("grep", "-h", "-E", "lens-audio|python ", commit, "--", "*.md")

    def has(self, file: str, name: str) -> bool:
        function, _, parameter = name.partition("[")
        subject = parameter.rstrip("]")
        if file in OF_DOCUMENTS and subject:
            return PurePath(subject).stem in self.documents or subject in self.shell
        return function in self.functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", help="what --junitxml wrote")
    parser.add_argument("commits", nargs="+", help="in order; the first stands for all before it")
    parser.add_argument("--files", type=int, default=0, help="show so many files of each")
    args = parser.parse_args()
    snapshots = [Snapshot(commit) for commit in args.commits]
    spent: dict[str, Counter[str]] = {s.commit: Counter() for s in snapshots} | {"later": Counter()}
    for case in ET.parse(args.times).iter("testcase"):
        path, name = case.get("classname", ""), case.get("name", "")
        file = path.rpartition(".")[2]
        came = next((s.commit for s in snapshots if s.has(file, name)), "later")
        place = path if file not in OF_DOCUMENTS else path + "[" + name.partition("[")[2]
        spent[came][place] += float(case.get("time", 0))
    for commit, files in spent.items():
        print(f"{commit}: {sum(files.values()):.0f} s in {len(files)} files")
        for file, seconds in files.most_common(args.files):
            print(f"    {seconds:6.1f} s  {file}")


if __name__ == "__main__":
    main()
