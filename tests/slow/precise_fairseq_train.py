"""fairseq-train with its log unrounded: losses are compared to more digits than it prints."""

from __future__ import annotations

from typing import Any


def unrounded(number: Any, _: int | None) -> Any:
    return number.item() if hasattr(number, "item") else number


def main() -> None:
    # before the rest of fairseq: it sets up the logging
    from fairseq_cli import train  # isort: skip
    from fairseq.logging import meters, progress_bar

    def precise(stat: Any) -> str:
        if isinstance(stat, meters.AverageMeter | meters.TimeMeter):
            stat = stat.avg
        elif isinstance(stat, meters.StopwatchMeter):
            stat = stat.sum
        return repr(float(stat))

    meters.safe_round = unrounded
    progress_bar.format_stat = precise
    train.cli_main()


if __name__ == "__main__":
    main()
