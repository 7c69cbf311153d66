"""`convlens attack`: adversarial images, with their certificate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.common import Image, out, percent, write
from convlens_client.cli.options import Shared, command
from convlens_client.rendering import Picture
from convlens_client.requests import quick_attack
from convlens_client.results import AttackOutcome, Certificate

Show = Literal["triple", "adversarial"]
Target = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.classes,
        help="Class to be taken for, by index or label; default: any other class.",
    ),
]


@command("out", "model", "resize", "frame", "json", request=quick_attack.attack)
def attack(
    given: Shared,
    image: Image,
    *,
    method: Annotated[quick_attack.AttackMethod, typer.Option(help="Technique.")] = "fgsm",
    target: Target = None,
    show: Annotated[
        Show,
        typer.Option(help="Picture: photo, sign or change, and result side by side, or the result alone."),
    ] = "triple",
    **parameters: Any,
) -> None:
    """Change an image a little, so that the model takes it for something else.

    Example: convlens attack cat.jpg --method pgd --eps 8/255 --target dots --out pgd.png
    """
    index = None if target is None else given.class_index(target)
    outcome = given.client.attack(given.picture(image), method, target=index, **parameters)
    certificate = outcome.certificates[0]
    if not given.emitted({"method": method, "certificate": certificate}):
        tell(certificate)
    adversarial = outcome.adversarial[0]
    alone = show == "adversarial"
    picture = rendering.photo(adversarial) if alone else triple(outcome, one_step=method == "fgsm")
    write(given.file(f"{image.stem}-{method}.png"), adversarial, picture)


def triple(outcome: AttackOutcome, number: int = 0, *, one_step: bool = True) -> Picture:
    """Photo, sign of the gradient and adversarial image side by side, with what the model says.

    After more than one step the sign does not make the image: the change is shown then, enlarged.
    """
    certificate = outcome.certificates[number]
    original, adversarial = outcome.original[number], outcome.adversarial[number]
    most = f"at most {certificate.linf * 255:.3g}/255"
    middle = (f"sign of the gradient\nchange: {most}", rendering.signs(outcome.gradient_sign[number]))
    if not one_step:
        gain = 0.5 / max(certificate.linf, 1e-9)
        change = rendering.photo(0.5 + gain * (adversarial - original))
        middle = (f"change x {gain:.3g}\n{most}, L2 {certificate.l2:.3g}", change)
    return rendering.sheet(
        [
            (percent(certificate.before), rendering.photo(original)),
            middle,
            (after(certificate), rendering.photo(adversarial)),
        ]
    )


def after(certificate: Certificate) -> str:
    """What the model says of the adversarial image, and of its encoding as a PNG."""
    return f"{percent(certificate.after)}\nas 8-bit PNG: {percent(certificate.after_encoding)}"


def tell(certificate: Certificate) -> None:
    """Prints for people what an attack did to an image."""
    met = {True: "[green]succeeded[/]", False: "[yellow]failed[/]"}
    out.print(f"before       {percent(certificate.before)}")
    if certificate.met_before:
        out.print("             the goal was met before: there was nothing to attack", style="yellow")
    out.print(f"after        {percent(certificate.after)}: {met[certificate.success]}")
    encoded = met[certificate.success_after_encoding]
    out.print(f"as 8-bit PNG {percent(certificate.after_encoding)}: {encoded}")
    size = f"largest change {certificate.linf * 255:.3g}/255, L2 {certificate.l2:.4g}"
    out.print(f"{size}, {certificate.queries} passes")
