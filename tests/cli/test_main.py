import warnings

import click
import pytest
from vlcore import cli, errors


@pytest.fixture
def fails(monkeypatch):
    """Makes `vlcore models` raise an error; gives the exit code and what stands on standard error."""

    def run(error, *arguments):
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as caught:
            cli.main(["models", *arguments])
        return caught.value.code

    return run


@pytest.mark.parametrize(
    ("kind", "code"),
    [("UsageError", 2), ("ModelNotFound", 3), ("PluginError", 4), ("DataError", 5), ("CheckpointError", 6),
     ("MediaError", 7), ("VlcoreError", 1)],
)
def test_each_error_is_one_line_and_has_its_exit_code(kind, code, fails, capsys):
    assert fails(getattr(errors, kind)("given", "why\nso", "do")) == code
    assert capsys.readouterr().err == "vlcore: error: given: why so; do\n"


def test_missing_extra_names_the_command_that_installs_it(fails, capsys):
    assert fails(errors.ExtraMissing("--quantization_bit 4", "bitsandbytes", "qlora")) == 8
    assert "run: pip install 'vlcore[qlora]'" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_the_same_line(fails, capsys):
    assert fails(errors.UsageError("given", "why", "do"), "--debug") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith("vlcore: error: given: why; do\n")


def test_fault_of_the_program_is_one_line_that_points_to_debug(fails, capsys):
    assert fails(KeyError("x")) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "KeyError: 'x'" in shown and "--debug" in shown


@pytest.mark.parametrize(
    ("error", "line"),
    [(PermissionError(13, "Permission denied", "out/run"), "out/run: Permission denied; check"),
     (OSError(28, "No space left on device"), "the system: No space left on device; check")],
)
def test_what_the_system_refuses_is_no_fault_of_the_program(error, line, fails, capsys):
    assert fails(error) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"vlcore: error: {line}") and "fault of vlcore" not in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_interruption_has_the_exit_code_of_the_shell(error, fails, capsys):
    assert fails(error) == 130
    assert capsys.readouterr().err.strip() == "vlcore: error: interrupted"


def run(*arguments):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        cli.main(list(arguments))
    return caught.value.code


def test_no_command_shows_the_help_with_every_command(capsys):
    assert run() == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


def test_unknown_command_is_refused_with_the_near_name(capsys):
    assert run("infr") == 2
    assert capsys.readouterr().err == "vlcore: error: command infr: there is no such command; did you mean infer?\n"


def test_version_is_that_of_the_distribution(capsys):
    from importlib.metadata import version

    assert run("--version") == 0
    assert version("vlcore") in capsys.readouterr().out


def test_warning_is_one_line(capsys):
    cli.show_warning("two\nlines", UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "vlcore: warning: two lines\n"


def test_models_without_plugins_says_what_to_install(use_plugins, capsys):
    use_plugins()
    assert run("models") == 0
    said = capsys.readouterr().out
    assert "pip install vlcore-internvl" in said
    assert "Other models that transformers has for pictures and text work" in said


@pytest.mark.parametrize("command", ["models", "plugins"])
def test_listing_is_a_table_or_json(command, use_plugins, make_point, make_plugin, make_family, capsys):
    import json

    use_plugins(make_point("toy", make_plugin(make_family())))
    assert run(command) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] in ("name", "plugin") and any("vlcore-toy" in row for row in rows)
    assert run(command, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert "vlcore-toy" in {row.get("distribution", row["plugin"]) for row in listed}
