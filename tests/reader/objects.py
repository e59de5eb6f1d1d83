"""The table in section 1 of docs/format.md: which names there are, and records that nothing else here reads."""

import re

from errors import Broken, need

ID, U32, U64 = "[0-9a-f]{32}", "[0-9a-f]{8}", "[0-9a-f]{16}"
NAMES = [
    "repo/descriptor",
    "repo/region",
    "repo/domain/[^/]+/[1-9][0-9]*",
    "repo/recipients/[1-9][0-9]*",
    f"repo/verified/[^/]+/{ID}\\.{ID}\\.{ID}\\.{ID}-{U32}",
    f"meta/{ID}/source",
    f"meta/{ID}/leans/{ID}",
    f"meta/{ID}/keys/{ID}(\\.[1-9][0-9]*)?",
    f"meta/{ID}/open/{ID}",
    f"meta/{ID}/snap/{ID}\\.{ID}",
    f"meta/{ID}/snap/{ID}\\.{ID}\\.(committed|deleted)",
    f"meta/{ID}/moved/(data|meta)-{ID}-{U32}\\.{ID}",
    f"meta/{ID}/losses",
    f"meta/{ID}/lost/{ID}-{U32}\\.{ID}",
    f"meta/{ID}/gc/{ID}(\\.decided)?",
    f"meta/{ID}/pack/{ID}-{U32}",
    f"data/{ID}/pack/{ID}-{U32}",
    f"meta/{ID}/stream/{U32}\\.{ID}",
    f"meta/{ID}/over/{U32}\\.{ID}",
    f"data/{ID}/log/{U32}\\.{ID}/{U32}-{U64}-{U64}",
    f"meta/{ID}/tail/{U32}\\.{ID}/{U32}-{U64}-{U64}",
    f"meta/{ID}/tail/{U32}\\.{ID}/{U32}-({U64})-\\1-{U64}",
    f"meta/{ID}/history/{U32}",
    "repo/(gc|audit|history)/.*",
    f"meta/{ID}/hold/{ID}\\.{ID}",
]


def check_objects(region):
    """Every object has a name of the table, and every intent, key and history can be read; how many objects."""
    names, readers = region.names(""), {"open": open_record, "keys": session_keys, "history": history, "over": over}
    for name in names:
        need(any(re.fullmatch(pattern, name) for pattern in NAMES), f"{name}: a name that docs/format.md does not have")
        parts = name.split("/")
        if parts[0] == "meta" and parts[2] in readers:
            readers[parts[2]](region, name, parts[1], parts[3])
    return len(names)


def open_record(region, name, source, session):
    record = region.record(name, source, 3)
    need(record["session"] == session, f"{name}: the intent of another session")
    keys = [key.split("/")[3].split(".")[0] for key in region.names(f"meta/{source}/keys/")]
    need(session in keys, f"{name}: its session has no keys")


def session_keys(region, _name, source, session):
    region.session_secret(source, session.split(".")[0])


def over(region, name, source, writer):
    record = region.record(name, source, 16)
    need(f"{record['generation']:08x}.{record['session']}" == writer, f"{name}: it speaks of another writer")


def history(region, name, source, branch):
    record = region.record(name, source, 7)
    need(record["branch"] == int(branch, 16) and record["parent"] < record["branch"], f"{name}: the history of another branch")
    try:
        bytes.fromhex(record["text"])
    except ValueError:
        raise Broken(f"{name}: its text is not hex") from None
