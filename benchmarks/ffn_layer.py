"""One feed-forward layer, forward and backward: the reference's weight mask against this project's forms.

4,096 tokens, 30, 50 and 70 % of the neurons kept, at two sizes: the fused operation (what trains on a
CPU), the gather form in ordinary operations (what other devices run), and mixed batches of 8 directions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import common

SIZES = {"128/512": (128, 512), "512/2048": (512, 2048)}
PROTOTYPE = {0.3: 0.33, 0.5: 0.51, 0.7: 0.75}
TOKENS, LENGTH, DIRECTIONS = 4096, 32, 8


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="of the smaller size; a fifth of the larger")
    options = parser.parse_args()
    common.as_trainer(options.threads)
    import torch

    from neuron_specialization.transformer.ffn_plan import Group, MaskTable, choose
    from neuron_specialization.transformer.fused_ffn import fused_ffn
    from neuron_specialization.transformer.masked_ffn import Gather, gather_ffn, row_mask_ffn

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows: list[common.Row] = []
    details: dict[str, Any] = {"tokens": TOKENS, "directions of a mixed batch": DIRECTIONS}
    samples: dict[str, list[common.Sample]] = {}
    for size, (d, d_ff) in SIZES.items():
        repeats = options.repeats if d == 128 else -(-options.repeats // 5)
        x = torch.randn(TOKENS // LENGTH, LENGTH, d, requires_grad=True)
        shapes = ((d_ff, d), (d_ff,), (d, d_ff), (d,))
        weights = [(0.05 * torch.randn(*shape)).requires_grad_() for shape in shapes]
        w1, b1, w2, b2 = weights
        incoming = torch.randn_like(x)
        for kept in PROTOTYPE:
            # exactly that share of each direction: drawn neuron by neuron it is off by some points
            masks = torch.rand(DIRECTIONS, d_ff).argsort(1) < round(kept * d_ff)
            layer = MaskTable(masks, torch.float32)
            gather = Gather.of(masks[0], torch.float32)
            weight_mask = masks[0].unsqueeze(1).expand(d_ff, d).clone()
            whole = layer.whole(0, TOKENS)
            each = len(x) // DIRECTIONS
            groups = [Group(i, i * each, (i + 1) * each) for i in range(DIRECTIONS)]
            chosen = choose(layer, groups, LENGTH, d, bfloat16=False)
            mixed_parts = chosen or layer.merged(groups, LENGTH)
            row_mask = masks.float().repeat_interleave(each, 0).unsqueeze(1)

            def by_weight(x: Any = x, w: Any = weights, mask: Any = weight_mask) -> Any:
                hidden = torch.relu(torch.nn.functional.linear(x, w[0] * mask, w[1]))
                return torch.nn.functional.linear(hidden, w[2], w[3])

            forms: dict[str, Callable[[], Any]] = {
                "weight mask": by_weight,
                "fused": partial(fused_ffn, x, w1, b1, w2, b2, whole),
                "gather": partial(gather_ffn, x, w1, b1, w2, b2, gather),
                "row mask, mixed": partial(row_mask_ffn, x, w1, b1, w2, b2, row_mask),
                "grouped, mixed": partial(fused_ffn, x, w1, b1, w2, b2, mixed_parts),
            }

            def repeated(form: Callable[[], Any], n: int = repeats, g: Any = incoming) -> common.Sample:
                return common.timed(lambda: [form().backward(g) for _ in range(n)])

            ways = {name: partial(repeated, form) for name, form in forms.items()}
            for way in ways.values():
                way()
            found = common.interleave(ways, options.rounds)
            cpu = {name: [sample.cpu for sample in taken] for name, taken in found.items()}
            fused = common.ratio(cpu["fused"], cpu["weight mask"])
            gathered = common.ratio(cpu["gather"], cpu["weight mask"])
            mixed = common.ratio(cpu["grouped, mixed"], cpu["row mask, mixed"])
            share = f"{kept:.0%} kept, d/ffn {size}"
            aim = PROTOTYPE[kept]
            rows += [
                common.Row(
                    f"FFN layer / weight mask, {share}",
                    common.shown(fused),
                    f"≤ {aim}",
                    fused["median"] <= aim,
                ),
                common.Row(f"… the gather form in ordinary operations, {share}", common.shown(gathered)),
                common.Row(f"… {DIRECTIONS} directions grouped / row mask, {share}", common.shown(mixed)),
            ]
            details[share] = {"fused": fused, "gather": gathered, "grouped / row mask": mixed}
            details[share]["the rule groups these directions"] = chosen is not None
            samples |= {f"{share}, {name}": taken for name, taken in found.items()}
    common.write_result("ffn_layer", rows, details, threads=options.threads, samples=samples)


if __name__ == "__main__":
    main()
