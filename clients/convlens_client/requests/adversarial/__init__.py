"""Attacks that iterate, as jobs; one file a family of attacks."""

from convlens_client.requests.adversarial.minimal import carlini_wagner, lbfgs_attack

__all__ = ["carlini_wagner", "lbfgs_attack"]
