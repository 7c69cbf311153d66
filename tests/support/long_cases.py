"""A small task for every long technique, for what must hold for all of them."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from google.protobuf.message import Message
from support.collections import picture
from support.tiny_model import NAME

from convlens.v1 import adversarial_pb2, attack_pb2, job_pb2, style_pb2


class Case(NamedTuple):
    """A technique, a small task for it, the shapes that come out of it, and the name of its report."""

    technique: str
    params: Message
    images: dict[str, tuple[int, int]]
    artifacts: dict[str, tuple[int, ...]]
    report: str = ""
    seeded: bool = True


FILE = (-1,)
"""Stands for the shape of a file's bytes."""
CHANNEL = job_pb2.Objective(
    terms=[{"target": {"channel": {"layer": "features.relu3_1", "channel": 3}}, "weight": 1}]
)
EXAGGERATED = job_pb2.Objective(
    terms=[
        {
            "target": {"channel": {"layer": "features.relu3_1", "channel": 3}},
            "weight": 1,
            "model": {"name": NAME},
        },
        {"caricature": {"layer": "features.relu2", "power": 1}, "weight": 0.5},
    ]
)
PICTURES = [sha256(picture(seed)).hexdigest() for seed in range(3)]
SHARD = sha256(b"".join(map(bytes.fromhex, PICTURES))).hexdigest()
CAMERA = adversarial_pb2.Transforms(
    rotation=30, scale=0.1, perspective=0.05, brightness=0.05, contrast=0.1, noise=0.01
)
CASES = (
    Case(
        "deepdream",
        job_pb2.DeepDream(
            layers=["features.relu4_1"], octaves=3, octave_scale=1.4, steps=3, step_size=1.5, jitter=8
        ),
        {"image": (64, 80)},
        {"image": (1, 3, 64, 80)},
    ),
    Case(
        "deepdream",
        job_pb2.DeepDream(
            layers=["features.relu3_1"],
            channels=[1, 2],
            octaves=2,
            octave_scale=1.4,
            steps=2,
            step_size=3,
            jitter=4,
            tile=64,
            laplacian=2,
            frames=2,
            zoom=1.1,
            frame_rate=12,
        ),
        {"image": (64, 80), "guide": (40, 48)},
        {
            "image": (1, 3, 64, 80),
            "frame.0000": (1, 3, 64, 80),
            "frame.0001": (1, 3, 64, 80),
            "zoom.webp": FILE,
        },
    ),
    Case(
        "deepdream",
        job_pb2.DeepDream(
            layers=["features.relu2", "features.relu3_1"],
            weights=[1, 0.5],
            strongest=2,
            weakest=1,
            keep_colours=True,
            octaves=2,
            octave_scale=1.4,
            steps=1,
            step_size=3,
            jitter=4,
            frames=2,
            zoom=1.1,
            frame_rate=12,
            video=job_pb2.VIDEO_MP4,
        ),
        {"image": (49, 63), "mask": (20, 20)},
        {
            "image": (1, 3, 49, 63),
            "frame.0000": (1, 3, 49, 63),
            "frame.0001": (1, 3, 49, 63),
            "zoom.mp4": FILE,
        },
        report="dream",
    ),
    Case(
        "style_transfer",
        job_pb2.StyleTransfer(
            styles=[{"weight": 1}, {"weight": 2}],
            first_steps=3,
            steps=2,
            smallest=40,
            learning_rate=0.02,
            content_weight=0.1,
            tv_weight=0.1,
            noise_start=True,
        ),
        {
            "content": (48, 64),
            "styles[0].image": (40, 48),
            "styles[1].image": (64, 40),
            "styles[1].mask": (9, 9),
        },
        {"image": (1, 3, 48, 64)},
    ),
    Case(
        "style_transfer",
        job_pb2.StyleTransfer(
            styles=[{"weight": 1}],
            method=job_pb2.STYLE_METHOD_CLASSIC,
            first_steps=4,
            content_weight=0.1,
            colours=job_pb2.COLOURS_LUMINANCE,
            noise_start=True,
        ),
        {"content": (48, 64), "styles[0].image": (40, 48)},
        {"image": (1, 3, 48, 64)},
    ),
    Case(
        "style_transfer",
        job_pb2.StyleTransfer(
            styles=[{"weight": 1, "scale": 0.5}],
            first_steps=3,
            steps=2,
            smallest=40,
            content_weight=0.1,
            tv_weight=0.1,
            optimiser=job_pb2.OPTIMISER_LBFGS,
            pooling=job_pb2.STYLE_POOLING_L2,
            start=job_pb2.STYLE_START_GREY,
        ),
        {"content": (48, 64), "styles[0].image": (40, 48), "styles[0].style_mask": (9, 9)},
        {"image": (1, 3, 48, 64)},
    ),
    Case(
        "texture",
        job_pb2.Texture(height=72, width=64, steps=4, scales=2, seamless=True),
        {"sample": (40, 48)},
        {"image": (1, 3, 72, 64)},
    ),
    Case(
        "texture",
        job_pb2.Texture(
            layers=["features.relu2", "features.relu3_1"],
            weights=[1, 2],
            steps=4,
            scales=1,
            optimiser=job_pb2.OPTIMISER_ADAM,
            learning_rate=0.05,
            max_pooling=True,
            keep_colours=True,
        ),
        {"sample": (40, 48)},
        {"image": (1, 3, 40, 48)},
    ),
    Case(
        "feature_visualisation",
        job_pb2.FeatureVisualisation(
            objectives=[CHANNEL, CHANNEL], variants=2, diversity=1, size=48, steps=3, blur_every=2
        ),
        {},
        {"images": (4, 3, 48, 48), "values": (4,)},
        report="visualisation",
    ),
    Case(
        "feature_visualisation",
        job_pb2.FeatureVisualisation(
            objectives=[CHANNEL, CHANNEL],
            variants=1,
            size=48,
            steps=2,
            collection="c",
            dataset_examples=[
                {"values": [2, 1], "images": [sha256(picture(seed)).hexdigest() for seed in pair]}
                for pair in ((0, 1), (2, 0))
            ],
        ),
        {},
        {"images": (2, 3, 48, 48), "values": (2,), "examples": (4, 3, 96, 96)},
        report="visualisation",
    ),
    Case(
        "feature_visualisation",
        job_pb2.FeatureVisualisation(
            objectives=[EXAGGERATED],
            variants=2,
            diversity=1,
            height=40,
            width=56,
            steps=3,
            transforms={"pad": 4, "jitter": 6, "scale": 0},
        ),
        {"start": (24, 90), "objectives[0].terms[1].caricature.image": (30, 30)},
        {"images": (2, 3, 40, 56), "values": (2,)},
        report="visualisation",
    ),
    Case(
        "feature_visualisation",
        job_pb2.FeatureVisualisation(
            objectives=[CHANNEL],
            variants=2,
            size=48,
            steps=5,
            decay=1e-4,
            blur_every=2,
            parametrisation=job_pb2.PARAMETRISATION_PIXELS,
        ),
        {},
        {"images": (2, 3, 48, 48), "values": (2,)},
        report="visualisation",
    ),
    Case(
        "defence_attack",
        adversarial_pb2.DefenceAttack(
            images=[{}, {}], labels=[0, 1], defence={"jpeg": {"quality": 75}}, epsilon=0.1, steps=3
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        dict.fromkeys(("original", "plain", "adversarial"), (2, 3, 32, 40)),
        report="defence",
    ),
    Case(  # Its one class is not to be shaken by any change: only the certificates' queries add up.
        "attack_ensemble",
        adversarial_pb2.AttackEnsemble(
            images=[{}, {}, {}], labels=[0, 1, 0], epsilon=0.1, steps=3, targets=2, queries=4
        ),
        {f"images[{i}]": (32, 40) for i in range(3)},
        dict.fromkeys(("original", "adversarial"), (3, 3, 32, 40)),
        report="ensemble",
        seeded=False,
    ),
    Case(
        "attribution_maps",
        job_pb2.AttributionMaps(
            images=[{}, {}],
            attributions=[
                {"rise": {"masks": 3, "cells": 4, "probability": 0.5, "seed": 7}},
                {
                    "target": {"channel": {"layer": "features.relu2", "channel": 1}},
                    "smoothgrad": {"samples": 2, "sigma": 0.2, "seed": 0},
                },
                {"integrated_gradients": {"steps": 2, "baseline": 0}},
                {"occlusion": {"window": 20, "stride": 20, "fill": 0.5}},
            ],
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        {
            "0.rise": (2, 1, 32, 40),
            "1.smoothgrad": (2, 3, 32, 40),
            "2.integrated_gradients": (2, 3, 32, 40),
            "3.occlusion": (2, 1, 32, 40),
        },
        report="attribution",
        seeded=False,
    ),
    Case(
        "transfer_matrix",
        adversarial_pb2.TransferMatrix(
            images=[{}, {}], labels=[0, 0], models=[{"name": NAME}], epsilon=0.1, steps=2
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        dict.fromkeys(("matrix", "noise"), (2, 2)),
        report="transfer",
        seeded=False,
    ),
    Case(
        "carlini_wagner",
        adversarial_pb2.CarliniWagner(
            images=[{}, {}],
            searches=2,
            steps=4,
            learning_rate=0.02,
            initial_constant=1,
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        dict.fromkeys(("original", "adversarial", "perturbation"), (2, 3, 32, 40)),
        report="attack",
        seeded=False,
    ),
    Case(
        "carlini_wagner",
        adversarial_pb2.CarliniWagner(
            images=[{}, {}],
            searches=2,
            steps=3,
            learning_rate=0.02,
            initial_constant=1,
            targets=[1, 4],
            no_early_stop=True,
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        dict.fromkeys(("original", "adversarial", "perturbation"), (2, 3, 32, 40)),
        report="attack",
        seeded=False,
    ),
    Case(
        "lbfgs_attack",
        adversarial_pb2.LbfgsAttack(images=[{}, {}], targets=[3], searches=2, steps=3, initial_constant=0.1),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        dict.fromkeys(("original", "adversarial", "perturbation"), (2, 3, 32, 40)),
        report="attack",
        seeded=False,
    ),
    Case(
        "train_style",
        style_pb2.TrainStyle(
            name="painter",
            collection="c",
            shards=[SHARD],
            steps=3,
            batch=2,
            size=64,
            width=4,
            learning_rate=0.01,
            content_weight=0.1,
            tv_weight=0.5,
        ),
        {"style": (40, 48)},
        {"image": (1, 3, 40, 40)},
        report="train_style",
    ),
    Case(
        "measure_receptive_field",
        job_pb2.MeasureReceptiveField(
            collection="c",
            layer="features.conv4_1",
            channel=3,
            discrepancy={"patch": 9, "stride": 2, "threshold": 0.5},
            images=PICTURES,
        ),
        {},
        {
            "field": (49, 49),
            "maps": (3, 96, 96),
            "images": (3, 3, 96, 96),
            "values": (3,),
            "positions": (3, 2),
            "sizes": (2,),
        },
    ),
    Case(
        "expectation_attack",
        adversarial_pb2.ExpectationAttack(
            images=[{}, {}],
            targets=[1, 2],
            transforms=CAMERA,
            samples=2,
            steps=2,
            angles=2,
            held_out=2,
            norm=attack_pb2.NORM_L2,
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        {
            "original": (2, 3, 32, 40),
            "naive": (2, 3, 32, 40),
            "adversarial": (2, 3, 32, 40),
            "angles": (2,),
            "probabilities": (3, 2, 2),
        },
        report="attack",
    ),
    Case(
        "adversarial_patch",
        adversarial_pb2.AdversarialPatch(
            images=[{}, {}],
            held_out=[{}, {}],
            target=1,
            size=0.4,
            transforms=CAMERA,
            samples=3,
            steps=3,
            learning_rate=0.1,
        ),
        dict.fromkeys(("images[0]", "images[1]", "held_out[0]", "held_out[1]"), (40, 32)),
        {"disc": (1, 3, 13, 13), "mask": (1, 1, 13, 13), "pictures": (2, 3, 40, 32)},
        report="patch",
    ),
    Case(
        "printed_photo",
        adversarial_pb2.PrintedPhoto(
            images=[{}, {}],
            labels=[1, 2],
            epsilons=[1 / 255, 4 / 255],
            photographs=2,
            rotation=5,
            blur=0.6,
            gamma=1.2,
            quality=85,
            perspective=0.03,
            noise=0.01,
        ),
        {"images[0]": (32, 40), "images[1]": (32, 40)},
        {"photographs": (3, 2, 3, 32, 40)},
        report="printed",
    ),
)

ELSEWHERE = {"extract_features", "substitute"}
"""Techniques that need a collection or a victim: tests of their own hold the same for them."""
