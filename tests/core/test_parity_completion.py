"""The completion of modalities and the losses of SkySense++ against vectors made by the published ones."""

import torch
from torch import Tensor

from skysense_cli.core import losses
from skysense_cli.core.completion import Completion

NAMES = ("hr", "s2", "s1")  # columns of the published flags


def completion(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    widths = {settings.take(f"input_shape_{name}")[0] for name in NAMES}
    assert len(widths) == 1, f"the product has no such module: feature maps of different widths {widths}"
    module = Completion(
        widths.pop(),
        NAMES,
        hidden=settings.take("conv_dim", 256),
        dim=settings.take("z_dim", 256),
        codes=settings.take("n_codebook", 8192),
    )
    settings.done()
    vector.load(module, renamed={name: f"vaes.{name.removeprefix('vae_')}" for name in vector.state()})

    inputs = vector.given(case)
    flags = inputs.pop("modality_info")
    given = {name: inputs.pop(f"feat_{name}") for name in NAMES}
    assert not inputs, f"inputs that this test does not understand: {list(inputs)}"
    present = {name: flags[:, column].bool() for column, name in enumerate(NAMES)}
    asked = vector.several(f"out.{case['name']}")
    with torch.no_grad():
        quick = module(given, present)
    with torch.enable_grad():
        completed = module.train()(given, present)  # all of it, also what evaluation leaves out
    agreement = losses.agreement(completed).detach()
    found = {
        "modality_info": flags,
        "loss_quant": agreement,
        "modality_vae_loss": case["loss_weight"] * (losses.reconstruction(completed).detach() + agreement),
    }
    for name in NAMES:
        torch.testing.assert_close(quick.features[name], completed.features[name], atol=1e-5, rtol=1e-5)
        chosen = module.choose(name, completed.logits, given[name], present)
        found |= {
            f"input_{name}": given[name],
            f"{name}_out": completed.features[name].detach(),
            f"g_{name}": completed.decoded[name].detach(),
            f"logits_{name}": completed.logits[name].detach(),
            f"soft_one_hot_{name}": module.vaes[name].shares(chosen).detach(),
        }
    return {name: value for name, value in found.items() if name in asked}  # a file need not hold them all


def masked_label(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    inputs = vector.given(case)
    scores = inputs[settings.take("pred_key")].requires_grad_()
    labels = inputs[settings.take("target_key")]
    hidden = inputs[settings.take("mask_key")]
    patch, everywhere, background = settings.take("patch_size"), settings.take("use_all_patch", False), settings.take("use_bg")
    size = (hidden.shape[1] * patch, hidden.shape[2] * patch)
    assert size == tuple(labels.shape[1:])
    assert scores.shape[1] == settings.take("vocabulary_size") + 1
    weight, balance, spread = settings.take("weight", 1.0), settings.take("balance", False), settings.take("sim_regularization", False)
    settings.expect(feature_merged=True)
    settings.done()
    assert background in (True, False)

    counted = losses.hidden_pixels(hidden == 1, size).float()
    counted = torch.ones_like(counted) if everywhere else counted if background else counted * inputs["valid"]
    with torch.enable_grad():
        loss = weight * losses.masked_label(scores, labels, counted, balance=balance)
        if spread:
            loss = loss + 0.05 * losses.token_spread(inputs["vocabulary_token"])
        (gradient,) = torch.autograd.grad(loss, scores)
    return {"loss": loss.detach().reshape(1), "grad_logits": gradient}


RUNNERS = {
    "lib.models.necks.modality_completion.ModalityCompletion (+ ModalityVAELoss)": completion,
    "lib.models.losses.RecLoss": masked_label,
}


def test_every_case_of_a_published_module_comes_out_the_same(vector):
    vector.check(RUNNERS[vector.module], loose={"grad_logits": 1e-6})
