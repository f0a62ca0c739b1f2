"""Tokens: what may be done with them, how many an architecture knows, and what is checked."""

import pytest
import torch

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture, mlp
from neuronexus_kernel.models.graph import GraphBuilder


def language_model(steps=6, vocabulary=11, *, further=None):
    graph = GraphBuilder((steps,), tokens=True)
    tokens = graph.add("reshape", graph.add("permute", "input", order=[0]), sizes=(steps,))
    x = graph.add("embedding", tokens, num_embeddings=vocabulary, embedding_dim=4)
    places = graph.add("positions", count=steps)
    x = graph.add("add", x, graph.add("embedding", places, num_embeddings=steps, embedding_dim=4))
    if further:
        first = graph.add("slice", "input", dim=-1, length=1)
        x = graph.add(
            "add", x, graph.add("embedding", first, num_embeddings=further, embedding_dim=4)
        )
    x = graph.add("linear", x, out_features=vocabulary)
    return Architecture((steps,), tuple(graph.nodes), x, input_dtype="int64")


def test_the_vocabulary_is_that_of_the_smallest_embedding_the_input_reaches():
    assert language_model().vocabulary == 11
    assert language_model(further=7).vocabulary == 7
    assert language_model(further=70).vocabulary == 11
    assert language_model(steps=3).vocabulary == 11, "the table of positions does not count"
    assert mlp(4, (), 2).vocabulary is None


def test_the_dtype_of_the_input_is_part_of_the_address():
    model = language_model()
    assert model.to_dict()["input"]["dtype"] == "int64"
    assert Architecture.decode(model.encode()) == model
    assert model.layout.tokens == {"input", "permute_1", "reshape_1", "positions_1"}
    assert model.build()(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 11)


def test_joined_tokens_know_no_more_than_their_table():
    graph = GraphBuilder((3,), tokens=True)
    both = graph.add("concatenate", "input", graph.add("positions", count=8), dim=-1)
    last = graph.add("embedding", both, num_embeddings=9, embedding_dim=2)
    assert Architecture((3,), tuple(graph.nodes), last, input_dtype="int64").vocabulary == 9
    graph.nodes.pop()
    graph.add("embedding", both, num_embeddings=7, embedding_dim=2)
    with pytest.raises(ArchitectureError, match="knows 7 tokens, but is given 0 to 7"):
        Architecture((3,), tuple(graph.nodes), "embedding_2", input_dtype="int64")


@pytest.mark.parametrize(
    ("operator", "arguments", "tokens", "message"),
    [
        ("linear", {"out_features": 2}, True, "put an embedding before it"),
        ("relu", {}, True, "put an embedding before it"),
        ("mean", {"dims": [-1], "keepdim": True}, True, "put an embedding before it"),
        ("embedding", {"num_embeddings": 3, "embedding_dim": 2}, False, "takes tokens"),
    ],
)
def test_tokens_and_numbers_are_kept_apart(operator, arguments, tokens, message):
    with pytest.raises(ArchitectureError, match=message):
        GraphBuilder((4,), tokens=tokens).add(operator, "input", **arguments)


def test_tokens_and_numbers_cannot_be_joined_nor_given_out():
    graph = GraphBuilder((4,))
    places = graph.add("positions", count=4)
    with pytest.raises(ArchitectureError, match="mix tokens and numbers"):
        graph.add("concatenate", "input", places, dim=-1)
    graph = GraphBuilder((4,), tokens=True)
    last = graph.add("flatten", "input")
    with pytest.raises(ArchitectureError, match="holds tokens"):
        Architecture((4,), tuple(graph.nodes), last, input_dtype="int64")


def test_numbers_for_tokens_and_tokens_for_numbers_are_refused():
    with pytest.raises(ArchitectureError, match="takes tokens"):
        language_model().build()(torch.zeros(2, 6))
    with pytest.raises(ArchitectureError, match="takes numbers"):
        mlp(4, (), 2).build()(torch.zeros(2, 4, dtype=torch.int64))


def test_a_task_asks_for_classes_or_for_a_shape():
    model = language_model()
    model.check_task((6,), (6, 11))
    with pytest.raises(ArchitectureError, match=r"\(6, 11\).*needs \(6, 12\)\.$"):
        model.check_task((6,), (6, 12))
    with pytest.raises(ArchitectureError, match=r"\(6, 11\).*needs \(11,\): one score.*11 classes"):
        model.check_task((6,), 11)
    mlp(4, (), 3).check_task((4,), (3,))
    mlp(4, (), 3).check_task((2, 2), 3)
