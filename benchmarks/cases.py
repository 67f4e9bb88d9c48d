"""What `methods.py` times: each policy with the gradients it is meant for, and how much it may cost.

Gradients of size 1 have a global norm of 1. A policy with a memory sees some steps of about that size first; the step that is
timed then has the size given here.
"""

from __future__ import annotations

from typing import NamedTuple

BINDS, RESTS = "clip that binds", "clip that does not bind"
POLICY, AGC, ANY = 1.15, 2.0, None
"""Budgets, as multiples of our own clip of the global norm: any policy that decides on numbers; AGC, which reads the weights too;
and none, for what rewrites elements or limits updates, which costs the passes that its docstring names."""


class Case(NamedTuple):
    """A policy and its circumstances.

    Attributes:
        text: the policy.
        acts: what it does in the step that is timed.
        base: what the global norm's clip does meanwhile: a policy that writes is compared with one that writes.
        budget: most times the clip's time, or ``None``.
        warm: steps before the one that is timed.
        size: of the gradient in the step that is timed.
        calls: steps timed as one, for what does more at every tenth.
        adam: whether the optimizer is AdamW instead of SGD.
        reference: what ours is also timed against: a class of `references.py`, or timm.
        faster: by which factor ours is to be faster than that.
    """

    text: str
    acts: str
    base: str
    budget: float | None = POLICY
    warm: int = 0
    size: float = 1.0
    calls: int = 1
    adam: bool = False
    reference: str = ""
    faster: float | None = None

    @property
    def rewrites(self) -> bool:
        """Whether it is a transform, which may need one tensor of the largest gradient's size."""
        return self.budget is None


POLICIES = [
    Case("skip_nonfinite()", "nothing", RESTS),
    Case("clip_by_group_norm(0.5)", "clips", BINDS),
    Case("clip_by_norm(0.001)", "clips every tensor", BINDS),
    Case("clip_by_rms(0.00001)", "clips every tensor", BINDS),
    Case("decay(0.99)", "scales", BINDS),
    Case("normalize()", "scales", BINDS, size=2.0),
    Case("smooth_normalize()", "scales", BINDS),
    Case("soft_clip_norm(1.0)", "scales", BINDS),
    Case("gradient_stabilizer()", "scales every tensor", BINDS, warm=5),
    Case("block_descent(0.5)", "withholds half of the tensors", RESTS),
    Case("autoclip()", "clips, as 90 % of steps", BINDS, warm=25, size=1.5, reference="AutoClip", faster=2.0),
    Case("autoclip(90.0)", "nothing, as 90 % of steps", RESTS, warm=25, reference="AutoClip", faster=2.0),
    Case("percentile_clip(50.0, window=20)", "clips every tensor", BINDS, warm=25, size=1.5),
    Case("zclip()", "nothing, as 98 % of steps", RESTS, warm=30, size=0.9, reference="ZClip", faster=2.0),
    Case("zclip(max_norm=None)", "clips a spike", BINDS, warm=30, size=10.0, reference="ZClip", faster=2.0),
    Case("adagc(warmup=20)", "clips every tensor, as 3 of 4 steps", BINDS, warm=25, size=2.0, reference="AdaGC", faster=2.0),
    Case("adagc(warmup=20)", "nothing, as 1 of 4 steps", RESTS, warm=25, size=0.5, reference="AdaGC", faster=2.0),
    Case("clip_by_growth()", "nothing", RESTS, warm=5),
    Case("clip_by_growth()", "clips a spike", BINDS, warm=5, size=10.0),
    Case("aggc()", "nothing", RESTS, warm=25),
    Case("auto()", "nothing", RESTS, warm=30, calls=10),
    Case("auto()", "clips a spike", BINDS, warm=32, size=100.0),
    Case("weight_relative_clip()", "nothing", RESTS, warm=1, calls=10),
    Case("adaptive_grad_clip(1000.0)", "nothing", RESTS, AGC, reference="timm", faster=3.0),
    Case("adaptive_grad_clip(0.00001)", "clips every unit", BINDS, AGC, reference="timm", faster=3.0),
    Case("clip_update_rms()", "nothing", RESTS, warm=2, size=0.5, adam=True),
    Case("clip_update_rms()", "limits every update", RESTS, warm=2, size=30.0, adam=True),
]
TRANSFORMS = [
    *(
        Case(text, "rewrites", BINDS, ANY)
        for text in (
            "clip_by_value(0.00005)",
            "soft_clip(0.0001)",
            "centralize()",
            "add_noise()",
            "coordinate_descent(0.5)",
            "prune_hard(0.0001)",
            "prune_soft(0.0001)",
            "prune_topk()",
            "qsgd()",
            "terngrad()",
            "sign()",
            "sign(scaled=True)",
            "fp8()",
            "fp8(stochastic=True)",
            "larc()",
            "lars()",
        )
    ),
    *(
        Case(text, "rewrites", BINDS, ANY, warm=2)
        for text in ("adaclip()", "acclip()", "onebit()", "dgc()", "error_feedback(prune_topk())", "error_feedback(qsgd())")
    ),
    Case("spam(guard_steps=1)", "rewrites", BINDS, ANY, warm=2, adam=True),
]
CONSTRAINTS = [
    Case(text, "after the step", RESTS, ANY, warm=1)
    for text in ("limit_update_ratio()", "max_norm_weights()", "proximal_l1(0.00001)", "decoupled_l2(0.00001)")
]
CONSTRAINTS += [Case("lamb()", "after the step", RESTS, ANY, warm=1, adam=True)]

NOT_TIMED = {
    "spectral_clip": "factorises every matrix, embeddings too: minutes a step on this model",
    "spectral_bound": "power iteration on every matrix; its cost is the number of iterations",
    "chain": "what its parts cost",
    "masked": "what its part costs",
    "clip_by_global_norm": "what the others are compared with; `make bench` compares it with torch",
    "qk_clip": "works on attention layers, of which a list of shapes has none",
}
