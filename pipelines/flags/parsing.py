"""The command line of a ready-made pipeline: its own flags, those of Beam, and nothing else."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.kafka import read_properties
from beam_exactly_once.pipelines.flags.arguments import Argument
from beam_exactly_once.pipelines.flags.values import Unreadable, converted, value_of

Groups = Mapping[str, Sequence[Argument]]
"""The flags, by what they are arguments of."""


class FlagParser:
    """Reads the flags of one pipeline.

    Args:
        program: how it was called, for ``--help``.
        description: one line.
        groups: the flags. Of two of one name there is none: prefixes tell them apart.
    """

    def __init__(self, program: str, description: str, groups: Groups) -> None:
        self._groups = groups
        self._parser = argparse.ArgumentParser(
            prog=program,
            usage="%(prog)s FLAGS",
            description=description,
            epilog="Every option of Apache Beam is taken, too. Underscores may stand for hyphens.",
            allow_abbrev=False,
        )
        for title, arguments in groups.items():
            group = self._parser.add_argument_group(title)
            for argument in arguments:
                _add(group, argument)

    def parse(self, argv: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The given arguments of each group, by their names, and the flags of Beam. Ends the process with 2, and a message, if
        a flag is wrong, missing or not known.

        Raises:
            ConfigurationError: a file that a flag names cannot be read or written.
        """
        known = {option for action in self._parser._actions for option in action.option_strings}
        namespace, rest = self._parser.parse_known_args([_hyphened(word, known) for word in argv])
        beam_flags = self._of_beam(rest, known)
        self._refuse_missing(vars(namespace))
        values: dict[str, dict[str, Any]] = {}
        for title, arguments in self._groups.items():
            values[title] = {}
            for argument in arguments:
                given = self._given(argument, vars(namespace))
                if given is not None:
                    values[title][argument.name] = given.value
        return values, beam_flags

    def refuse(self, message: str) -> NoReturn:
        """End the process with 2 and a message."""
        self._parser.error(message)

    def _given(self, argument: Argument, texts: Mapping[str, Any]) -> _Given | None:
        text, file = texts[argument.flag], texts.get(f"{argument.flag}-file")
        try:
            if argument.is_mapping:
                return None if text is None and file is None else _Given(_mapping(argument, file, text or []))
            return None if text is None else _Given(value_of(text, argument.hint, argument.kinds))
        except Unreadable as error:
            self._parser.error(f"{argument.flag} {error}")

    def _refuse_missing(self, texts: Mapping[str, Any]) -> None:
        arguments = [argument for of_group in self._groups.values() for argument in of_group]
        missing = [argument.flag for argument in arguments if argument.is_required and texts[argument.flag] is None]
        if missing:
            self.refuse(f"{', '.join(missing)} must be given.")

    def _of_beam(self, words: Sequence[str], ours: Iterable[str]) -> list[str]:
        """What is left, if Beam knows each flag; spelled as Beam does."""
        of_beam = {_hyphens(option): option for option in _beam_options()}
        flags: list[str] = []
        for word in words:
            name, separator, value = word.partition("=")
            if word.startswith("--") and _hyphens(name) in of_beam:
                flags.append(f"{of_beam[_hyphens(name)]}{separator}{value}")
            elif word.startswith("-") or not flags:
                self._parser.error(f"{name} is not known, here or by Apache Beam.{_nearest(name, ours, of_beam)}")
            else:
                flags.append(word)  # the value of the flag before
        return flags


class _Given:
    """A value, which may be None."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _add(group: argparse._ArgumentGroup, argument: Argument) -> None:
    how: dict[str, Any] = {"dest": argument.flag, "default": None, "help": argument.help.replace("%", "%%")}
    if argument.is_mapping:
        group.add_argument(argument.flag, action="append", metavar="KEY=VALUE", **how)
        of_file = f"a properties file with values of {argument.flag}"
        group.add_argument(f"{argument.flag}-file", dest=f"{argument.flag}-file", metavar="FILE", help=of_file)
    elif argument.is_switch:
        group.add_argument(argument.flag, nargs="?", const="true", metavar="true|false", **how)
    else:
        group.add_argument(argument.flag, metavar=argument.name.upper(), **how)


def _mapping(argument: Argument, file: str | None, texts: Sequence[str]) -> Any:
    """The values of a file, and over them those that stand in flags."""
    values: dict[str, Any] = {} if file is None else dict(read_properties(file))
    for text in texts:
        if text == "none" or text.startswith("{"):
            values |= value_of(text, argument.hint, argument.kinds) or {}
            continue
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise Unreadable(f"must be KEY=VALUE, not {text!r}")
        values |= converted({key: value}, argument.hint, argument.kinds)
    return values


def _beam_options() -> set[str]:
    """Every option of Beam in Python, as Beam spells it."""
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


def _nearest(name: str, ours: Iterable[str], of_beam: Iterable[str]) -> str:
    """What may have been meant: one of our flags rather than one of Beam's."""
    for known, likeness in ((ours, 0.7), (of_beam, 0.8), (ours, 0.5)):
        by_words = {_sorted_words(one): one for one in sorted(known)}
        near = difflib.get_close_matches(_sorted_words(_hyphens(name)), by_words, n=1, cutoff=likeness)
        if near:
            return f" Is {by_words[near[0]]} meant?"
    return " --help lists ours."


def _sorted_words(flag: str) -> str:
    """A flag whose words are in another order is the same to people."""
    return " ".join(sorted(flag.strip("-").split("-")))


def _hyphened(word: str, known: Iterable[str]) -> str:
    """A word of the command line, with hyphens in its flag if that is one of ours."""
    name, separator, value = word.partition("=")
    return f"{_hyphens(name)}{separator}{value}" if word.startswith("--") and _hyphens(name) in known else word


def _hyphens(name: str) -> str:
    return name.replace("_", "-")
