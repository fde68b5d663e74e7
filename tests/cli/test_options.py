from dataclasses import dataclass
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from vlcore.cli import COMMANDS, cli
from vlcore.cli.options import ConfigCommand, config_options, show_default
from vlcore.config import check_values, default_of, list_options, setting


@dataclass(frozen=True, kw_only=True)
class Toy:
    batch_size: int = setting(1, "Rows.", aliases=("per_device_size",), minimum=1)
    rate: float | None = setting(None, "Rate.")
    kind: Literal["lora", "full"] = setting("lora", "Kind.")
    quick: bool = setting(False, "Quick.")
    slow: bool = setting(True, "Slow.")
    dataset: tuple[str, ...] = setting((), "Files.")
    name: str = setting("", "Name.")

    def __post_init__(self) -> None:
        check_values(self)


@click.command(cls=ConfigCommand)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.argument("folder", nargs=-1)
@config_options(Toy)
def toy(config: Toy, as_json: bool, folder: tuple[str, ...]) -> None:
    toy.seen = config, as_json, folder


def parse(*arguments: str) -> Toy:
    toy.main(list(arguments), standalone_mode=False)
    return toy.seen[0]


def refuse(*arguments: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


@pytest.mark.parametrize("option", ["--batch_size", "--batch-size", "--per_device_size", "--per-device-size"])
def test_option_answers_to_snake_case_and_kebab_case_and_aliases(option):
    assert parse(option, "4") == parse(f"{option}=4") == Toy(batch_size=4)


@pytest.mark.parametrize(
    ("given", "value"),
    [((), True), (("true",), True), (("True",), True), (("1",), True), (("false",), False), (("0",), False)],
)
def test_boolean_stands_alone_or_with_its_value(given, value):
    assert parse("--quick", *given).quick is value
    assert parse("--slow", *given).slow is value


def test_boolean_takes_its_value_after_an_equals_sign():
    assert parse("--slow=false", "--quick=true") == Toy(slow=False, quick=True)


def test_boolean_leaves_the_next_option_alone():
    assert parse("--quick", "--batch_size", "2") == Toy(quick=True, batch_size=2)


@pytest.mark.parametrize(("given", "value"), [((), True), (("true",), True), (("false",), False)])
def test_plain_flag_takes_true_and_false_too(given, value):
    parse("--json", *given)
    assert toy.seen[1] is value


def test_several_values_follow_one_option():
    together = parse("--dataset", "a.jsonl", "b.jsonl#3", "--quick")
    assert together == parse("--dataset", "a.jsonl", "--quick", "--dataset", "b.jsonl#3")
    assert together.dataset == ("a.jsonl", "b.jsonl#3")


def test_value_may_hold_dashes_and_equals_signs_and_spaces_and_nothing():
    assert parse("--name", "a-b=c d").name == "a-b=c d"
    assert parse("--name=--x=y").name == "--x=y"
    assert parse("--name", "--not an option").name == "--not an option"
    assert parse("--name", "").name == ""


def test_negative_number_is_a_value():
    assert parse("--rate", "-1e-3").rate == -1e-3


def test_words_behind_two_dashes_are_arguments():
    parse("--quick", "--", "--name", "x")
    assert toy.seen[2] == ("--name", "x")


def test_unknown_option_is_refused_with_the_near_name():
    assert refuse("--bach-size", "4") == "option --bach-size: there is no such option; did you mean batch_size?"


def test_option_without_its_value_is_refused_instead_of_eating_the_next_option():
    assert refuse("--name", "--quick").startswith("option --name: it needs a value")
    assert refuse("--name").startswith("option --name: it needs a value")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch_size", "many"), "'many' is not a valid integer"),
        (("--rate", "fast"), "'fast' is not a valid float"),
        (("--kind", "qlora"), "'qlora' is not one of 'lora', 'full'"),
        (("--quick=maybe",), "'maybe' is not a valid boolean"),
        (("--json=maybe",), "maybe is neither true nor false"),
    ],
)
def test_value_of_another_kind_is_refused_in_one_line(arguments, said):
    message = refuse(*arguments)
    assert said in message and "\n" not in message


def test_help_shows_every_option_with_its_sentence_and_default():
    shown = " ".join(CliRunner().invoke(toy, ["--help"]).output.split())
    for item, _, _ in list_options(Toy):
        assert f"--{item.name}" in shown
        assert f"{item.metadata['help']} [default: {show_default(default_of(item))}]" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_comes_without_running_it(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0 and result.output.startswith(f"Usage: cli {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_a_sentence(name):
    command = cli.get_command(click.Context(cli), name)
    assert command.help
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []
