"""The page of the documentation that shows what came of every network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coverage.check import RANDOM_MODES, Outcome

_HEAD = """# Which networks convert

Every classification network of torchvision and the smallest network of every module of timm, built
with random weights and handed to `wenable.convert` as it is. {counts}

A network counts as **converted** when at least half of what could be grouped in it switches, *and*
every check passes. The default settings are tried first, which leave the projections of attention
alone; where they fall short, `attention=True` is, and the verdict says so. What could be grouped is
counted without wenable, by watching the calls a network makes: all convolutions with `groups` 1 on
maps larger than 1x1 and all dense layers but the classifier, where 2 divides inputs and outputs.

Checked for each, with norms, biases and layer scales of random values: the full mode equals the
original bit for bit; the smallest and {modes} random modes, calibrated, agree with their extracted
networks; `macs` agrees with a count of what runs in each of them; each runs forward and backward in
training with a finite gradient at every layer that switches.

MACs, knobs and shares are those of [one count](../concepts/counting.md) that does not depend on the kernels
that ran, made again from the traces with `python -m benchmarks.coverage --recount`; the commit of
each is in the records as `counted`.

Made by `{command}` (`make coverage-of-networks`) on {machine} with {versions}. The figures of every
network, the MACs by reason of what does not switch, and the commit they were found with are in
`results/coverage.jsonl`.

- *groupable*: share of the groupable MACs that switches; in brackets with `attention=True`, where
  projections of attention were left alone.
- *of all*: the same MACs as a share of everything the network computes.
- *1/16*: how many times fewer MACs the smallest mode costs.
- *extract*: largest difference between a mode and its extracted network, relative to the largest
  output, in units of 1e-7 (the precision of float32 is 1.2).
"""

_COLUMNS = "| network | family | knobs | GMACs | groupable | of all | 1/16 | extract | verdict |"


def table(results: Mapping[str, Any]) -> str:
    """Return the page, in Markdown, for the content of the records."""
    outcomes = [Outcome(**row) for row in results["networks"]]
    page = [
        _HEAD.format(
            counts=" ".join(_counts(outcomes, library) for library in ("torchvision", "timm")),
            command=results["command"],
            machine=results["machine"],
            modes=RANDOM_MODES,
            versions=", ".join(f"{name} {v}" for name, v in results["versions"].items()),
        )
    ]
    for library in ("torchvision", "timm"):
        own = [outcome for outcome in outcomes if outcome.library == library]
        page += [f"## {library}\n", _COLUMNS, "|---|---|--:|--:|--:|--:|--:|--:|---|"]
        page += [_row(outcome) for outcome in own]
        page.append("")
        page += _reasons(own)
    return "\n".join(page)


def _counts(outcomes: Sequence[Outcome], library: str) -> str:
    own = [each for each in outcomes if each.library == library]
    verdicts = Counter(each.verdict for each in own)
    chosen = sum(each.verdict == "converted" and bool(each.settings) for each in own)
    count = sum(verdicts.values())
    rest = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items() if verdict != "converted")
    share = verdicts["converted"] / max(count, 1)
    return (
        f"Of {count} in {library}, **{verdicts['converted']} convert** ({share:.1%})"
        + (f", {chosen} of them with `attention=True`" if chosen else "")
        + (f"; {rest}" if rest else "")
        + "."
    )


def _row(outcome: Outcome) -> str:
    start = f"| `{outcome.name}` | {outcome.family} |"
    if not outcome.knobs:
        return f"{start} | | | | | | {outcome.verdict} |"
    share = f"{outcome.share_by_default:.0%}"
    verdict = outcome.verdict + (f" with `{outcome.settings}`" if outcome.settings else "")
    if outcome.share_with_attention is not None:
        share += f" ({outcome.share_with_attention:.0%})"
    return (
        f"{start} {outcome.knobs} | {outcome.full_macs / 1e9:.2f} | {share} |"
        f" {outcome.switched_macs / outcome.full_macs:.0%} |"
        f" {outcome.full_macs / outcome.smallest_macs:.1f}x |"
        f" {outcome.extract_difference / 1e-7:.0f} | {verdict} |"
    )


def _reasons(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each network that was refused, switches too little, or went wrong."""
    lines = []
    for outcome in outcomes:
        if outcome.verdict == "partly":
            most = next(iter(outcome.left_alone), "")
            share = outcome.left_alone.get(most, 0) / max(outcome.full_macs, 1)
            reason = f"{share:.0%} of its MACs are in layers of which each {most}"
        else:
            reason = outcome.refusal or outcome.unfinished or "; ".join(outcome.defects)
        if outcome.verdict != "converted":
            lines.append(f"- `{outcome.name}` ({outcome.verdict}): {reason}.")
    return [*lines, ""] if lines else []
