"""BERT as it is pretrained: an encoder, masked language model, and next sentence.

Three blocks, each of which may be replaced: `transformer` (embeddings of tokens, positions and
sentences, encoder, pooler), `mlm` and `nsp`. Those that stand here by themselves are made of
transformers' modules, so that weights are read and written in its layout.

Devlin et al. 2019, section 3.1 and appendix A.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AutoConfig, BertConfig, BertForPreTraining, BertModel
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from models.errors import ModelLoadError, one_line
from models.quiet import quiet_transformers, save_quietly

LAYOUT = {
    "transformer.": "bert.",
    "mlm.": "cls.predictions.",
    "nsp.linear.": "cls.seq_relationship.",
}
"""Where the blocks' weights stand in `BertForPreTraining`."""
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Weights of `BertForPreTraining` that are others of its own."""


class MaskedLanguageModel(nn.Module):
    """Predicts the tokens at masked positions, on the table that embeds them."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, masked_positions: Tensor, table: Tensor) -> Tensor:
        """Predict tokens.

        Args:
            hidden: (batch, length, d_model).
            masked_positions: (batch, masked), of the tokens to predict.
            table: (vocabulary, d_model), of the embeddings of tokens.

        Returns:
            Log-probabilities (batch * masked, vocabulary) in float32, document by document.
        """
        places = masked_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        masked = hidden.gather(1, places).flatten(0, 1)  # (batch * masked, d_model)
        logits = F.linear(self.transform(masked), table, self.bias)  # (batch * masked, vocabulary)
        return logits.float().log_softmax(-1)


class NextSentence(nn.Module):
    """Tells whether the second part of an input follows on the first."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, 2)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled outputs (batch, d_model) to log-probabilities (batch, 2) in float32.

        The first is that it follows, the second that it does not, as in transformers.
        """
        logits: Tensor = self.linear(pooled)
        return logits.float().log_softmax(-1)


class Pretraining(nn.Module):
    """An encoder with both of its tasks.

    Args:
        config: of the blocks that are not given; their weights are random as BERT's are at first.
        transformer: is called with `input_ids`, `token_type_ids` and `attention_mask`, each (batch,
            length), and gives `last_hidden_state` (batch, length, d_model) and `pooler_output`
            (batch, d_model); `get_input_embeddings().weight` is the table of tokens. Any encoder of
            transformers that has a pooler will do.
        mlm: in the place of a `MaskedLanguageModel`.
        nsp: in the place of a `NextSentence`.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        transformer: nn.Module | None = None,
        mlm: nn.Module | None = None,
        nsp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.transformer: Any = BertModel(config) if transformer is None else transformer
        self.mlm = mlm if mlm is not None else _initialized(MaskedLanguageModel(config), config)
        self.nsp = nsp if nsp is not None else _initialized(NextSentence(config), config)

    def forward(
        self, token_ids: Tensor, type_ids: Tensor, input_mask: Tensor, masked_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the next sentence and the masked tokens.

        Args:
            token_ids: (batch, length).
            type_ids: (batch, length): 0 in the first part of an input, 1 in the second.
            input_mask: (batch, length): 1 for tokens, 0 for padding.
            masked_positions: (batch, masked), of the tokens to predict.

        Returns:
            log_nsp: log-probabilities (batch, 2): that the parts follow, that they do not.
            log_mlm: log-probabilities (batch * masked, vocabulary), document by document.
        """
        output = self.transformer(
            input_ids=token_ids, token_type_ids=type_ids, attention_mask=input_mask
        )
        table = self.transformer.get_input_embeddings().weight  # (vocabulary, d_model)
        log_nsp = self.nsp(output.pooler_output)
        log_mlm = self.mlm(output.last_hidden_state, masked_positions, table)
        return log_nsp, log_mlm

    @classmethod
    def from_transformers(cls, model: BertForPreTraining) -> Pretraining:
        """Take the weights of a model of transformers, in evaluation mode."""
        block = cls(model.config)
        weights = model.state_dict()
        own = {name: weights[_name_there(name)] for name in block.state_dict()}
        block.load_state_dict(own)
        return block.eval()

    @classmethod
    def load(cls, folder: Path | str) -> Pretraining:
        """Read a checkpoint folder of transformers, in evaluation mode.

        Heads that it lacks, as one of an encoder alone does, begin with random weights.

        Raises:
            ModelLoadError: it is no folder of a BERT, or its files are malformed.
        """
        try:
            with quiet_transformers():
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                if not isinstance(config, BertConfig):
                    raise ModelLoadError(f"{folder} holds a {config.model_type}, not a bert")
                model = BertForPreTraining.from_pretrained(
                    folder, config=config, dtype=torch.float32, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelLoadError(f"{folder}: {one_line(error)}") from error
        return cls.from_transformers(model)

    def to_transformers(self) -> BertForPreTraining:
        """The same weights as a model of transformers, which shares them.

        Raises:
            ValueError: a block was replaced by one that this model has no place for.
        """
        weights = {_name_there(name): weight for name, weight in self.state_dict().items()}
        weights |= {name: weights[other] for name, other in TIED.items() if other in weights}
        with torch.device("meta"):
            model = BertForPreTraining(self.config)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ValueError(f"a block was replaced: {one_line(error)}") from error
        return model.eval()

    def save(self, folder: Path | str) -> None:
        """Write configuration and weights as transformers reads them, by `AutoModel` too.

        Raises:
            ValueError: a block was replaced by one that this layout has no place for.
            OSError: the disk refuses.
        """
        save_quietly(self.to_transformers(), folder)


def _initialized(head: nn.Module, config: BertConfig) -> nn.Module:
    """A head with the random weights that BERT begins with."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            nn.init.zeros_(module.bias)
    return head


def _name_there(name: str) -> str:
    """What a weight is called in `BertForPreTraining`."""
    for here, there in LAYOUT.items():
        if name.startswith(here):
            return there + name.removeprefix(here)
    return name
