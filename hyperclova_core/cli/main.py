"""`hyperclova`: every stage on a person's own files, whole recipes, and the platform of one machine."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from typing import Any

import click

from hyperclova_core import __version__
from hyperclova_core.cli import corpora, datasets, lineage, planning, platform, runs, stages, tokens, training
from hyperclova_core.foundation.errors import DataError, HyperclovaError

EPILOG = """Exit codes: 0 done or reused, 64 configuration, 65 data, 66 gate failed, 70 host memory, 71 device memory,
72 communication, 75 transient (try again), anything else: a bug."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 140})
@click.version_option(__version__, prog_name="hyperclova")
@click.option("--debug", is_flag=True, help="Show the stack of an error, and what the stages log.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Korean pretraining, from crawl to evaluated GPT.

    Each stage runs alone on your own files (JSONL, Parquet, HTML, WARC, MediaWiki XML, text; also compressed) or on the
    dataset folder that another stage wrote. `hyperclova run RECIPE` runs all of them in order.
    """
    context.obj = {"debug": debug}
    logging.basicConfig(
        level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    for name in ("py4j", "great_expectations", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hyperclova_core").setLevel(logging.INFO)


for module in (stages, tokens, training, planning, runs, datasets, corpora, lineage, platform):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: prints errors for people, ends with their exit code."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal of another encoding shows what it cannot write by its number
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(args=given, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except HyperclovaError as error:
        if "--debug" in given:
            traceback.print_exc()
        sys.stderr.write(error.message() + "\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has had enough
        sys.exit(0)
    except (OSError, UnicodeError) as error:
        if "--debug" in given:
            traceback.print_exc()
        sys.stderr.write(_unread(error).message() + "\n")
        sys.exit(65)


def _unread(error: OSError | UnicodeError) -> DataError:
    """A file or standard input that cannot be read or written, for which no command has a better word."""
    if isinstance(error, UnicodeError):
        return DataError(
            "The input is not in the encoding that is expected",
            why=str(error),
            remedy="save it as UTF-8 (iconv -f cp949 -t utf-8 FILE); for standard input, set PYTHONIOENCODING to its encoding",
        )
    return DataError(
        "A file cannot be used",
        where=str(error.filename or ""),
        why=error.strerror or str(error),
        remedy="check the path, its permissions and the space on its disk",
    )


if __name__ == "__main__":
    main()
