"""The Hub's ids of licenses, which a card must use (https://huggingface.co/docs/hub/repositories-licenses)."""

from __future__ import annotations

import difflib
import re
import sys

from sslzoo.errors import InputError
from sslzoo.spec import EncoderSpec

NOT_STATED = ("", "not stated", "unknown")  # what `push` refuses
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
    cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
    lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
    ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unlicense wtfpl zlib
    """.split()
)


def tell(spec: EncoderSpec) -> None:
    """Names a license that restricts the use of the weights, on stderr: said when they are first downloaded."""
    if not spec.permissive:
        print(f"{spec.name}: license {spec.license or 'not stated'}. {spec.license_note}".rstrip(), file=sys.stderr)


def license_id(text: str) -> str:
    """The Hub's id of a license as somebody wrote it ("MIT"); "" and "not stated" stay. Raises InputError with near ids."""
    if text.lower() in (*NOT_STATED, *LICENSES):
        return text.lower()
    written = re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")
    near = [written] if written in LICENSES else difflib.get_close_matches(written, sorted(LICENSES), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "write one such as apache-2.0 or cc-by-nc-4.0, or: other"
    raise InputError(f"license {text!r} is no license id of the Hub; {hint}")
