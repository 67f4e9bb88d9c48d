import pytest
import torch
from torch import nn

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.prevent import decay_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.LayerNorm((2, 4)))
        self.head = nn.Linear(4, 5)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def names(model, groups):
    known = {id(param): name for name, param in model.named_parameters()}
    return [sorted(known[id(param)] for param in group["params"]) for group in groups]


REST = ["body.0.bias", "body.1.bias", "body.1.weight", "body.2.bias", "body.3.bias", "body.3.weight", "head.bias", "scale"]


def test_weights_decay_and_the_rest_does_not():
    model = Model()
    groups = decay_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert names(model, groups) == [["body.0.weight", "body.2.weight", "table.weight"], REST]


def test_embeddings_are_optional_and_a_tied_head_follows_them():
    model = Model()
    groups = decay_groups(model, embeddings=False)
    assert groups[0]["weight_decay"] == 0.01
    assert names(model, groups) == [["body.0.weight", "body.2.weight"], sorted([*REST, "table.weight"])]


def test_a_tied_weight_is_exempt_whichever_owner_comes_first():
    table = nn.Embedding(3, 4)
    head = nn.Linear(4, 3, bias=False)
    head.weight = table.weight
    for model in (nn.Sequential(table, head), nn.Sequential(head, table)):
        assert [group["weight_decay"] for group in decay_groups(model, embeddings=False)] == [0.0]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_groups_suit_torch_optimizers(kind):
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = kind(decay_groups(model, 0.5), lr=0.1)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    before = [param.detach().clone() for param in model.parameters()]
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert changed == [True, False, False, False]


def test_what_cannot_be_grouped():
    for model, slug in ((nn.LazyLinear(3), "parameter-lazy"), (nn.ReLU(), "decay-none")):
        with pytest.raises(ArgumentError) as caught:
            decay_groups(model)
        assert caught.value.slug == slug
    with pytest.raises(ArgumentError):
        decay_groups(nn.Linear(2, 2), -0.1)
    with pytest.raises(ArgumentTypeError):
        decay_groups(list(nn.Linear(2, 2).parameters()))
