"""A report: the scores of several encoders on several sets, with 95 % intervals and the paired difference to one of them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sslzoo.evaluate.score import Comparison, Score, compare

ABOUT = (
    "In %, with 95 % intervals over the test images (Wilson's, its longer side; mAP11: over the classes). In brackets: the "
    "paired difference to {reference} on the same images; “no difference” where its 95 % interval includes zero, which where "
    "fewer than 25 differ is so by McNemar's exact test. Each interval is for its own comparison: of twenty between equal "
    "encoders, one leaves out zero by chance."
)
STYLE = """body{font:15px system-ui,sans-serif;margin:24px;color:#222;background:#fff}table{border-collapse:collapse;
margin:8px 0 24px}
th,td{border:1px solid #ccc;padding:4px 10px;text-align:left}th{background:#f2f2f2}h2{font-size:17px}p,li{max-width:70em}"""


@dataclass(frozen=True)
class Report:
    """Scores by probe, set and encoder; `encoders` says how each one's features came about; `reference` is compared with.

    `left_out` are sets that could not be judged, each with the reason.
    """

    scores: Mapping[str, Mapping[str, Mapping[str, Score]]]
    encoders: Mapping[str, str]
    reference: str
    left_out: Mapping[str, str] = field(default_factory=dict)

    def comparison(self, probe: str, name: str, encoder: str) -> Comparison | None:
        """The encoder's difference to the reference on a set; None for the reference itself."""
        found = self.scores[probe][name]
        return None if encoder == self.reference else compare(found[encoder], found[self.reference])

    def to_dict(self) -> dict[str, Any]:
        """Everything that is shown, for programs."""
        results = []
        for probe, sets in self.scores.items():
            for name, by_encoder in sets.items():
                for encoder, score in by_encoder.items():
                    entry = {"encoder": encoder, "set": name, "probe": probe, **score.to_dict()}
                    if found := self.comparison(probe, name, encoder):
                        entry["difference"] = found.difference
                        entry["difference_interval95"], entry["differs"] = found.interval, found.differs
                    results.append(entry)
        judged = {"reference": self.reference, "encoders": dict(self.encoders), "results": results}
        return judged | ({"left_out": dict(self.left_out)} if self.left_out else {})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """One table a probe: a row an encoder, a column a set."""
        out = [ABOUT.format(reference=self.reference), ""]
        for title, rows in self._tables():
            lines = ["| " + " | ".join(row) + " |" for row in rows]
            out += [f"## {title}", "", lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]
        return "\n".join([*out, *(f"- {line}" for line in self._protocols())]) + "\n"

    def to_html(self) -> str:
        """The same as a page that asks nothing of the network."""
        out = [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>Evaluation</title><style>{STYLE}</style><p>{html.escape(ABOUT.format(reference=self.reference))}</p>",
        ]
        for title, rows in self._tables():
            head, *body = ([html.escape(cell) for cell in row] for row in rows)
            out += [f"<h2>{html.escape(title)}</h2><table><tr><th>" + "<th>".join(head)]
            out += ["<tr><td>" + "<td>".join(row) for row in body] + ["</table>"]
        return "\n".join([*out, "<ul>", *(f"<li>{html.escape(line)}" for line in self._protocols()), "</ul></html>\n"])

    def _tables(self) -> Iterator[tuple[str, list[list[str]]]]:
        for probe, sets in self.scores.items():
            rows = [["encoder", *sets]]
            for encoder in self.encoders:
                rows.append([encoder, *(self._cell(probe, name, encoder) for name in sets)])
            # where k is cut to the number of training images
            k = re.search(r"k=\d+,", probe)
            cut = k and any(k[0] not in score.protocol for of in sets.values() for score in of.values())
            yield f"{probe} (k: all training images, where these are fewer)" if cut else probe, rows

    def _cell(self, probe: str, name: str, encoder: str) -> str:
        score, found = self.scores[probe][name][encoder], self.comparison(probe, name, encoder)
        # rounded first, as everywhere: 137 of 400 is 34.25 %, in floating point a little more or less by the way it was summed
        text = f"{100 * round(score.value, 6):.1f} ± {100 * round(score.interval(), 6):.1f}"
        if found is None:
            return text
        return f"{text} ({found})" if found.differs else f"{text} (no difference)"

    def _protocols(self) -> Iterator[str]:
        for sets in self.scores.values():
            for name, by_encoder in sets.items():
                score = next(iter(by_encoder.values()))
                failed = sum(len(each.failures) for each in (score.train, score.test) if each)
                yield (
                    f"{name}: {score.protocol}; training set {score.train}, test set {score.test} (hash/images)"
                    + (f"; {failed} more can't be read" if failed else "")
                )
        yield from (
            f"{name}, {encoder}, {probe}: {score.doubt}"
            for probe, sets in self.scores.items()
            for name, by_encoder in sets.items()
            for encoder, score in by_encoder.items()
            if score.doubt
        )
        yield from (f"{encoder}: {features}" for encoder, features in self.encoders.items())
        yield from (f"{name} is left out: {reason}" for name, reason in self.left_out.items())
