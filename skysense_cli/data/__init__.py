"""From archives of scenes to time-series samples on disk, and from samples to batches."""
