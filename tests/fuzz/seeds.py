# Writes seeds for the fuzz targets. In: tests/vectors, a folder. Out: one file a seed in <folder>/<target>.
import hashlib
import json
import pathlib
import sys
import zlib

vectors = pathlib.Path(__file__).resolve().parent.parent / "vectors"
folder = pathlib.Path(sys.argv[1])


def seed(target, data):
    place = folder / target / hashlib.sha1(data).hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def frame(data):
    """A masked text frame, with a mask that changes nothing."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + data


compact = {"ensure_ascii": False, "separators": (",", ":")}
for case in json.loads((vectors / "ot/quill-delta.json").read_text())["cases"][:200]:
    lines = [json.dumps(case[name], **compact) for name in ("base", "a", "b")]
    seed("delta", "\n".join(lines).encode())
    edit = ["edit", {"documentId": "d", "version": 7, "ops": case["a"], "seq": 3, "session": "s"}]
    packet = f"421{json.dumps(edit, **compact)}".encode()
    seed("packets", packet)
    seed("frames", b"\x05" + frame(packet[:3000]))
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeezed = (squeezed.compress(packet[:3000]) + squeezed.flush(zlib.Z_SYNC_FLUSH))[:-4]
    seed("frames", b"\x07\xc1" + frame(squeezed)[1:])
for packet in ('40{"token":"t","clientId":"c"}', "41", '421["join-document",{"documentId":"d","as":"quill","version":1}]',
               '42["cursor-position",{"documentId":"d","position":{"index":1,"length":0}}]', "3", "2probe",
               '42["typing",{"documentId":"d","isTyping":true}]', '451-["x",{"_placeholder":true,"num":0}]'):
    seed("packets", packet.encode())
for data in (b"\x09\x89\x80\0\0\0\0", b"\x02\x88\x82\0\0\0\0\x03\xe8", b"\x01" + b"\x01\x81\0\0\0\0a" + b"\x80\x81\0\0\0\0b"):
    seed("frames", data)
