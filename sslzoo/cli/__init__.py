"""The command line: each command parses, calls the library and prints; results on stdout, everything else on stderr.

Exit codes: 0 done, 1 failed, 2 usage, 3 done but some inputs failed, 130 interrupted. Heavy packages are imported inside
the commands, so that --help stays quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sslzoo import __version__
from sslzoo.cli import embedding, evaluation, making, searching, showing, sorting, transferring, zoo
from sslzoo.cli.examples import PROGRAM, epilog
from sslzoo.errors import SslzooError

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Self-supervised image encoders by name: embed a folder of images, search it, judge the encoder.",
    epilog=PROGRAM,
)
for command in (
    zoo.models,
    zoo.show,
    zoo.pull,
    zoo.verify,
    embedding.embed,
    embedding.merge,
    searching.index,
    searching.search,
    sorting.dedup,
    sorting.cluster,
    transferring.finetune,
    transferring.predict,
    showing.demo,
    making.convert,
    making.export,
    making.push,
):
    app.command(epilog=epilog(command.__name__))(command)
app.command(name="export-vectors", epilog=epilog("export-vectors"))(searching.export_vectors)
app.add_typer(evaluation.app, name="eval")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def main() -> None:
    """Runs the command line; an error of ours, or of the file system, is one line on stderr and exit code 1."""
    try:
        code = app(prog_name="sslzoo", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except (SslzooError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        # typer's own errors (usage) know how to show themselves
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
