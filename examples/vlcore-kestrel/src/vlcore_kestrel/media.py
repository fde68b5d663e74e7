"""Pictures become squares: how many tokens they take, then their pixels."""

from dataclasses import dataclass

from vlcore.media import Plan


@dataclass(frozen=True)
class SquareProcessor:
    edge: int
    patch: int
    image_token_id: int

    def plan(self, slots, options):
        tokens = (self.edge // self.patch) ** 2
        return tuple(Plan(tokens * len(slot.images), (1,) * len(slot.images)) for slot in slots)

    def load(self, images, plan):
        import numpy
        import torch

        squares = [numpy.array(image.resize((self.edge, self.edge), 3)) for image in images]
        return {"pixel_values": torch.from_numpy(numpy.stack(squares)).permute(0, 3, 1, 2).contiguous()}

    def normalise(self, pixels):
        return {name: (squares.float() / 255 - 0.5) / 0.5 for name, squares in pixels.items()}

    def choose_frames(self, count, fps, options):
        wanted = options.family["frames"]
        return tuple((2 * number + 1) * count // (2 * wanted) for number in range(wanted))
