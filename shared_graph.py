"""Like layers through one graph, which is traced and differentiated once, however many there are."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


def calls_through_one_graph(layers: Sequence[keras.layers.Layer], scope: str) -> Callable:
    """What calls a layer, given with its inputs: any of some that differ in their weights alone.

    The graph has a layer's weights among its arguments. It is part of the graph that is traced around it, as
    the next one may be traced under other settings (fused_operations.compile_chains).

    Args:
        layers: not autocast where they are called, so that their weights come in their own type.
        scope: what the operations are named after, in the gradient too, where the caller's name is lost.
    """

    @tf.function(autograph=False)
    def of_weights(weights, inputs, options):
        with tf.name_scope(scope):
            outputs, _ = layers[0].stateless_call(weights, [], *inputs, **options)
        return outputs

    def call(layer: keras.layers.Layer, *inputs, **options):
        with tf.name_scope(layer.name):
            weights = [tf.convert_to_tensor(variable.value) for variable in layer.trainable_variables]
            return of_weights(weights, inputs, options)

    return call
