"""The fast gradient sign method.

Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples (2015), arXiv:1412.6572.
"""

from __future__ import annotations

import numpy as np

from convlens.v1 import attack_pb2
from convlens_server.techniques.base import F32, Attacked, AttackGoal, Backend
from convlens_server.techniques.descent import loss_gradient


def fgsm(backend: Backend, images: F32, goal: AttackGoal, params: attack_pb2.Fgsm) -> Attacked:
    """clip(x + eps sign(dCE/dx), 0, 1) away from the goal's class; targeted: minus, towards it.

    CE = -log P(class). Before clipping every pixel value changes by 0 or eps, up to float32 rounding.
    `tensors` has "gradient_sign", sign(dCE/dx).
    """
    sign = np.sign(loss_gradient(backend, images, goal))
    step = np.float32(-params.epsilon if goal.targeted else params.epsilon)
    return Attacked(np.clip(images + step * sign, 0, 1), {"gradient_sign": sign}, queries=1)
