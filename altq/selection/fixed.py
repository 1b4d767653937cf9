"""The fixed selection: one kind everywhere."""

from altq.selection.selection import Layer, Selection


def fixed_selection(model: str, num_blocks: int, kind: str) -> Selection:
    """One `kind` at every sublayer; the policy is named after the kind. ValueError for an unknown kind."""
    layers = tuple(Layer(sublayer, kind, reason=f"{kind} everywhere") for sublayer in range(2 * num_blocks))
    return Selection(policy=kind, model=model, num_blocks=num_blocks, layers=layers)
