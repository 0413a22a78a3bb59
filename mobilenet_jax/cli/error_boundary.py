"""How a command ends: with status 0, or with one line that says what is wrong."""

import os
import sys
from collections.abc import Callable

from mobilenet_jax.errors import Interrupted

RESUME_ME = 75  # the exit status of a run that was asked to stop and can go on; sysexits' EX_TEMPFAIL


def run_as_command(job: Callable[[], object], errors: tuple[type[Exception], ...], *, debug: bool) -> None:
    """Runs a job; what its user can mend is printed as one line, and ends the process with status 1.

    Args:
        job: what to run.
        errors: the types of errors whose message is such a line. Any other is a bug and shows its traceback.
        debug: whether to show the traceback of these too.
    """
    try:
        job()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the threads of JAX and TensorFlow, still at work, can crash an orderly exit
    except Interrupted as stopped:
        print(stopped, file=sys.stderr, flush=True)
        os._exit(RESUME_ME)
    except errors as error:
        if debug:
            raise
        details = getattr(error, "details", ())  # of an audit that found more than one thing
        for detail in details if len(details) > 1 else ():
            print(detail, file=sys.stderr)
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
