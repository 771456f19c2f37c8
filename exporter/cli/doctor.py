"""`graphwright doctor`."""

from __future__ import annotations

import click

from exporter.cli.output import Output, json_option


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Show which targets can build and run on this machine, why not, and what to do about it."""
    from dataclasses import asdict

    from exporter.environment import diagnose

    diagnosis = diagnose()
    Output(as_json).data(asdict(diagnosis), lambda: _print(diagnosis))


def _print(diagnosis: object) -> None:
    from exporter.environment import Diagnosis

    assert isinstance(diagnosis, Diagnosis)
    click.echo(", ".join(f"{name} {version}" for name, version in diagnosis.environment.items()))
    for name, readiness in diagnosis.targets.items():
        states = ((readiness.can_build, "build"), (readiness.can_run, "run"))
        words = ", ".join(f"{'can' if able else 'cannot'} {verb}" for able, verb in states)
        color = "green" if readiness.can_build and readiness.can_run else "yellow" if readiness.can_build else "red"
        click.secho(f"{name:<12} {words}", fg=color, nl=False)
        details = [readiness.device, *(f"{key} {version}" for key, version in readiness.versions.items())]
        click.echo("  " + ", ".join(filter(None, details)))
        if readiness.reason:
            click.echo(f"{'':<13}{readiness.reason}")
        if readiness.fix:
            click.echo(f"{'':<13}fix: {readiness.fix}")
    for plugin in diagnosis.broken:
        click.secho(f"{plugin.name:<12} broken plug-in: {plugin.reason}", fg="red")
