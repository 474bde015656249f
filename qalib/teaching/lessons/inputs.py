"""What goes into linear layers while questions are asked."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qalib.model.checkpoint import Checkpoint
from qalib.qa import answering
from qalib.qa.squad import QuestionSet
from qalib.qa.windows import collate, windows


def watch(
    checkpoint: Checkpoint, questions: QuestionSet, linears: Sequence[nn.Linear], note: Callable[[int, Tensor], None]
) -> None:
    """Ask the questions, and hand `note` the inputs of each of the model's `linears`, batch by batch.

    It gets the layer's number and the inputs of all tokens that are not padding, shape `(tokens, in_features)`.
    """
    pairs = [(q.question, q.context) for q in questions.questions]
    cut = windows(checkpoint.tokenizer, [question for question, _ in pairs], [context for _, context in pairs])
    real = None

    def hook(number: int) -> Callable:
        return lambda module, given: note(number, given[0][real])

    handles = [linear.register_forward_pre_hook(hook(number)) for number, linear in enumerate(linears)]
    try:
        with torch.inference_mode():
            for batch in answering.batches(cut, answering.LENGTH_SORTED):
                inputs = collate(batch, checkpoint.tokenizer.pad_token_id)
                real = inputs["attention_mask"].bool()
                checkpoint.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
