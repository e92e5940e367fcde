"""Commands with more options than fit a screen: `--help` shows those that most need, `--help-all` shows all."""

from typing import Any

import click

_NEEDED = frozenset(
    {
        *("prompt_column", "template", "template_file", "images", "system", "model", "max_tokens", "params"),
        *("output_schema", "limit", "name", "max_cost_usd", "out", "timeout", "on_ended", "exact", "max_concurrency"),
        *("store", "as_json", "help", "help_all"),
    }
)


class BriefCommand(click.Command):
    """Shows the options that most need."""

    def __init__(self, *words: Any, **settings: Any) -> None:  # noqa: ANN401  click's own
        super().__init__(*words, **settings)
        everything: dict[str, Any] = {
            "is_flag": True,
            "is_eager": True,
            "expose_value": False,
            "help": "Show all options.",
        }
        self.params.append(click.Option(["--help-all"], callback=_show_all, **everything))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, all if `--help-all` asks for them."""
        shown = [param for param in self.get_params(ctx) if ctx.meta.get(__name__) or param.name in _NEEDED]
        records = [record for param in shown if (record := param.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(records)


def _show_all(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001  click's signature
    if value:
        ctx.meta[__name__] = True
        click.echo(ctx.get_help())
        ctx.exit()
