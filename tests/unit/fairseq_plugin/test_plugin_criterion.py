"""The loss of each direction in validation, and that nothing else changes by it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import utils as trainer_utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor, nn

from neuron_specialization.fairseq_plugin.criterion import FusedLabelSmoothedCrossEntropy
from neuron_specialization.training.progress import parse_record

LANGUAGES = ["en", "de", "nl"]
DIRECTIONS = ["en-de", "de-en", "en-nl"]
WIDTH, WORDS = 8, 20


class Projection(nn.Module):
    """As much of a model as a criterion sees: features that depend on the input, and an output projection."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(size, WIDTH)
        self.decoder = nn.Module()
        self.decoder.output_projection = nn.Linear(WIDTH, size, bias=False)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, features_only: bool = False
    ) -> tuple[Tensor, None]:
        features = self.table(prev_output_tokens) + self.table(src_tokens).mean(dim=1, keepdim=True)
        return (features if features_only else self.decoder.output_projection(features)), None

    def get_normalized_probs(self, output: Any, log_probs: bool) -> Tensor:
        return torch.log_softmax(output[0], dim=-1)

    def get_targets(self, sample: dict[str, Any], output: Any) -> Tensor:
        return sample["target"]


@pytest.fixture(scope="module")
def task() -> Any:
    dictionary = Dictionary()
    for index in range(WORDS):
        dictionary.add_symbol(f"w{index}")
    for code in LANGUAGES:
        dictionary.add_symbol(f"__{code}__")
    return SimpleNamespace(
        lang_pairs=DIRECTIONS,
        langs=LANGUAGES,
        source_dictionary=dictionary,
        target_dictionary=dictionary,
    )


@pytest.fixture(scope="module")
def model(task: Any) -> Projection:
    return Projection(len(task.source_dictionary))


def criterion(task: Any, kind: type = FusedLabelSmoothedCrossEntropy) -> Any:
    return kind(task, sentence_avg=False, label_smoothing=0.1).eval()


def batch(task: Any, directions: list[str], seed: int = 1) -> dict[str, Any]:
    """Sentences of the directions, of different lengths, the source padded on the left as fairseq does it."""
    dictionary, generator = task.source_dictionary, torch.Generator().manual_seed(seed)
    count = len(directions)
    source = torch.full((count, 9), dictionary.pad())
    target = torch.full((count, 9), dictionary.pad())
    for row, direction in enumerate(directions):
        tags = [dictionary.index(f"__{code}__") for code in direction.split("-")]
        for matrix, tag, left in ((source, tags[0], True), (target, tags[1], False)):
            length = int(torch.randint(2, 8, (1,), generator=generator))
            words = torch.randint(4, 4 + WORDS, (length,), generator=generator)
            line = torch.cat([torch.tensor([tag]), words, torch.tensor([dictionary.eos()])])
            matrix[row, -len(line) :] = line if left else matrix[row, -len(line) :]
            if not left:
                matrix[row, : len(line)] = line
    previous = torch.roll(target, 1, dims=1)
    previous[:, 0] = dictionary.eos()
    lengths = source.ne(dictionary.pad()).sum(dim=1)
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": previous}
    ntokens = int(target.ne(dictionary.pad()).sum())
    return {"net_input": net_input, "target": target, "ntokens": ntokens, "nsentences": count}


def test_losses_by_direction_are_those_of_the_sentences_alone(task: Any, model: Projection) -> None:
    directions = ["de-en", "en-de", "de-en", "en-nl", "en-de"]
    sample = batch(task, directions)
    whole = criterion(task)(model, sample)[2]
    stock = criterion(task, LabelSmoothedCrossEntropyCriterion)
    for direction in DIRECTIONS:
        rows = [row for row, name in enumerate(directions) if name == direction]
        part = {
            "net_input": {name: value[rows] for name, value in sample["net_input"].items()},
            "target": sample["target"][rows],
            "ntokens": int(sample["target"][rows].ne(1).sum()),
        }
        log = stock(model, part)[2]
        assert float(whole[f"nll_{direction}"]) == pytest.approx(float(log["nll_loss"]), rel=1e-5)
        assert int(whole[f"tokens_{direction}"]) == part["ntokens"]
    assert sum(float(whole[f"nll_{name}"]) for name in DIRECTIONS) == pytest.approx(
        float(whole["nll_loss"]), rel=1e-6
    )


