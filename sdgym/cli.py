"""The command line: ``sdgym VERB …``. This file wires verbs and turns errors into one sentence and an exit code.

Exit codes: 0 done; 1 something failed that is not the user's doing; 2 the user asked for something that
cannot work; 130 and 143 interrupted by SIGINT and SIGTERM after saving.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Idle OpenMP threads must sleep instead of spin, and the variables count only if set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # weights of 3 MB need no bar in the middle of our own

import typer

from sdgym import __version__
from sdgym.commands import algos, compare, doctor, envs, model, run, watch
from sdgym.errors import SdgymError, UserError
from sdgym.files import storage_error

app = typer.Typer(
    name="sdgym",
    help="A gym of text environments with reward and feedback, and a zoo of post-training algorithms.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"sdgym {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
) -> None:
    pass


app.command("train")(run.train)
app.command("eval")(run.evaluate)
app.command("compare")(compare.compare)
app.command("report")(compare.report)
app.command("watch")(watch.watch)
app.command("doctor")(doctor.doctor)
app.add_typer(envs.app, name="envs")
app.add_typer(algos.app, name="algos")
app.add_typer(model.app, name="model")


def _complain(message: str) -> None:
    """Print ``message`` on one line of stderr."""
    print(f"sdgym: {' '.join(message.split())}", file=sys.stderr)


def _usage_message(error: Exception) -> str:
    """Return typer's own complaint as one sentence, with the nearest option where there is one."""
    near = getattr(error, "possibilities", None)
    if near:
        return f"{getattr(error, 'message', error)}: did you mean {sorted(near)[0]}?"
    return error.format_message() if hasattr(error, "format_message") else str(error)


def execute(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never a traceback for what a user can cause."""
    command = typer.main.get_command(app)
    if "_SDGYM_COMPLETE" in os.environ:  # a shell asks for completions, or for the script that asks
        from typer import completion

        completion.completion_init()  # type: ignore[attr-defined]  # not among its exports, and there is no other way
    try:
        code = command.main(args=list(argv) if argv is not None else None, prog_name="sdgym", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        _complain(str(error))
        return 2
    except SdgymError as error:
        _complain(f"{type(error).__name__}: {error}")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        refused = storage_error(error, "a file")
        if refused is not None:
            _complain(str(refused))
            return 2
        if not hasattr(error, "format_message"):  # a bug: keep the traceback
            raise
        _complain(_usage_message(error))
        return 2


def main() -> None:
    """Entry point of the ``sdgym`` script."""
    sys.exit(execute())


if __name__ == "__main__":
    main()
