from qalib.model import bert


def test_six_matrices_a_layer(sparse):
    matrices = bert.matrices(sparse.model)
    assert [m.kind for m in matrices[:6]] == ["query", "key", "value", "attention output", "FFN in", "FFN out"]
    assert len(matrices) == 12 and matrices[7].name == "bert.encoder.layer.1.attention.self.key"
    assert matrices[4].linear.weight.shape == (128, 64)


def test_the_two_rules_for_heads(sparse):
    first, second = bert.layers(sparse.model)
    # Head 1 of layer 0 has no values: gone under both rules. Head 0 of layer 1 has no queries: still averages values.
    assert bert.heads_called_removed(first, 4).tolist() == [False, True, False, False]
    assert bert.heads_removable(first, 4).tolist() == [False, True, False, False]
    assert bert.heads_called_removed(second, 4).tolist() == [True, False, False, False]
    assert bert.heads_removable(second, 4).tolist() == [False] * 4


def test_a_head_that_nobody_reads_is_removable_but_not_called_removed(sparse):
    layer = bert.layers(sparse.model)[0]
    layer.attention.output.dense.weight.data[:, 32:48] = 0
    assert bert.heads_removable(layer, 4).tolist() == [False, True, True, False]
    assert bert.heads_called_removed(layer, 4).tolist() == [False, True, False, False]


def test_neurons(sparse):
    first, second = bert.layers(sparse.model)
    # Set to zero in conftest: rows 0-7 of FFN in, columns 8-15 of FFN out.
    assert bert.neurons_removable(second)[:16].all()
    assert bert.neurons_removable(first)[:16].all()
    alive = first.intermediate.dense.weight.any(1) & first.output.dense.weight.any(0)
    assert (bert.neurons_removable(first) == ~alive).all()
