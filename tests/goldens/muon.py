"""Muon, written from its description: Keller Jordan's post (kellerjordan.github.io/posts/muon) for the momentum and the
Newton-Schulz iteration, and "Muon is Scalable for LLM Training" (arXiv 2502.16982) for the scale and the weight decay.
PyTorch has one of its own, which iterates in bfloat16; `with_torch_in_float32` lets it work in the gradient's precision,
so that the two can be compared."""

import contextlib
import math
from unittest import mock

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# An update of a [rows, columns] matrix whose singular values are about 1 has RMS 1/sqrt(max(rows, columns)); AdamW's updates
# have an RMS of about 0.2, so with this factor both can use one learning rate and one weight decay.
RMS = 0.2


def newton_schulz(matrix, coefficients=COEFFICIENTS):
    """The nearest matrix with all singular values about 1 (0.7 to 1.2): each iteration maps a singular value s to
    a*s + b*s^3 + c*s^5."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # the smaller Gram matrix
    x = wide / (torch.linalg.matrix_norm(wide) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """For the matrices of the layers, [out, in] as PyTorch stores them."""

    def __init__(self, parameters, lr=0.0, weight_decay=0.1, nesterov=True, coefficients=COEFFICIENTS):
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, nesterov=nesterov, coefficients=coefficients))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(MOMENTUM).add_(parameter.grad)
                update = parameter.grad + MOMENTUM * momentum if group["nesterov"] else momentum
                update = newton_schulz(update, group["coefficients"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * RMS * math.sqrt(max(parameter.shape)) * update)


def of_torch(parameters, weight_decay=0.1):
    """PyTorch's, asked for the same."""
    return torch.optim.Muon(parameters, lr=0.0, weight_decay=weight_decay, momentum=MOMENTUM, nesterov=True,
                            ns_coefficients=COEFFICIENTS, ns_steps=ITERATIONS, adjust_lr_fn="match_rms_adamw")


class _Float32:
    """The module `torch`, except that its bfloat16 is float32."""

    def __getattr__(self, name):
        return torch.float32 if name == "bfloat16" else getattr(torch, name)


def with_torch_in_float32(yes):
    return mock.patch.object(torch.optim._muon, "torch", _Float32()) if yes else contextlib.nullcontext()
