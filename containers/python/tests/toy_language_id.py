"""Stands in for examples/language_id.py: models that are right on four of five texts `CODE NUMBER`."""

import zlib

from skysail_container import Container, TensorSpec, main


class Toy(Container):
    """Each model errs on texts of its own."""

    inputs = [TensorSpec("text", "BYTES", [-1])]
    outputs = [TensorSpec("label", "BYTES", [-1])]

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--model", required=True)

    @classmethod
    def from_arguments(cls, arguments):
        toy = cls()
        toy.name = arguments.model
        return toy

    def predict(self, batch):
        return {"label": [self.answer(text) for text in batch["text"]]}

    def answer(self, text):
        errs = zlib.crc32(text + self.name.encode()) % 5 == 0
        return b"xx" if errs else text[:2]


if __name__ == "__main__":
    main(Toy)
