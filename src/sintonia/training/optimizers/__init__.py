"""How weights follow their gradients: each optimizer is one small file, the folder the registry.

A member is a module with ``build(parameters, settings)``, which returns torch's optimizers over
these named parameters, each parameter in one of them. Their state is tensors alone, and a step
is a pure function of state and gradients, so that a resumed run repeats an uninterrupted one.
"""
