#!/usr/bin/python3
"""Reads a Breakwater repository with nothing but docs/format.md at hand.

This program was written from that page alone and shares no code with Breakwater. It is how the page is proven: what it
cannot read here, a stranger could not read either. It only ever reads the region, believes nothing that is not
authenticated, and ends with an error rather than with bytes that it could not verify.

It needs Debian's python3-cryptography and python3-zstandard. Reading order: crypto, region, objects, packs, snapshots,
streams.
"""

import argparse
import json
import os
import sys

sys.dont_write_bytecode = True

from errors import Broken
from objects import check_objects
from packs import check_packs
from region import Region
from snapshots import check_snapshots, find_snapshot, list_snapshots, restore
from streams import check_streams, read_log


def run_list(region, _words):
    for snapshot in list_snapshots(region):
        print(json.dumps(snapshot, sort_keys=True))


def run_restore(region, words):
    region.need_content()
    entries, size = restore(region, find_snapshot(region, words.snapshot), words.target)
    print(json.dumps({"entries": entries, "bytes": size}))


def run_log(region, words):
    region.need_content()
    with open(words.out, "xb") as out:
        try:
            pieces = read_log(region, words.source, words.branch, words.start, words.end, out)
        except BaseException:
            os.remove(words.out)
            raise
    print(json.dumps({"bytes": words.end - words.start, "pieces": pieces}))


def run_check(region, _words):
    region.need_content()
    found = {"objects": check_objects(region), "packs": check_packs(region)}
    found.update(check_snapshots(region))
    found.update(check_streams(region))
    print(json.dumps(found, sort_keys=True))


def arguments():
    parser = argparse.ArgumentParser(description="Read a Breakwater repository by its published format.")
    parser.add_argument("region", metavar="REGION_DIR", help="the directory that holds the region's objects")
    parser.add_argument("key", metavar="KEYFILE", help="a recipient key; a writer key is enough for `list`")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one JSON line for every snapshot").set_defaults(run=run_list)
    words = commands.add_parser("restore", help="write a snapshot's files into an empty or missing directory")
    words.add_argument("snapshot", metavar="SNAPSHOT")
    words.add_argument("target", metavar="TARGET")
    words.set_defaults(run=run_restore)
    words = commands.add_parser("log", help="write the log bytes from START up to END, which may be decimal or 0x hex")
    words.add_argument("source", metavar="SOURCE", help="the source's uid")
    for name in ("branch", "start", "end"):
        words.add_argument(name, metavar=name.upper(), type=lambda text: int(text, 0))
    words.add_argument("out", metavar="OUT", help="a file that is not there yet")
    words.set_defaults(run=run_log)
    commands.add_parser("check", help="read and verify every object, snapshot and stream").set_defaults(run=run_check)
    return parser.parse_args()


def main():
    words = arguments()
    try:
        words.run(Region(words.region, words.key), words)
    except (Broken, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (LookupError, TypeError, ValueError) as error:
        print(f"error: a field is missing or is not what docs/format.md says: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
