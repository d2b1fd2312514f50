"""Runs a command in this process."""

from typer.testing import CliRunner

from wenable.cli.main import app


def run(*arguments: object, fails: bool = False):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])
    if fails:
        assert result.exit_code != 0, result.output
    else:
        assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result
