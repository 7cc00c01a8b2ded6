"""Keys and values of prompts that were read already, for prompts that begin alike.

A trie for each model: a node is a block of tokens after those of its parent. Invariants: only what
was computed as a prompt is kept, block by block (``runner.py`` cuts prompts at the same places), so
a prompt that finds its beginning here has the bits of one that computes it. A node is never dropped
before its children: whoever is used is newer than what follows it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sintonia.generation.base import ModelRef
from sintonia.generation.engines.native.cache import BLOCK_TOKENS, Block

Tokens = tuple[int, ...]


@dataclass(eq=False)
class _Node:
    """A block, and what came after it."""

    block: Block
    parent: _Node | None
    tokens: Tokens
    children: dict[Tokens, _Node] = field(default_factory=dict)


class Prefixes:
    """The blocks of one engine. Used by the engine's thread alone."""

    def __init__(self) -> None:
        self._roots: dict[ModelRef, dict[Tokens, _Node]] = {}
        self._nodes: OrderedDict[_Node, ModelRef] = OrderedDict()
        """All nodes, the least recently used first."""
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What all blocks take."""
        return self._size_bytes

    def find(self, model: ModelRef, prompt_ids: Sequence[int]) -> list[Block]:
        """Return the first blocks of a prompt, as far as they are here; its last token never is.

        That token's logits are wanted, so it has to be computed.
        """
        path = list(self._path(model, prompt_ids[:-1]))
        self._touch(path)
        return [node.block for node in path]

    def add(self, model: ModelRef, prompt_ids: Sequence[int], place: int, block: Block) -> None:
        """Keep block number ``place`` of a prompt; not if those before it are gone."""
        path = list(self._path(model, prompt_ids[: place * BLOCK_TOKENS]))
        if len(path) < place:
            return
        siblings = path[-1].children if path else self._roots.setdefault(model, {})
        tokens = tuple(prompt_ids[place * BLOCK_TOKENS : (place + 1) * BLOCK_TOKENS])
        if tokens not in siblings:
            node = _Node(block, path[-1] if path else None, tokens)
            siblings[tokens] = node
            self._nodes[node] = model
            self._size_bytes += block.size_bytes
        self._touch([*path, siblings[tokens]])

    def shrink_to(self, size_bytes: int) -> None:
        """Drop what was least recently used until the rest takes no more than ``size_bytes``."""
        while self._nodes and self._size_bytes > size_bytes:
            self._drop(next(iter(self._nodes)))

    def forget(self, sha256: str) -> None:
        """Drop all blocks of a base or an adapter."""
        gone = [r for r in self._roots if sha256 in (r.base_sha256, r.adapter_sha256)]
        for node in [node for node, model in self._nodes.items() if model in gone]:
            self._drop(node)

    def _path(self, model: ModelRef, token_ids: Sequence[int]) -> Iterator[_Node]:
        children = self._roots.get(model, {})
        for start in range(0, len(token_ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            node = children.get(tuple(token_ids[start : start + BLOCK_TOKENS]))
            if node is None:
                return
            yield node
            children = node.children

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node)

    def _drop(self, node: _Node) -> None:
        model = self._nodes.pop(node)
        siblings = self._roots[model] if node.parent is None else node.parent.children
        del siblings[node.tokens]
        if node.parent is None and not siblings:
            del self._roots[model]
        self._size_bytes -= node.block.size_bytes