def test_the_loss_itself_does_not_change(task: Any, model: Projection) -> None:
    sample = batch(task, ["de-en", "en-nl"])
    bare = criterion(SimpleNamespace(**{**vars(task), "lang_pairs": None}))
    with_directions, without = criterion(task)(model, sample), bare(model, sample)
    assert torch.equal(with_directions[0], without[0])
    for key, value in without[2].items():
        assert torch.equal(torch.as_tensor(with_directions[2][key]), torch.as_tensor(value)), key


def test_training_tells_no_directions(task: Any, model: Projection) -> None:
    log = criterion(task).train()(model, batch(task, ["de-en"]))[2]
    assert set(log) == {"loss", "nll_loss", "ntokens", "nsentences", "sample_size"}


def test_every_worker_tells_every_direction(task: Any, model: Projection) -> None:
    # fairseq adds the workers' logs up key by key: a direction that one of them did not see is 0 there
    log = criterion(task)(model, batch(task, ["de-en"]))[2]
    assert float(log["nll_en-nl"]) == 0 and int(log["tokens_en-nl"]) == 0


def test_sentences_of_no_direction_count_for_none(task: Any, model: Projection) -> None:
    log = criterion(task)(model, batch(task, ["nl-de", "de-en"]))[2]
    alone = criterion(task)(model, batch(task, ["de-en"], seed=5))[2]
    assert set(log) == set(alone)
    assert sum(int(log[f"tokens_{name}"]) for name in DIRECTIONS) == int(log["tokens_de-en"])
    assert int(log["tokens_de-en"]) < log["ntokens"]


def test_what_is_logged_is_what_is_read(task: Any, model: Projection) -> None:
    measure = criterion(task)
    logs = [
        measure(model, batch(task, names, seed))[2]
        for seed, names in enumerate((["de-en", "en-de"], ["de-en"]))
    ]
    with metrics.aggregate() as found:
        # as fairseq validates: batch by batch, then the mean over all of them
        for log in logs:
            FusedLabelSmoothedCrossEntropy.reduce_metrics([log])
    values = {f"valid_{key}": str(value) for key, value in found.get_smoothed_values().items()}
    line = str({**values, "valid_num_updates": "7"}).replace("'", '"')
    record = parse_record(f"2026-01-01 00:00:00 | INFO | valid | {line}")
    assert record is not None and list(record.extra["nll_by_direction"]) == ["en-de", "de-en"]
    nll = sum(float(log["nll_de-en"]) for log in logs) / sum(int(log["tokens_de-en"]) for log in logs)
    assert record.extra["nll_by_direction"]["de-en"] == pytest.approx(nll / math.log(2), abs=1e-4)
    assert record.nll == pytest.approx(
        sum(float(log["nll_loss"]) for log in logs) / sum(log["ntokens"] for log in logs) / math.log(2),
        abs=1e-3,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_the_table_goes_to_the_device_of_the_text(
    processes: int, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq's trainer leaves a criterion without parameters behind where several processes train."""
    monkeypatch.setattr(trainer_utils, "get_tpu_device", lambda: torch.device("meta"))  # no GPU is needed
    monkeypatch.setattr(distributed_utils, "get_data_parallel_world_size", lambda: processes)
    monkeypatch.setattr(distributed_utils, "get_data_parallel_rank", lambda: 0)
    config = FairseqConfig()
    config.common.tpu, config.distributed_training.distributed_world_size = True, processes
    trainer = Trainer(config, task, Projection(len(task.source_dictionary)), criterion(task))
    assert trainer.device.type == "meta"
    table, tags = trainer.criterion.table, batch(task, ["de-en", "en-nl"])
    assert table._language.device.type == ("meta" if processes == 1 else "cpu")
    source, target = tags["net_input"]["src_tokens"], tags["target"][:, 0]
    table(source.to(trainer.device), target.to(trainer.device))
    assert {buffer.device.type for buffer in table.buffers()} == {"meta"}
