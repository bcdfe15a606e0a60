"""The verbs. Each is a module of `launcher.verbs` that is imported when it is typed, so that `--help` is quick."""

from __future__ import annotations

from importlib import import_module

import click

# Name -> one line of help. The order is the order of a person's day.
VERBS = {
    "demo": "Make a small sample project to try all of it at no cost.",
    "init": "Write a commented launch.toml from what is found in this folder.",
    "estimate": "What a model and its data need of a machine; spends nothing.",
    "plan": "Price every way to run a job; spends nothing.",
    "dpo": "Plan, ask once, train, and bring the results home.",
    "orpo": "The same by ORPO: preference pairs, no reference.",
    "kto": "The same by KTO: completions, each wanted or not.",
    "sft": "The same by SFT: completions to imitate.",
    "status": "One line a job, or one job in full.",
    "logs": "What the trainer said.",
    "cancel": "Stop a job; its last checkpoint comes home first.",
    "resume": "Go on with a job from its last whole checkpoint.",
    "pull": "Bring a job's results home (again).",
    "eval": "Stage A against Stage B on held-out data.",
    "cost": "The ledger: what every attempt cost.",
    "reap": "End machines of this store that no live job owns.",
    "rm": "Forget a job whose results are at home.",
    "doctor": "Check this machine; each finding with its remedy.",
    "image": "Build or push the trainer's image.",
}


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"launcher.verbs.{cmd_name}"), f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            from launcher.settings import nearest

            raise click.UsageError(f"There is no verb {args[0]}.{nearest(args[0], list(VERBS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from launcher import version

        click.echo(f"launch {version()}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def launch() -> None:
    """Preference tuning (DPO, ORPO, KTO) and SFT where it fits.

    Knows what a job needs before it starts, says what it will cost, trains, brings the results home, and never
    spends more than it was allowed. Without --budget nothing is ever bought: the job runs on this machine.
    """
