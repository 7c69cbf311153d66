"""The fast gradient sign method.

Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples (2015), arXiv:1412.6572.
"""

from __future__ import annotations

import numpy as np

from convlens.v1 import attack_pb2
from convlens_models.autodiff import ReluRule
from convlens_models.manifest import LOG_PROBABILITIES
from convlens_server.engines.base import F32, Engine
from convlens_server.targets import Goal, one_hot
from convlens_server.techniques.base import Attacked


def fgsm(engine: Engine, images: F32, goal: Goal, params: attack_pb2.Fgsm) -> Attacked:
    """clip(x + eps sign(dCE/dx), 0, 1) away from the goal's class; targeted: minus, towards it.

    CE = -log P(class), so its gradient is that of a cotangent of -1 at the class's log-probability. Before
    clipping every pixel value changes by 0 or eps, up to float32 rounding. `tensors` has "gradient_sign",
    sign(dCE/dx).
    """
    cotangent = -one_hot(goal.classes, len(engine.stored.manifest.labels))
    _, gradient = engine.gradient(images, LOG_PROBABILITIES, cotangent, ReluRule.GRADIENT)
    sign = np.sign(gradient)
    step = np.float32(-params.epsilon if goal.targeted else params.epsilon)
    return Attacked(np.clip(images + step * sign, 0, 1), {"gradient_sign": sign}, queries=1)
