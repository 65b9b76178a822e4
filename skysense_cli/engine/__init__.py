"""Everything with a model: training, checkpoints, evaluation, prediction and maps."""
