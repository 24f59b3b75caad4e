"""Weights, the one product, norms and the MLP."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import ad_checkpoint, lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from gptjax import sharding as sharding_lib
from gptjax.model import config, joined, leaves, low, native

PRODUCT = 'product'  # what compute.remat='dots' keeps


def weight(
    module: nn.Module,
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    init: nn.initializers.Initializer,
) -> Any:
    """Declares a float32 weight of `module` with its logical axes.

    Returns the array, or one of `leaves` where the parameters hold that in its place.
    """
    if module.has_variable('params', name):
        given: Any = module.get_variable('params', name)
        if not isinstance(given, jax.Array):
            return given
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    return module.param(name, boxed, tuple(shape), jnp.float32)


def normal(arch: config.Architecture) -> nn.initializers.Initializer:
    """How embeddings begin: normally distributed."""
    return nn.initializers.normal(arch.init_std)


def hidden(arch: config.Architecture) -> nn.initializers.Initializer:
    """How the weights of products begin, whose sums grow with the width."""
    return nn.initializers.normal(arch.init_std * arch.shrink**0.5)


def output(arch: config.Architecture) -> nn.initializers.Initializer:
    """How weights begin that bring the width to something that does not grow."""
    return nn.initializers.normal(arch.init_std * arch.shrink)


def residual(arch: config.Architecture) -> nn.initializers.Initializer:
    """How the weights that end a residual branch begin.

    Without norms in between, 2 L branches add up: each is smaller by sqrt(2 L)
    (Radford et al., 2019, section 2.3).
    """
    if arch.zero_init:
        return nn.initializers.zeros
    if arch.norms.order == 'post':
        return hidden(arch)
    return nn.initializers.normal(
        arch.init_std * arch.shrink**0.5 / (2 * arch.L) ** 0.5
    )


def lookup(
    table: Any,
    index_BT: Int[Array, 'B T'],
    sharding: sharding_lib.Sharding,
    axis: str = 'positions',
) -> Float[Array, 'B T D']:
    """The rows of an embedding, whose first axis is `axis`.

    XLA is told how they are to lie on the way to the stream: else it has the whole
    vocabulary, or all rows, on each device.
    """
    if not isinstance(table, jax.Array):
        return table[index_BT]
    if sharding.parts('vocab') == 1:
        # Rows of a width that is split become whole by an exchange along that axis
        # alone, and tokens go where parts of their rows are: where others split the
        # batch too, XLA on its own has no such way, and gathers the whole table.
        spec = sharding.by_width((*index_BT.shape, table.shape[-1]))
        whole, split = (NamedSharding(sharding.mesh, s) for s in (P(*spec[:2]), spec))
        x_BTD = table[lax.with_sharding_constraint(index_BT, whole)]
        return lax.with_sharding_constraint(x_BTD, split)
    x_BTD = sharding.constrain(table, axis, None)[index_BT]
    batch, length, _ = sharding.spec(('batch', 'length', 'vocab'), x_BTD.shape)
    place = NamedSharding(sharding.mesh, P(batch, length))
    return lax.with_sharding_constraint(x_BTD, place)


def einsum(spec: str, x: Array, weight: Any) -> Array:
    """`jnp.einsum(spec, x, weight)`: the one place where a weight is multiplied.

    weight: an array, or one of `leaves`. Computes in the type of `x`, with float32 sums
    on a device and those over devices in its type, and returns that; the gradient of
    the weight is float32. Each letter stands in two of the three operands.
    """
    if isinstance(weight, leaves.Adapted):
        return einsum(spec, x, weight.base) + _low_rank(spec, x, weight)
    # Rematerialisation sees the name of a result, and not into a custom_vjp.
    return ad_checkpoint.checkpoint_name(_one(spec, x, weight), PRODUCT)


def _one(spec: str, x: Array, weight: Any) -> Array:
    if isinstance(weight, leaves.Quantised | leaves.Rows):
        return _quantised(spec, x, weight)
    if isinstance(weight, leaves.Low):
        return low.product(spec, x, weight.weight, weight.kind, _plain)
    if isinstance(weight, leaves.Cast):
        return _product(spec, x, weight.weight, weight.cast)
    return _plain(spec, x, weight)


def _low_rank(spec: str, x: Array, weight: leaves.Adapted) -> Array:
    """scale x down up."""
    left, right, result = spec.replace('->', ',').split(',')
    inner = ''.join(letter for letter in right if letter not in result)
    outer = ''.join(letter for letter in right if letter in result)
    rows = ''.join(letter for letter in left if letter not in inner)
    down, up, many = weight.down, weight.up, ''
    if weight.index_B is not None:
        down, up, many = down[weight.index_B], up[weight.index_B], left[0]
    h = _plain(f'{left},{many}{inner}r->{rows}r', x, down)
    return weight.scale * _plain(f'{rows}r,{many}r{outer}->{result}', h, up)


def _plain(spec: str, x: Array, weight: Array) -> Array:
    if spec == 'BTNH,NHD->BTD' and x.shape[1] == 1:
        # A sum over two axes has XLA transpose the weight on CPU: for each token of a
        # decoder of 12 layers, 4.5 ms of 29.
        spec = 'BTF,FD->BTD'
        x, weight = x.reshape(*x.shape[:2], -1), weight.reshape(-1, weight.shape[-1])
    return _product(spec, x, weight, lax.stop_gradient(weight).astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(spec: str, x: Array, weight: Array, cast: Array) -> Array:
    """With `cast`, which is `weight` in the type of `x`; `weight` has the gradient."""
    if few := native.sides(spec, x, cast):
        return lax.platform_dependent(  # what is compiled may be for another platform
            x,
            cast,
            cpu=lambda x, weight: native.few(x, weight, *few),
            default=functools.partial(_einsum, spec),
        )
    return _rounded(spec, x, cast)


def _product_forward(
    spec: str, x: Array, weight: Array, cast: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    # Of the weight, backward needs the type alone.
    return _product(spec, x, weight, cast), (x, cast, jnp.zeros(0, weight.dtype))


def _product_backward(
    spec: str, saved: tuple[Array, Array, Array], dy: Array
) -> tuple[Array, Array, None]:
    x, cast, like = saved
    # On CPU, XLA fuses the elementwise backward into the transpose that feeds the
    # weight gradient, and that fusion runs on one core: 51 ms a step against 36 with
    # the barrier (4 layers, width 128, 2 cores). The numbers are equal bit for bit.
    x, dy = lax.platform_dependent(
        x, dy, cpu=lambda x, dy: lax.optimization_barrier((x, dy)), default=lambda *a: a
    )
    operands, result = spec.split('->')
    left, right = operands.split(',')
    dx = _rounded(f'{result},{right}->{left}', dy, cast)
    dw = _weight_gradient(left, right, result, x, dy)
    return dx, dw.astype(like.dtype), None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _quantised(spec: str, x: Array, weight: leaves.Quantised | leaves.Rows) -> Array:
    """The product with what the codes stand for, which only lives inside it."""
    if isinstance(weight, leaves.Rows) and native.covers(x, weight):
        return native.product(x, weight)
    return _rounded(spec, x, weight.dense(x.dtype))


def _quantised_forward(
    spec: str, x: Array, weight: leaves.Quantised | leaves.Rows
) -> tuple[Array, leaves.Quantised | leaves.Rows]:
    return _quantised(spec, x, weight), weight


def _quantised_backward(
    spec: str, weight: leaves.Quantised | leaves.Rows, dy: Array
) -> tuple[Array, None]:
    left, right, result = spec.replace('->', ',').split(',')
    return _rounded(f'{result},{right}->{left}', dy, weight.dense(dy.dtype)), None


_quantised.defvjp(_quantised_forward, _quantised_backward)


def _weight_gradient(left: str, right: str, result: str, x: Array, dy: Array) -> Array:
    """x dy, with the smaller operand first: XLA on CPU copies that one transposed."""
    ordered = (left, x), (result, dy)
    (first, a), (second, b) = ordered if x.size <= dy.size else ordered[::-1]
    letters = ''.join(c for c in first + second if c in right)
    product = _einsum(f'{first},{second}->{letters}', a, b)
    if letters != right and a.dtype == jnp.bfloat16:
        # XLA would swap the operands for the transpose, and on CPU (jaxlib 0.10.2) has
        # no product of bfloat16 whose first operand lies transposed: it ends the step.
        # In float32 operands, a step of 6 x 384 takes 2.03 s and not 1.88.
        product = lax.platform_dependent(
            product, cpu=lax.optimization_barrier, default=lambda y: y
        )
    return jnp.transpose(product, [letters.index(c) for c in right])


def _rounded(spec: str, left: Array, right: Array) -> Array:
    """The product in the type of its operands, each number a float32 sum on its device.

    So are sums over devices: with float32 ones a step split over four v5e sent three
    times as much, as XLA then joins no sums of queries, keys and values.
    """
    if left.dtype == jnp.float32:
        return _einsum(spec, left, right)
    into = functools.partial(jnp.einsum, spec, preferred_element_type=left.dtype)
    # CPUs are slower so, and round sums on the way.
    return lax.platform_dependent(
        left, right, cpu=lambda *x: _einsum(spec, *x).astype(x[0].dtype), default=into
    )


def _einsum(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, preferred_element_type=jnp.float32)


def grouped(x_MD: Array, weight_EDF: Array, sizes_E: Array) -> Array:
    """The product of a stack of weights: row m of `x_MD` meets that of its group.

    The first `sizes_E[0]` rows belong to weight 0, the next to 1, and so on. Types as
    in `einsum`, and the name of the result.
    """
    return ad_checkpoint.checkpoint_name(_grouped(x_MD, weight_EDF, sizes_E), PRODUCT)


@jax.custom_vjp
def _grouped(x_MD: Array, weight_EDF: Array, sizes_E: Array) -> Array:
    weight_EDF = weight_EDF.astype(x_MD.dtype)
    return _ragged((1, 1), [0], x_MD, weight_EDF, sizes_E).astype(x_MD.dtype)


def _grouped_forward(x_MD: Array, weight_EDF: Array, sizes_E: Array) -> Any:
    return _grouped(x_MD, weight_EDF, sizes_E), (x_MD, weight_EDF, sizes_E)


def _grouped_backward(saved: Any, dy_MF: Array) -> tuple[Array, Array, None]:
    x_MD, weight_EDF, sizes_E = saved
    dx_MD = _grouped(dy_MF, jnp.swapaxes(weight_EDF, 1, 2), sizes_E)
    dw_EDF = _ragged((0, 0), [], x_MD, dy_MF, sizes_E)
    return dx_MD, dw_EDF.astype(weight_EDF.dtype), None


def _ragged(
    summed: tuple[int, int], groups: list[int], x: Array, other: Array, sizes_E: Array
) -> Array:
    """In float32; what `vmap` maps, of which a device has one copy, in turn.

    XLA for TPUs has no grouped product with a batch axis (libtpu 0.0.42).
    """
    dims = lax.RaggedDotDimensionNumbers(
        (tuple((axis,) for axis in summed), ((), ())), [0], groups
    )
    run = functools.partial(
        lax.ragged_dot_general,
        ragged_dot_dimension_numbers=dims,
        preferred_element_type=jnp.float32,
    )
    return jax.custom_batching.sequential_vmap(run)(x, other, sizes_E)


_grouped.defvjp(_grouped_forward, _grouped_backward)


class Norm(nn.Module):
    """Layer normalisation (Ba et al., 2016) or RMS normalisation, in float32.

    The latter (Zhang and Sennrich, 2019) takes no mean off and has no bias.
    """

    arch: config.Architecture

    @nn.compact
    def __call__(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        norms = self.arch.norms
        shape, axes = (self.arch.D,), ('embed',)
        scale_D = weight(self, 'scale', shape, axes, nn.initializers.ones)
        wide_BTD = x_BTD.astype(jnp.float32)
        if norms.kind == 'rms':
            return rms_norm(wide_BTD, scale_D, norms.eps).astype(x_BTD.dtype)
        mean = jnp.mean(wide_BTD, -1, keepdims=True)
        y_BTD = rms_norm(wide_BTD - mean, scale_D, norms.eps)
        if norms.bias:
            y_BTD += weight(self, 'bias', shape, axes, nn.initializers.zeros)
        return y_BTD.astype(x_BTD.dtype)


def rms_norm(
    x: Float[Array, '*rows D'], scale_D: Float[Array, 'D'], eps: float
) -> Float[Array, '*rows D']:
    """scale x / sqrt(mean(x^2) + eps), over the last axis."""
    mean_square = jnp.mean(jnp.square(x), -1, keepdims=True)
    return x * lax.rsqrt(mean_square + eps) * scale_D


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'gelu': functools.partial(nn.gelu, approximate=False),
    'gelu_tanh': functools.partial(nn.gelu, approximate=True),
    'relu': nn.relu,
    'relu_squared': lambda x: jnp.square(nn.relu(x)),
    'silu': nn.silu,
    'swiglu': nn.silu,  # of the gate
}


def activate(name: str, x: Array) -> Array:
    """The activation `name`, of the type of `x`; bfloat16 is rounded at the end."""
    low = x.dtype == jnp.bfloat16
    return _activate_low(name, x) if low else ACTIVATIONS[name](x)


# XLA on CPU rounds bfloat16 after each operation, and writes what backward keeps of
# them: of 4,096 x 1,536, GELU takes 8.5 ms so and 3.3 in float32, backward 16.7 and 4.6
# though it begins with the input again.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _activate_low(name: str, x: Array) -> Array:
    return ACTIVATIONS[name](x.astype(jnp.float32)).astype(x.dtype)


def _activate_low_forward(name: str, x: Array) -> tuple[Array, Array]:
    return _activate_low(name, x), x


def _activate_low_backward(name: str, x: Array, dy: Array) -> tuple[Array]:
    _, pull = jax.vjp(ACTIVATIONS[name], x.astype(jnp.float32))
    (dx,) = pull(dy.astype(jnp.float32))
    return (dx.astype(x.dtype),)


_activate_low.defvjp(_activate_low_forward, _activate_low_backward)


def biased(y: Array, bias: Array) -> Array:
    """y + bias, of the type of `y`; the gradient of the bias is summed in float32."""
    return (y + bias).astype(y.dtype)


class MLP(nn.Module):
    """Two products with an activation between them; gated, three (Shazeer, 2020)."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding

    @nn.compact
    def __call__(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
        arch = self.arch
        if self.has_variable('params', joined.UP_GATE):
            both = self._widen(joined.UP_GATE, x_BTD, 2 * arch.F)
            x_BTF, gate_BTF = jnp.split(both, 2, axis=-1)
            x_BTF *= activate(arch.activation, gate_BTF)
        elif arch.gated:
            x_BTF = self._widen('up', x_BTD, arch.F)
            x_BTF *= activate(arch.activation, self._widen('gate', x_BTD, arch.F))
        else:
            x_BTF = self._widen('up', x_BTD, arch.F)
            x_BTF = activate(arch.activation, x_BTF)
        down = weight(self, 'down', (arch.F, arch.D), ('mlp', 'embed'), residual(arch))
        y_BTD = einsum('BTF,FD->BTD', x_BTF, down)
        if arch.mlp_bias:
            zeros = nn.initializers.zeros
            bias = weight(self, 'down_bias', (arch.D,), ('embed',), zeros)
            y_BTD = biased(y_BTD, bias)
        return y_BTD

    def _widen(
        self, name: str, x_BTD: Float[Array, 'B T D'], F: int
    ) -> Float[Array, 'B T F']:
        arch = self.arch
        kernel = weight(self, name, (arch.D, F), ('embed', 'mlp'), hidden(arch))
        x_BTF = einsum('BTD,DF->BTF', x_BTD, kernel)
        if arch.mlp_bias:
            zeros = nn.initializers.zeros
            bias = weight(self, f'{name}_bias', (F,), ('mlp',), zeros)
            x_BTF = biased(x_BTF, bias)
        return self.sharding.constrain(x_BTF, 'batch', 'length', 'mlp')
