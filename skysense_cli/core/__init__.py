"""The SkySense model in plain PyTorch: tensors in, tensors out.

Nothing here opens a file, reads a recipe, knows a sensor or a modality name, or prints.
"""
