"""The page for those who come from ms-swift names every option, and what it says of each is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest
from vlcore.cli import cli
from vlcore.config import ExportConfig, InferConfig, SftConfig
from vlcore.serve.settings import ServeConfig
from vlcore.web.settings import WebConfig

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf8")
#: Sections of the page, and the commands they are about.
COMMANDS = {"sft": "sft", "infer": "infer", "export": "export", "app-ui": "web", "deploy": "serve"}
OPTION = re.compile(r"--[A-Za-z][\w-]*")


def read_options(command: str) -> set[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return {name for param in found.params for name in param.opts}


def read_rows(section: str) -> list[tuple[list[str], str]]:
    """The rows of a section's table: options there, and what is here."""
    text = re.split(r"^#{2,3} ", PAGE.split(f"### {section}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| `")]
    return [(OPTION.findall(there), here) for there, here in rows]


def read_names() -> dict[str, list[str]]:
    """Options of the older toolkit by command."""
    text = Path(__file__).with_name("swift_options.txt").read_text("utf8")
    sections = re.split(r"^\[([\w-]+)\]$", text, flags=re.MULTILINE)[1:]
    return {name: body.split() for name, body in zip(sections[::2], sections[1::2], strict=True)}


@pytest.mark.parametrize("section", COMMANDS)
def test_every_option_of_the_older_toolkit_is_on_the_page_once(section: str) -> None:
    there = [option for options, _ in read_rows(section) for option in options]
    assert len(there) == len(set(there))
    assert {f"--{name}" for name in read_names()[section]} - set(there) == set()


@pytest.mark.parametrize("section", COMMANDS)
def test_an_option_is_understood_if_and_only_if_the_page_says_so(section: str) -> None:
    known = read_options(COMMANDS[section])
    for there, here in read_rows(section):
        assert here.startswith(("same", "none")), here
        assert [option for option in there if (option in known) != here.startswith("same")] == []


@pytest.mark.parametrize("section", COMMANDS)
def test_options_that_the_page_offers_exist(section: str) -> None:
    for _, here in read_rows(section):
        named = re.findall(r"`vlcore (\w+)", here)
        known = set().union(*map(read_options, [COMMANDS[section], *(name for name in named if name != "data")]))
        assert [option for option in OPTION.findall(here) if option not in known] == []


@pytest.mark.parametrize(
    ("command", "config"),
    [("sft", SftConfig), ("infer", InferConfig), ("export", ExportConfig), ("serve", ServeConfig), ("web", WebConfig)],
)
def test_older_spellings_that_are_understood_are_on_the_page(command: str, config: type) -> None:
    names = read_names()
    older = {name for options in names.values() for name in options}
    aliases = {alias for field in dataclasses.fields(config) for alias in field.metadata["aliases"]}
    assert [alias for alias in aliases & older if f"`--{alias}`" not in PAGE] == []


def test_options_of_the_yi_projects_scripts_are_understood() -> None:
    lines = PAGE.split("## From the Yi project's scripts")[1].splitlines()
    rows = [line.split(" | ") for line in lines if "--" in line]
    assert len(rows) >= 5
    for there, here in (row for row in rows if row[0].startswith("| `")):
        command = re.findall(r"`vlcore (\w+)", here)[0]
        typed = {option.replace("-", "_").replace("__", "--", 1) for option in OPTION.findall(there + here)}
        assert typed <= read_options(command), there
