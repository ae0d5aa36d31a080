"""The generated parts of the README and the site; `python -m tests.generated` writes them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from benchmarks import __main__ as results
from sslzoo import registry
from sslzoo.cli import app
from sslzoo.cli.examples import EXAMPLES
from sslzoo.cli.options import percent

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"

# The drawings' own style sheet: as the demo's, for a file that stands alone.
DRAWING_STYLE = """
text { font: italic 15px Georgia, 'Times New Roman', serif; text-anchor: middle; fill: #1f2937; }
text.small, text.note { font: 12px system-ui, sans-serif; } text.note { fill: #6b7280; } text.start { text-anchor: start; }
.sub { font-size: 10px; } .symbol { fill: none; }
.arrow { fill: none; stroke: #6b7280; stroke-width: 1.4; marker-end: var(--tip); } .arrow.plain { marker-end: none; }
.arrow.follows { stroke-dasharray: 4 4; } .arrow.loss { stroke: #e11d48; stroke-dasharray: 2 3; }
marker path { fill: #6b7280; } .cut { fill: none; stroke: #e11d48; stroke-width: 2.2; }
.encoder { fill: #0d948833; stroke: #0d9488; } .projector { fill: #2563eb33; stroke: #2563eb; }
.predictor { fill: #7c3aed33; stroke: #7c3aed; } .follower { fill: #64748b22; stroke: #64748b; stroke-dasharray: 4 3; }
.queue { fill: #fbe6cc; stroke: #d97706; } rect.loss { fill: #e11d4822; stroke: #e11d48; }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb; } text.note { fill: #9ca3af; } .queue { fill: #4a3417; } }
"""


def help_text():
    """The program's own help."""
    run = [sys.executable, "-m", "sslzoo", "--help"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PATH": ""})
    return f"```text\n{done.stdout.strip()}\n```\n"


def commands():
    """Every command of the program with its path, in the order of the help."""

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield [*path, name], child
            yield from walk(child, [*path, name])

    yield from walk(get_command(app), [])


def command_pages():
    """Every command with its arguments and options; laid out here, since typer's own layout changes with its versions."""
    parts = []
    for path, command in commands():
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            is_option = parameter.opts[0].startswith("-")
            metavar = parameter.metavar or ("" if is_option else parameter.name.upper())
            name = ", ".join(f"`{o}`" for o in parameter.opts) if is_option else ""
            name = " ".join(filter(None, [name, metavar and f"`{metavar}`"]))
            facts = [(getattr(parameter, "help", None) or "").replace("|", "\\|")]
            if is_option and parameter.default not in (None, False, "", ...) and not parameter.required:
                facts.append(f"Default: `{parameter.default}`.")
            rows.append(f"| {name} | {' '.join(filter(None, facts))} |")
        table = "\n".join(["| argument or option | |", "|---|---|", *rows]) + "\n" if rows else ""
        words = " ".join((command.help or "").split())
        lines = EXAMPLES.get(" ".join(path))
        shown = "\n```console\n" + "\n".join(lines) + "\n```\n" if lines else ""
        parts.append(f"## {' '.join(path)}\n\n{words}\n\n{table}{shown}")
    return "\n".join(parts)


def zoo_table():
    """Every known encoder, a row each."""
    rows = ["| name | method | backbone | epochs | linear top-1 | license |", "|---|---|---|---|---|---|"]
    for s in registry.known().values():
        epochs, top1 = (f"{v:g}" if v else "" for v in (s.epochs, s.linear_top1 and round(100 * s.linear_top1, 1)))
        rows.append(f"| `{s.name}` | {s.method} | {s.backbone} | {epochs} | {top1} | {s.license} |")
    return "\n".join(rows) + "\n"


def default_table(names=()):
    """What the bare names stand for, and the best permissive encoder under the same name."""
    rows = [
        "| name | stands for | linear | license | with `--license permissive` | linear |",
        "|---|---|---|---|---|---|",
    ]
    for s in (s for s in registry.known().values() if s.default):
        bare = s.name.partition(".")[0]
        if names and bare not in names:
            continue
        try:
            free = registry.resolve(bare, license="permissive")
        except registry.UnknownModel:
            free = None
        cells = [f"`{bare}`", f"`{s.name}`", percent(s.linear_top1), s.license]
        cells += [f"`{free.name}`", percent(free.linear_top1)] if free else ["none", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def name_table():
    """The same for the five methods' ResNet-50 and the encoder inside the package: what a README has room for."""
    five = ("simclr-r50", "mocov2-r50", "byol-r50", "simsiam-r50", "swav-r50", "simclr-r18")
    return default_table(five)


def _probe(score):
    return "linear" if "linear" in score.protocol else "kNN"


def score_table():
    """The scores of the encoder inside the package: kNN at k=20, and the linear probe."""
    rows = ["| data | | this encoder | random weights | raw pixels |", "|---|---|---|---|---|"]
    for s in registry.known()[registry.PACKAGE_ENCODER].scores:
        if "k=200," not in s.protocol:
            ours = f"**{percent(s.value)}** ± {percent(s.interval)}"
            rows.append(
                f"| {s.dataset} | {_probe(s)} | {ours} | {percent(s.random_weights)} | {percent(s.raw_pixels)} |"
            )
    return "\n".join(rows) + "\n"


def budget_table():
    """The encoders that were trained at one budget: scores beside those of random weights and raw pixels, and signs."""
    scored = [s for s in registry.known().values() if s.name.endswith(".tin_cpu")]

    def cells(pick):
        return [pick(score) for score in scored[0].scores if "k=200," not in score.protocol]

    heads = cells(lambda score: f"{score.dataset.split()[0]}, {_probe(score)}")
    heads += ["std·√d", "effective rank", "core-minutes"]
    rows = [f"| encoder | {' | '.join(heads)} |", f"|{'---|' * (1 + len(heads))}"]
    for spec in scored:
        by = {(score.dataset, score.protocol): score for score in spec.scores}
        ours = [by[key] for key in cells(lambda score: (score.dataset, score.protocol))]
        run = ROOT / "hub_cards" / spec.name
        last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        facts = json.loads((run / "run.json").read_text())
        signs = [f"{last['std']:.2f}", f"{last['rank']:.0f}", f"{facts['minutes'] * facts['threads']:.0f}"]
        rows.append(
            f"| `{spec.name}` | {' | '.join([*(f'{percent(s.value)} ± {percent(s.interval)}' for s in ours), *signs])} |"
        )
    rows.append(f"| random weights | {' | '.join(cells(lambda score: percent(score.random_weights)))} | | | |")
    rows.append(f"| raw pixels | {' | '.join(cells(lambda score: percent(score.raw_pixels)))} | | | |")
    return "\n".join(rows) + "\n"


def measured(name):
    """The rows of cells of a benchmark's table in benchmarks/RESULTS.md, and its whole text."""
    text = results.sections(results.RESULTS)[name]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)], text


def speed_table():
    """The benchmark of `embed`: what most people run today, and ours."""
    table, _ = measured("embed")
    column = {name: place for place, name in enumerate(table[0])}
    (plain,) = (float(row[column["whole s"]]) for row in table if row[0] == "plain")
    rows = ["| | seconds | × the plain script | peak memory, MB |", "|---|---:|---:|---:|"]
    for words, *names in (
        ("torchvision in a DataLoader, the plain script", "plain"),
        ("timm", "timm"),
        ("timm under bf16 autocast", "timm-bf16"),
        ("`sslzoo embed`, torch, fp32 / bf16", "torch-fp32", "torch-bf16"),
        ("`sslzoo embed` with `fast`, fp32 / bf16", "openvino-fp32", "openvino-bf16"),
    ):
        found = [row for name in names for row in table if row[0] == name]
        seconds = [float(row[column["whole s"]]) for row in found]
        cells = (
            [f"{s:.1f}" for s in seconds],
            [f"{plain / s:.1f}" for s in seconds],
            [row[column["peak MB"]] for row in found],
        )
        rows.append(f"| {' | '.join([words, *map(' / '.join, cells)])} |")
    return "\n".join(rows) + "\n"


def processor_of(text):
    """The processor that a section of benchmarks/RESULTS.md was measured on, without its instruction sets."""
    return re.search(r"^- ([^`\n]*?) \(avx", text, re.M)[1].replace("(R)", "")


def ratio_list():
    """What embedding, searching and training do beside others, be it more or less."""
    tools, peers = measured("embed-peers")
    column = tools[0].index("whole s")
    seconds = {row[0]: float(row[column]) for row in tools[2:]}
    ours = seconds["openvino-fp32"]
    others = ("thingsvision", "timm", "transformers", "lightly-train")
    longer = ", ".join(f"{name} {seconds[name] / ours:.1f}" for name in others)
    _, text = measured("search")
    speed = {name: int(q) for name, q in re.findall(r"^(.*?) +build .*? (\d+) q/s", text, re.M)}
    rows, dim = re.search(r"(\d+) x (\d+) generated", text).groups()
    printed = re.findall(r"^raw FAISS (?!flat).* ours: ([\d.]+)x in bulk, ([\d.]+)x for one", text, re.M)
    bulk, alone = ([float(ratio) for ratio in column] for column in zip(*printed, strict=True))
    exact, flat = (f"{speed[name]:,}" for name in ("sslzoo exact", "raw FAISS flat"))
    trained, narrow = (_range_of_ratios(name) for name in ("train", "train-avx2"))
    found = f"exact {exact} queries a second, FAISS's flat index {flat}"
    return f"""- The same photos in fp32, on a processor without bf16 ({processor_of(peers)}): {ours:.1f} s with `fast`.
  Times as long took {longer}.
- Search in {int(rows):,} vectors of {dim} numbers ({processor_of(text)}): {found}.
  **Raw FAISS is quicker with an approximate index** of the same structure: ours has {min(bulk):.2f} to {max(bulk):.2f} of its
  queries a second in bulk, and {min(alone):.2f} to {max(alone):.2f} of its speed for a single one.
- Training ({processor_of(measured("train")[1])}): {trained} times as many images a second as lightly's loop, by method;
  in fp32 with AVX2 alone {narrow}.
"""


def search_table():
    """What the benchmarks of search came to, a row for each collection."""
    rows = ["| collection | processor | what came out |", "|---|---|---|"]
    for name in ("search", "search-million", "search-large"):
        _, text = measured(name)
        n, dim = re.search(r"(\d+) x (\d+) generated", text).groups()
        lines = re.findall(
            r"^(.+?) +build +([\d.]+) s +(\d+) q/s +one +([\d.]+) ms +recall ([\d.]+) +peak +(\d+) MB(.*)$", text, re.M
        )
        told, ratios = [], []
        for kind, build, _, one, recall, memory, beside in lines:
            kind = kind.split()[-1]
            if found := re.search(r"ours: ([\d.]+)x in bulk, ([\d.]+)x for one", beside):
                if f"raw FAISS {kind}" in text:  # not torch
                    kind = "exact` beside `flat" if kind == "flat" else kind
                    ratios.append(f"`{kind}` {found[1]} and {found[2]} (recall {recall})")
            elif name != "search":
                told.append(
                    f"`{kind}` {float(one):.0f} ms for one query at recall {recall}, made in {float(build):.0f} s"
                )
                told[-1] += f", {memory} MB at most"
        if ratios:
            told.append(f"times as fast as raw FAISS in bulk and for one query: {', '.join(ratios)}")
        shell, seconds = re.search(
            r"^one query by id from a shell, (\w+), start-up included: ([\d.]+) s", text, re.M
        ).groups()
        told.append(f"a query by id from a shell through `{shell}` {seconds} s, start-up included")
        rows.append(f"| {int(n):,} × {dim} | {processor_of(text)} | {'; '.join(told)} |")
    return "\n".join(rows) + "\n"


def _range_of_ratios(name):
    """The least and the largest ratio in a table of training speeds."""
    table, _ = measured(name)
    ratios = [float(row[table[0].index("ratio to its best")]) for row in table[2:]]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def finetuned_table():
    """Fine-tuning from the encoder inside the package beside training from scratch."""
    rows = ["| data | fine-tuned | from scratch | difference | protocol |", "|---|---|---|---|---|"]
    for name in ("caltech101", "cifar10"):
        _, text = measured(f"finetune-{name}")
        ours, scratch = re.findall(r"^\S+: (\S+ ± \S+) after", text, re.M)
        difference, protocol = re.search(r"^difference (\S+ ± \S+); (.*)$", text, re.M).groups()
        rows.append(f"| {name} | **{ours}** | {scratch} | {difference} | {protocol} |")
    return "\n".join(rows) + "\n"


def cost_table():
    """What each method costs, as the demo shows it, and how that was measured."""
    from benchmarks.methods import table
    from sslzoo.demo.methods import costs

    rows = costs()
    return f"Measured by `{rows[0]['command']}` on {rows[0]['measured']}:\n\n{table(rows)}\n"


def drawing(method):
    """The demo's drawing of a method as a file of its own."""
    from sslzoo.demo import drawings

    svg = drawings.drawing(method).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace("<defs>", f"<style>{DRAWING_STYLE}</style><defs>", 1) + "\n"


#: the sections of each file, between `<!-- name: … -->` and `<!-- /name -->`
SECTIONS = {
    README: {
        "help": help_text,
        "names": name_table,
        "scores": score_table,
        "speed": speed_table,
        "ratios": ratio_list,
    },
    DOCS / "choosing.md": {"defaults": default_table, "zoo": zoo_table},
    DOCS / "methods.md": {"budget": budget_table, "costs": cost_table},
    DOCS / "search.md": {"measured": search_table},
    DOCS / "recipes" / "finetune.md": {"finetuned": finetuned_table},
    DOCS / "reference" / "cli.md": {"commands": command_pages},
}
DRAWINGS = {DOCS / "drawings" / f"{name}.svg": name for name in ("simclr", "moco", "byol", "simsiam", "swav")}


if __name__ == "__main__":
    for path, sections in SECTIONS.items():
        text = path.read_text(encoding="utf-8")
        for name, make in sections.items():
            start = re.search(rf"<!-- {name}:.*?-->\n", text)
            assert start, f"{path} has no section {name}"
            text = text[: start.end()] + make() + text[text.index(f"<!-- /{name} -->") :]
        path.write_text(text, encoding="utf-8")
    for path, name in DRAWINGS.items():
        path.write_text(drawing(name), encoding="utf-8")
