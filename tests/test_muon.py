"""Muon against torch's own, which takes matrices only, and the choice of what it updates."""

import pytest
import torch
from torch import nn

from training.muon import Muon, muon_groups, orthogonal


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.hidden = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 8)
        self.position_embedding = nn.Parameter(torch.zeros(1, 8))
        self.head = nn.Linear(8, 2)


def test_hidden_kernels_and_matrices_are_muons():
    net = Net()
    muon, others, vectors = muon_groups(net, 0.1)
    assert muon["muon"] and {id(p) for p in muon["params"]} == {id(net.hidden.weight), id(net.linear.weight)}
    assert {id(p) for p in others["params"]} == {
        id(p) for p in (net.conv_in.weight, net.head.weight, net.position_embedding)
    }
    assert all(p.ndim == 1 for p in vectors["params"]) and vectors["weight_decay"] == 0
    assert sum(len(group["params"]) for group in (muon, others, vectors)) == len(list(net.parameters()))


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_orthogonal_keeps_directions_and_levels_singular_values(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = orthogonal(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ made @ v.T  # diagonal where the directions are the same
    assert (inside - inside.diag().diag()).abs().max() < 1e-6
    assert 0.6 < inside.diag().min() and inside.diag().max() < 1.25


def test_steps_equal_those_of_torch():
    """A matrix like torch.optim.Muon, which is in bf16; a kernel like its matrix; the rest like AdamW, to the bit."""
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(12, 18, generator=draw), torch.randn(5, 12, 18, generator=draw)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    theirs, matrix, kernel = (nn.Parameter(start.clone().view(shape)) for shape in ((12, 18), (12, 18), (12, 2, 3, 3)))
    vector, plain = (nn.Parameter(start[0].clone()) for _ in range(2))
    reference = torch.optim.Muon([theirs], momentum=0.95, adjust_lr_fn="match_rms_adamw", **settings)
    adamw = torch.optim.AdamW([plain], **settings)
    half = nn.Parameter(start.clone())
    ours = Muon([{"params": [matrix, kernel], "muon": True}, {"params": [vector]}], **settings)
    ours_half = Muon([{"params": [half], "muon": True}], dtype=torch.bfloat16, **settings)
    for gradient in gradients:
        theirs.grad, half.grad = gradient, gradient.clone()
        matrix.grad, kernel.grad = gradient.clone(), gradient.view(12, 2, 3, 3).clone()
        vector.grad, plain.grad = gradient[0].clone(), gradient[0].clone()
        for optimizer in (reference, adamw, ours, ours_half):
            optimizer.step()
    moved = (theirs - start).norm()
    assert (matrix - theirs).norm() < 0.02 * moved and torch.equal(kernel.view(12, 18), matrix)
    assert 0 < (half - theirs).norm() < 0.02 * moved
    assert torch.equal(vector, plain) and not torch.equal(vector, start[0])


def test_its_state_comes_back():
    def stepped(optimizer, p, count):
        for number in range(count):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(int(optimizer.told) + number))
            optimizer.step()
        optimizer.told += count

    def fresh(value):
        p = nn.Parameter(value.clone())
        optimizer = Muon([{"params": [p], "muon": True}], lr=0.1)
        optimizer.told = 0
        return p, optimizer

    whole, one = fresh(torch.ones(4, 6))
    stepped(one, whole, 4)
    first, two = fresh(torch.ones(4, 6))
    stepped(two, first, 2)
    second, three = fresh(first.detach())
    three.load_state_dict(two.state_dict())
    three.told = two.told
    stepped(three, second, 2)
    assert torch.equal(second, whole)
