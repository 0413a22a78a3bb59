"""Maps errors that a user can fix to one line on stderr and an exit status. All commands run inside this boundary."""

import _thread
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

from input_pipeline.errors import get_first_line, make_printable, shorten
from mobilenet_jax.errors import Interrupted, UserError, is_out_of_memory

EXIT_RESUMABLE = 75  # a stopped run that can continue: EX_TEMPFAIL of sysexits.h
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
        with _interrupt_again():
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
        for detail in shorten(details) if len(details) > 1 else ():
            print(detail, file=sys.stderr)
        print(f"error: {format_error(error)}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        print(
            f"error: out of memory ({get_first_line(error)}): use smaller batches, smaller images or a smaller model",
            file=sys.stderr,
        )
        sys.exit(1)


@contextlib.contextmanager
def _interrupt_again() -> Iterator[None]:
    """Repeats Ctrl-C if Python ignored its exception: it does in JAX's callback at garbage collections."""
    show = sys.unraisablehook

    def handle(ignored: "sys.UnraisableHookArgs") -> None:
        if ignored.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, _thread.interrupt_main).start()  # when the callback has returned
        else:
            show(ignored)

    sys.unraisablehook = handle
    try:
        yield
    finally:
        sys.unraisablehook = show


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
    return make_printable(" ".join(str(error).split())) or type(error).__name__
