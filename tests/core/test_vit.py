import pytest
import torch

from skysense_cli.core.encoders.vit import ViT
from skysense_cli.errors import RecipeError


def tiny(**options):
    return ViT(**{"channels": 3, "dim": 8, "depth": 4, "heads": 2, "size": 16, **options})


def test_every_tap_gives_a_map_of_the_patch_grid():
    encoder = tiny(taps=(1, 3)).eval()
    maps = encoder(torch.rand(2, 3, 24, 36))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 6, 9)] * 2
    assert (encoder.stride, encoder.tap_channels, encoder.tap_strides) == (4, (8, 8), (4, 4))


@pytest.mark.parametrize(("depth", "taps"), [(24, (5, 11, 17, 23)), (4, (0, 1, 2, 3)), (6, (1, 2, 4, 5)), (2, (0, 1)), (1, (0,))])
def test_taps_are_spread_evenly_and_end_at_the_last_layer(depth, taps):
    assert tiny(depth=depth).taps == taps


def test_sizes_that_the_patch_does_not_divide_are_filled_with_zeros_right_and_below():
    encoder = tiny().eval()
    odd = torch.rand(1, 3, 22, 17)
    filled = torch.zeros(1, 3, 24, 20)
    filled[..., :22, :17] = odd
    assert torch.equal(encoder(odd)[-1], encoder(filled)[-1])


def test_the_position_table_is_resized_when_the_grid_differs_even_at_equal_length():
    table = torch.arange(16.0).view(4, 4)
    wide = torch.zeros(1, 2, 8, 8)
    by_grid, by_length = tiny(), tiny(resize="length")
    for encoder in (by_grid, by_length):
        with torch.no_grad():
            encoder.pos_embed[0, 1:] = table.reshape(16, 1)
    resized = by_grid.position(wide)[0, :, :, 0]
    assert (resized.diff(dim=0) > 4).all()  # still grows downwards by rows of the table and rightwards within them
    assert (resized.diff(dim=1) > 0).all()
    assert by_length.position(wide)[0, :, :, 0].tolist() == torch.arange(16.0).view(2, 8).tolist()
    assert torch.equal(by_grid.position(torch.zeros(1, 4, 4, 8))[0, :, :, 0], table)


def test_the_class_token_takes_part_but_not_in_the_maps():
    without, with_class = tiny().eval(), tiny(class_token=True).eval()
    with_class.load_state_dict(without.state_dict())
    pixels = torch.rand(2, 3, 16, 16)
    assert (with_class(pixels)[-1] - without(pixels)[-1]).abs().max() > 1e-4
    maps, vectors = zip(*with_class.with_class(pixels), strict=True)
    assert torch.equal(maps[-1], with_class(pixels)[-1])
    assert vectors[-1].shape == (2, 8)


def test_gradients_reach_every_parameter_that_is_used():
    encoder = tiny(final_norm=True)
    sum(m.square().mean() for m in encoder(torch.rand(2, 3, 16, 16))).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == ["cls_token"]


def test_the_published_size_has_its_published_number_of_parameters():
    with torch.device("meta"):
        encoder = ViT(channels=10, dim=1024, depth=24, heads=16, size=64)
    assert sum(p.numel() for p in encoder.parameters()) == 302_738_432


def test_norms_divide_by_what_the_released_weights_were_trained_with():
    assert {m.eps for m in tiny(final_norm=True).modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize(("options", "message"), [({"heads": 3}, "dim 8 is not a multiple of heads 3"), ({"taps": (1, 4)}, r"0\.\.3")])
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        tiny(**options)
