"""A process that computes its share of a scene: `python -m skysense_cli.engine.rank_process`, with a `ranks.Share` on stdin."""

import json
import pickle
import signal
import sys

import torch

from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.engine.ranks import REFUSED, Share
from skysense_cli.errors import DiskError, SkySenseError
from skysense_cli.files import disk_error
from skysense_cli.processes import end_with


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
        return _refuse(error)
    except OSError as error:
        told = disk_error(error)
        if told is None:
            raise
        return _refuse(told)
    return 0


def _refuse(error: SkySenseError) -> int:
    sys.stdout.write(json.dumps({"message": str(error), "exit_code": error.exit_code, "disk": isinstance(error, DiskError)}))
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
