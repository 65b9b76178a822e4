"""A task: model and head against the labels."""

from torch import Tensor, nn

from skysense_cli.core.batch import Batch
from skysense_cli.core.heads import Head
from skysense_cli.core.model import SkySense
from skysense_cli.core.objectives import Objective


class Supervised(Objective):
    """The head's losses on the model's features. The same for fine-tuning and for a frozen model (freeze its parameters)."""

    def __init__(self, model: SkySense, head: Head, /) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What `head.loss` says. Raises ValueError for a batch without target."""
        if batch.target is None:
            raise ValueError("a supervised step needs a batch with a target")
        return self.head.loss(self.head(self.model(batch)), batch.target)

    def export(self) -> dict[str, nn.Module]:
        """Model and head as trained."""
        return {"model": self.model, "head": self.head}


build = Supervised
