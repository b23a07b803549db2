from browser_node.tokenizer import Tokenizer

class ChunkTable:
    def __init__(
        self, engine: Tokenizer, separator: str, *, each: int, whole: int, special: int
    ) -> None: ...
    def count(self, text: str) -> int: ...
