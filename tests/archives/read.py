"""Prints what Python's tarfile finds in an archive, a JSON object for each member; names and values as hex."""
import hashlib, json, os, sys, tarfile
from decimal import Decimal

BLOCK = 4096
hexed = lambda text: os.fsencode(text).hex()


def value(text):
    # tarfile decodes records as UTF-8, and what is none byte by byte.
    return text.encode("utf-8", "surrogateescape").hex()


def digest(archive, member):
    if not member.isreg():
        return None
    content, sha = archive.extractfile(member), hashlib.sha256()
    runs = member.sparse if member.sparse is not None else [(0, member.size)]
    for start, length in runs:
        content.seek(start)
        for at in range(start, start + length, BLOCK):
            block = content.read(min(BLOCK, start + length - at))
            # The last block of a run that ends within one is filled up by the hole behind it.
            block += bytes(min(BLOCK, member.size - at) - len(block))
            if block.strip(b"\0"):
                sha.update(at.to_bytes(8, "little"))
                sha.update(block)
    return sha.hexdigest()


with tarfile.open(sys.argv[1], errors="surrogateescape") as archive:
    for member in archive:
        records = member.pax_headers
        mtime = Decimal(records.get("mtime", member.mtime)) * 10**9
        print(json.dumps({
            "path": hexed(member.name),
            "type": member.type.decode(),
            "sparse": member.sparse is not None,
            "mode": member.mode,
            "uid": member.uid,
            "gid": member.gid,
            "uname": hexed(member.uname),
            "gname": hexed(member.gname),
            "size": member.size,
            "mtime": str(int(mtime)),
            "link": hexed(member.linkname),
            "major": member.devmajor,
            "minor": member.devminor,
            "records": {key: value(text) for key, text in records.items() if key.startswith(("SCHILY.", "RHT."))},
            "digest": digest(archive, member),
        }))
