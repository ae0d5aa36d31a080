"""Why a file is not an image that can be read, told by its first bytes: what it is instead, or where it ends too early."""

from __future__ import annotations

HEAD = 512  # bytes that are looked at
SHOWN = 40  # letters of a text in a reason

#: what is not an image: the first bytes (at their place) and a name
OTHERS = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive (or an office document)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x00\x00\x01\xba", "a video (MPEG)"),
    (0, b"FLV\x01", "a video (FLV)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"OggS", "sound or a video (Ogg)"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document or Thumbs.db"),
    (0, b"\x00\x05\x16\x07", "a side file of macOS (AppleDouble)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)
#: images, but in a format that Pillow doesn't read
UNREAD = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"gimp xcf", "GIMP's XCF"),
    (128, b"DICM", "DICOM"),
    (0, b"FUJIFILMCCD-RAW", "Fuji's raw format"),
    (0, b"IIRO", "Olympus' raw format"),
    (0, b"IIU\x00", "Panasonic's raw format"),
    (4, b"ftypcrx ", "Canon's raw format"),
)
#: formats that Pillow reads, so that a file which begins so and isn't recognised is damaged or cut off
READ = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"DDS ", "DDS"),
    (0, b"8BPS", "PSD"),
    (0, b"qoif", "QOI"),
    (0, b"BM", "BMP"),
)


def unknown(head: bytes, size: int) -> str:
    """What a file is that no decoder takes for its own, by its first `HEAD` bytes and its size."""
    if not size:
        return "an empty file (0 bytes)"
    if kind := _named(head, UNREAD):
        return f"{kind}, which is not read here; save it as PNG or JPEG"
    if kind := _named(head, OTHERS):
        return f"not an image but {kind}"
    if kind := _named(head, READ):
        return f"begins as {kind} does, but its header is damaged, cut off or of an unknown kind ({size:,} bytes)"
    if head[4:8] == b"ftyp" and len(head) >= 12:  # ISO 14496-12; its image formats are among those above
        return "not an image but a video (MP4 or QuickTime)"
    if not any(head):
        return f"not an image: it begins with {len(head)} zero bytes"
    if text := _text(head):
        return text
    return f"not an image that can be read (it begins with the bytes {head[:8].hex(' ')})"


def truncated(head: bytes, size: int, error: Exception, *, opened: bool) -> str | None:
    """Where a file ends too early, if that is why it can't be decoded: `opened` tells that its header was read."""
    if head[:4] == b"RIFF" and (stated := int.from_bytes(head[4:8], "little") + 8) > size:  # WebP says how long it is
        return f"truncated: the file ends after {size:,} of {stated:,} bytes"
    said = str(error).lower()
    # in the words of Pillow's plugins
    if isinstance(error, EOFError) or any(
        words in said
        for words in ("truncated", "eof", "incomplete header", "not enough image data", "insufficient input")
    ):
        return f"truncated: {'the picture' if opened else 'its header'} is not whole in the file's {size:,} bytes"
    return None


def _named(head: bytes, kinds: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for at, magic, name in kinds if head[at : at + len(magic)] == magic), None)


def _text(head: bytes) -> str | None:
    """What kind of text it is; None where it is none."""
    try:
        text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # a letter is cut where the head ends
            return None
        text = head[: error.start].decode("utf-8-sig", "replace")
    text = text.strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    begin = text.lower()
    if begin.startswith("version https://git-lfs"):
        return "not an image but a pointer of Git LFS; fetch the image: git lfs pull"
    if begin.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "not an image but HTML, such as a web server's error page"
    if "<svg" in begin:
        return "SVG holds drawing commands, which are not run; save it as PNG"
    return f"not an image but text: {text.splitlines()[0][:SHOWN]!r}"
