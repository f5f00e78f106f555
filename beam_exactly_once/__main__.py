"""``python -m beam_exactly_once.cli``: the same where the scripts of an installation are not on the path."""

from beam_exactly_once.cli.commands import main

main()
