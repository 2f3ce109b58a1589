"""File names as text: bytes in any encoding, or none, written so that they can be had back."""


def escape_path(name: bytes) -> str:
    """A file name as text, reversibly: bytes that are no UTF-8 become \\xNN, a backslash becomes two."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def unescape_path(text: str) -> bytes:
    """The bytes that `escape_path` was given."""
    out, position, raw = bytearray(), 0, text
    while (found := raw.find("\\", position)) >= 0:
        out += raw[position:found].encode()
        if raw[found + 1] == "\\":
            out += b"\\"
            position = found + 2
        else:
            out.append(int(raw[found + 2 : found + 4], 16))
            position = found + 4
    return bytes(out + raw[position:].encode())
