"""Tensors that do the same work in different layers form a group: one line of a table, one stream of the artifact."""


def group_of(name: str) -> str:
    """A tensor's name with the layer number folded away.

    >>> group_of("layers.3.mlp.up.weight")
    'layers.*.mlp.up.weight'
    >>> group_of("embed.tokens.weight")
    'embed.tokens.weight'
    """
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))
