"""The pretraining block computes what `BertForPreTraining` does, of masked positions alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertForPreTraining, ElectraConfig, ElectraModel

from models.errors import ModelLoadError
from models.nn.pretraining import NextSentence, Pretraining
from tests.checkpoints import save_checkpoint

VOCABULARY = 50


@pytest.fixture
def config() -> BertConfig:
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )


def inputs(batch: int, length: int = 12, masked: int = 3) -> tuple[Tensor, ...]:
    """Token ids, types, mask and masked positions; every other row is two tokens shorter."""
    random = torch.Generator().manual_seed(batch)
    token_ids = torch.randint(1, VOCABULARY, (batch, length), generator=random)
    type_ids = (torch.arange(length) > 6).long().repeat(batch, 1)
    input_mask = torch.ones(batch, length, dtype=torch.long)
    input_mask[1::2, -2:] = 0
    places = torch.rand(batch, length - 2, generator=random).argsort(1)[:, :masked]
    return token_ids, type_ids, input_mask, places


def in_transformers(model: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next sentence and of the tokens at the masked positions."""
    token_ids, type_ids, input_mask, places = batch
    output = model(input_ids=token_ids, token_type_ids=type_ids, attention_mask=input_mask)
    rows = torch.arange(len(token_ids)).unsqueeze(1)
    masked = output.prediction_logits[rows, places].flatten(0, 1)
    return output.seq_relationship_logits.log_softmax(-1), masked.log_softmax(-1)


@pytest.mark.parametrize("size", [1, 5])
@torch.no_grad()
def test_it_computes_what_transformers_does(config: BertConfig, size: int) -> None:
    model = BertForPreTraining(config).eval()
    model.cls.predictions.bias.normal_()
    batch = inputs(size)
    log_nsp, log_mlm = Pretraining.from_transformers(model)(*batch)
    expected_nsp, expected_mlm = in_transformers(model, batch)
    assert log_nsp.shape == (size, 2)
    assert log_mlm.shape == (size * 3, VOCABULARY)
    torch.testing.assert_close(log_nsp, expected_nsp)
    torch.testing.assert_close(log_mlm, expected_mlm)


@torch.no_grad()
def test_what_is_saved_opens_in_transformers(config: BertConfig, tmp_path: Path) -> None:
    block, batch = Pretraining(config).eval(), inputs(4)
    block.save(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path).eval()
    for ours, theirs in zip(block(*batch), in_transformers(again, batch), strict=True):
        torch.testing.assert_close(ours, theirs)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    token_ids, type_ids, input_mask, _ = batch
    arguments = {"token_type_ids": type_ids, "attention_mask": input_mask}
    torch.testing.assert_close(
        encoder(token_ids, **arguments).pooler_output,
        block.transformer(token_ids, **arguments).pooler_output,
    )
    for ours, same in zip(block(*batch), Pretraining.load(tmp_path)(*batch), strict=True):
        assert torch.equal(ours, same)


def test_the_vocabulary_is_projected_on_the_table_that_embeds_it(config: BertConfig) -> None:
    block = Pretraining(config)
    assert not [name for name, _ in block.named_parameters() if "decoder" in name]
    _, log_mlm = block(*inputs(2))
    log_mlm[:, 7].sum().backward()
    table = block.transformer.get_input_embeddings().weight
    assert table.grad[7].abs().sum() > table.grad[8].abs().sum() > 0


def test_weights_are_random_as_those_of_bert(config: BertConfig) -> None:
    block = Pretraining(config)
    for head in (block.mlm.transform.dense, block.nsp.linear):
        assert isinstance(head, nn.Linear)
        assert head.weight.std().item() == pytest.approx(config.initializer_range, rel=0.4)
        assert not head.bias.any()
    assert not block.mlm.bias.any()


@torch.no_grad()
def test_a_block_may_be_replaced(config: BertConfig, tmp_path: Path) -> None:
    class Three(nn.Module):
        def forward(self, pooled: Tensor) -> Tensor:
            return pooled.new_zeros(len(pooled), 3)

    block = Pretraining(config, nsp=Three()).eval()
    log_nsp, log_mlm = block(*inputs(2))
    assert log_nsp.shape == (2, 3)
    assert log_mlm.shape == (6, VOCABULARY)

    class Pooled(nn.Module):
        """An encoder of another family, with the first token as its pooled output."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = ElectraModel(
                ElectraConfig(
                    vocab_size=VOCABULARY,
                    embedding_size=config.hidden_size,
                    hidden_size=config.hidden_size,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                )
            )

        def get_input_embeddings(self) -> nn.Module:
            embeddings: nn.Module = self.encoder.get_input_embeddings()
            return embeddings

        def forward(self, **arguments: Tensor) -> Any:
            output = self.encoder(**arguments)
            output.pooler_output = output.last_hidden_state[:, 0]
            return output

    other = Pretraining(config, transformer=Pooled()).eval()
    log_nsp, log_mlm = other(*inputs(2))
    assert log_nsp.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert log_mlm.shape == (6, VOCABULARY)
    with pytest.raises(ValueError, match="a block was replaced"):
        other.save(tmp_path)


def test_an_encoder_alone_is_given_new_heads(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "encoder", "bert")
    block = Pretraining.load(folder)
    encoder = AutoModel.from_pretrained(folder)
    assert torch.equal(
        block.transformer.get_input_embeddings().weight, encoder.get_input_embeddings().weight
    )
    assert isinstance(block.nsp, NextSentence)


def test_what_is_no_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds a electra, not a bert"):
        Pretraining.load(save_checkpoint(tmp_path / "electra", "electra"))
    with pytest.raises(ModelLoadError, match="missing"):
        Pretraining.load(tmp_path / "missing")


def test_weights_that_were_cut_short_are_refused(config: BertConfig, tmp_path: Path) -> None:
    Pretraining(config).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="incomplete metadata"):
        Pretraining.load(tmp_path)
