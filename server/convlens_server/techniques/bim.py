"""The basic iterative method.

Kurakin, Goodfellow, Bengio: Adversarial examples in the physical world (2017), arXiv:1607.02533.
"""

from __future__ import annotations

import numpy as np

from convlens.v1 import attack_pb2
from convlens_server.techniques.base import F32, Attacked, AttackGoal, Backend
from convlens_server.techniques.descent import Linf, descend


def bim(backend: Backend, images: F32, goal: AttackGoal, params: attack_pb2.Bim) -> Attacked:
    """Steps of FGSM from the image itself, each brought back to |x' - x| <= eps and [0, 1].

    The step length is eps / 4 unless given. `tensors` has "gradient_sign", that of the first step.
    """
    step_size = params.step_size if params.HasField("step_size") else params.epsilon / 4
    adversarial, first = descend(
        backend,
        images,
        images,
        goal,
        Linf(),
        epsilon=params.epsilon,
        step_size=step_size,
        steps=params.steps,
    )
    return Attacked(adversarial, {"gradient_sign": np.sign(first)}, queries=params.steps)
