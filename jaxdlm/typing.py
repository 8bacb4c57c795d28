"""Array annotations: `Float[Array, "B T D"]`. Without jaxtyping every annotation is a plain `jax.Array`."""

from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int, Int32, Key, UInt32
else:
    try:
        from jaxtyping import Bool, Float, Float32, Int, Int32, Key, UInt32
    except ImportError:

        class _AnyArray:
            def __class_getitem__(cls, _: Any) -> type:
                return Array

        Bool = Float = Float32 = Int = Int32 = Key = UInt32 = _AnyArray

PyTree = Any

__all__ = ["Array", "Bool", "Float", "Float32", "Int", "Int32", "Key", "PyTree", "UInt32"]
