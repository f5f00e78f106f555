"""``python -m beam_exactly_once``: the command line where the scripts of an installation are not on the path."""

from beam_exactly_once.cli import main

main(prog_name="beam-exactly-once")
