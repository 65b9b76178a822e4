"""A process that computes its share of a scene: `python -m skysense_cli.engine.rank_process`, with a `ranks.Share` on stdin."""

import errno
import json
import pickle
import signal
import sys

import torch

from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.engine.ranks import REFUSED, Share
from skysense_cli.errors import SkySenseError
from skysense_cli.processes import end_with

NOT_WRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(share: Share) -> None:
    """Compute the rows of a share. Raises OtherPartsError when bundle or scene changed since the command began."""
    torch.set_num_threads(share.threads)
    prediction = open_prediction(share.recipe, load_bundle(share.recipe.bundle, share.device))
    parts = Parts(share.output, share.writer)
    if changed := parts.changed(prediction.state(share.recipe_digest)):
        raise OtherPartsError(f"{share.output}: something changed while the command ran ({'; '.join(changed[:4])}); run it again")
    for rows in share.rows:
        prediction.compute(parts, rows)


def main() -> int:
    """Exit status: 0, REFUSED with a reason on stdout, or that of a bug."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that started this one decides
    share: Share = pickle.load(sys.stdin.buffer)
    end_with(share.parent)
    try:
        run(share)
    except SkySenseError as error:
        return _refuse(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{place}cannot be written ({error.strerror}); free or choose another disk and run the same command again", 3)
    return 0


def _refuse(message: str, exit_code: int) -> int:
    sys.stdout.write(json.dumps({"message": message, "exit_code": exit_code}))
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
