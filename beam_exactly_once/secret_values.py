"""Another name of :mod:`beam_exactly_once.secrets`, for code that imports by it."""

from beam_exactly_once.secrets import SecretValue, secret_from_env, secret_from_file

__all__ = ["SecretValue", "secret_from_env", "secret_from_file"]
