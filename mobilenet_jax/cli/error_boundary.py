"""Maps errors that a user can fix to one line on stderr and an exit status. All commands run inside this boundary."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import Interrupted, UserError

EXIT_RESUMABLE = 75  # a run that was asked to stop and can continue: EX_TEMPFAIL of sysexits.h
_EXIT_INTERRUPTED = 130  # shells report this status for SIGINT
_EXIT_CLOSED_PIPE = 141  # and this one for SIGPIPE


def run_command(command: Callable[[], object], *, debug: bool) -> None:
    """Runs a command; a user error is printed as one line and exits with status 1.

    `UserError` and `OSError` are user errors, and so is a lack of memory. Any other exception is a bug and shows its
    traceback.

    Args:
        command: the function to run.
        debug: whether to show the traceback of user errors as well.
    """
    try:
        command()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(_EXIT_INTERRUPTED)  # threads of JAX and TensorFlow that still run can crash an orderly exit
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        os._exit(EXIT_RESUMABLE)
    except BrokenPipeError:
        raise  # reported by `end_at_closed_pipe`
    except (UserError, OSError) as error:
        if debug:
            raise
        details = error.details if isinstance(error, UserError) else ()
        for detail in details if len(details) > 1 else ():
            print(detail, file=sys.stderr)
        print(f"error: {format_error(error)}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED")):  # of XLA
            raise
        print(
            f"error: out of memory ({get_first_line(error)}): use smaller batches, smaller images or a smaller model",
            file=sys.stderr,
        )
        sys.exit(1)


@contextlib.contextmanager
def end_at_closed_pipe() -> Iterator[None]:
    """Ends the process without a message when nobody reads its output any more, as in `mobilenet-jax ... | head -1`.

    The exit status is that of programs that SIGPIPE ends; Python ignores this signal.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it is closed, as in `mobilenet-jax ... >&-`
                sys.stdout.flush()
    except BrokenPipeError:
        os._exit(_EXIT_CLOSED_PIPE)  # an orderly exit would flush stdout again, and fail again


def format_error(error: Exception) -> str:
    """Returns the message of an error as a single line."""
    return " ".join(str(error).split()) or type(error).__name__
