"""The embedding and the output head in bfloat16: half their memory, and rounding that the method does not have."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from kernels.cpu import HalfLinear


class _HalfHead(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.linear = HalfLinear(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def halve_embedding(model: PreTrainedModel) -> None:
    """Keep embedding and head in bfloat16, one tensor where they are tied; all sums stay in float32.

    ValueError where the head has a bias, which no family here has.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.bias is not None:
        raise ValueError("a head with a bias is not known")
    is_tied = head.weight is embedding.weight
    weight = embedding.get_parameter("weight").detach().bfloat16()
    del embedding.weight
    embedding.register_buffer("weight", weight)
    embedding.register_forward_hook(lambda module, inputs, output: output.float())
    model.set_output_embeddings(_HalfHead(weight if is_tied else head.weight.detach().bfloat16()))
